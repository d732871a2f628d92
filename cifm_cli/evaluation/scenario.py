"""How new a slide is to a model: by the files that the model was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cifm_cli import keys
from cifm_cli.report.terminal import warn

if TYPE_CHECKING:
    from pathlib import Path

    from cifm_cli.data.slide import Slide

IN_SAMPLE, CROSS_SAMPLE, CROSS_PLATFORM = "in-sample", "cross-sample", "cross-platform"
ZERO_SHOT, FINE_TUNED = "zero-shot", "fine-tuned"


def scenario(slide: Slide, digest: str, origin: dict[str, Any]) -> dict[str, Any]:
    """Tell how a slide relates to what a model was trained on.

    Args:
        slide: What is scored.
        digest: SHA-256 of its file.
        origin: Provenance of the model.

    Returns:
        `name`: `in-sample` (trained on this very file: its other regions), `cross-sample` (on other slides of the
        platform) or `cross-platform` (on other platforms); `adaptation`: `fine-tuned` where the run went on from another
        that had not seen this slide or platform, else `zero-shot` for what is not in-sample; what this rests on.
    """
    before: dict[str, Any] = origin.get("init") or {}
    own, earlier = (dict(part.get("inputs", {})) for part in (origin, before))
    platform = (slide.facts or {}).get(keys.PLATFORM)
    platforms = [set(part.get("platforms", [])) for part in (origin, before)]
    seen, seen_before = digest in own.values(), digest in earlier.values()
    if not seen and slide.path and slide.path.stem in {name.rpartition("/")[2].removesuffix(".h5ad") for name in own}:
        warn(
            f"slide {slide.name}: the model was trained on another file of this name; if it is the same tissue split "
            "in another way, cells that are scored here may have been trained on"
        )
    if seen or seen_before:
        name, new_to_init = IN_SAMPLE, bool(before) and not seen_before
    elif platform in platforms[0] | platforms[1] or not platforms[0]:
        name, new_to_init = CROSS_SAMPLE, bool(platforms[1]) and platform not in platforms[1]
    else:
        name, new_to_init = CROSS_PLATFORM, False
    adaptation = FINE_TUNED if new_to_init else None if name == IN_SAMPLE else ZERO_SHOT
    if name == CROSS_SAMPLE and adaptation == FINE_TUNED:
        name = CROSS_PLATFORM  # it began on another platform and met this one in fine-tuning
    return {
        "name": name,
        "adaptation": adaptation,
        "platform": platform,
        "trained_on": [_stem(path) for path in own],
        "trained_platforms": sorted(platforms[0]),
        "initialised_from": before.get("run"),
    }


def _stem(path: str | Path) -> str:
    return str(path).rpartition("/")[2].removesuffix(".h5ad")
