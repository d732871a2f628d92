"""How new a slide is to a model: by the files that the model was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli import keys
from cifm_cli.report.terminal import warn

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cifm_cli.data.slide import Rows, Slide

IN_SAMPLE, CROSS_SAMPLE, CROSS_PLATFORM = "in-sample", "cross-sample", "cross-platform"
NOBODY: Final[Rows] = np.arange(0)
ZERO_SHOT, FINE_TUNED = "zero-shot", "fine-tuned"


def scenario(
    slide: Slide, digest: str, origin: dict[str, Any], scored: Rows = NOBODY, validating: Sequence[str] = ()
) -> dict[str, Any]:
    """Tell how a slide relates to what a model was trained on.

    Args:
        slide: What is scored.
        digest: SHA-256 of its file.
        origin: Provenance of the model.
        scored: Rows that are scored in any geometry.
        validating: Names of slides that the model's run kept for validation altogether.

    Returns:
        `name`: `in-sample` (trained on this very file: its other regions), `cross-sample` (on other slides of the
        platform) or `cross-platform` (on other platforms); `adaptation`: `fine-tuned` where the run went on from another
        that had not seen this slide or platform, else `zero-shot` for what is not in-sample; what this rests on; and how
        many of the scored cells it was trained on, which is said.
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
    only_validated = not seen_before and {_stem(path) for path, other in own.items() if other == digest} <= set(
        validating
    )
    trained = 0 if only_validated else len(np.intersect1d(scored, slide.region(keys.TRAIN)))
    if trained:
        warn(
            f"slide {slide.name}: the model was trained on {trained:,} of the {len(scored):,} scored cells (region train of "
            "this very file); what it infers of them tells little of cells that it has not seen"
        )
    return {
        "name": name,
        "adaptation": adaptation,
        "trained_cells_scored": trained,
        "platform": platform,
        "trained_on": [_stem(path) for path in own],
        "trained_platforms": sorted(platforms[0]),
        "initialised_from": before.get("run"),
    }


def describe_scenario(found: dict[str, Any]) -> str:
    """What `scenario` returned, in words, for the report."""
    trained_on = ", ".join(found["trained_on"]) or "unknown slides"
    platforms = ", ".join(filter(None, found["trained_platforms"])) or "an unknown platform"
    words = {
        IN_SAMPLE: "this very slide is among those that it was trained on",
        CROSS_SAMPLE: f"trained on other slides, the platform of this one ({found['platform'] or 'unknown'}) among theirs",
        CROSS_PLATFORM: f"trained on other slides, and this one is of another platform ({found['platform'] or 'unknown'})",
    }
    if found["adaptation"] == FINE_TUNED and found["name"] == CROSS_PLATFORM:
        words[CROSS_PLATFORM] = f"it met this platform ({found['platform'] or 'unknown'}) in fine-tuning only"
    kind = ", ".join(filter(None, (found["name"], found["adaptation"])))
    seen = found["trained_cells_scored"]
    warning = f"; {seen:,} of the scored cells are cells that it was trained on" if seen else ""
    return f"{kind}: {words[found['name']]} (trained on {trained_on}; {platforms}){warning}"


def _stem(path: str | Path) -> str:
    return str(path).rpartition("/")[2].removesuffix(".h5ad")
