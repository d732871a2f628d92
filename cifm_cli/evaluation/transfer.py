"""Transfer: how a slide relates to the slides that a model was trained on.

`in-sample`: the model was trained on other regions of the same file. `cross-sample`: on other slides of the platform.
`cross-platform`: on other platforms only.

A model is used on a slide that it was not trained on as it is (`zero-shot`), after adaptation to the visible cells of the slide
(`adapted`), or after its training was continued on the slide or its platform (`fine-tuned`). The last two can be combined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from cifm_cli import keys
from cifm_cli.model.trained_regions import regions_of_file
from cifm_cli.path_text import file_name
from cifm_cli.recipe_sections import DataRecipe

if TYPE_CHECKING:
    from pathlib import Path

    from cifm_cli.data.slide import Rows, Slide

IN_SAMPLE, CROSS_SAMPLE, CROSS_PLATFORM = "in-sample", "cross-sample", "cross-platform"
ZERO_SHOT, ADAPTED, FINE_TUNED = "zero-shot", "adapted", "fine-tuned"
NO_ADAPTATION = "none"  # of `EvaluateConfig.adapt`
NO_ROWS: Final[Rows] = np.arange(0)
DEFAULT_DATA: Final = DataRecipe()


class Transfer(NamedTuple):
    """The relation of a slide to a model."""

    # for `metrics.json`: `name`; `adaptation`, `fine-tuned` where the run continued another run that had not seen this
    # slide or platform, `adapted` where the model was adapted to the slide, or `fine-tuned, adapted`; without either,
    # `zero-shot` for a slide that is not in-sample; what both follow from; and the number of scored cells that the model
    # was trained on
    facts: dict[str, Any]
    notes: list[str]  # warnings for the user
    trained_rows: Rows = NO_ROWS  # the scored rows that the model was trained on, as far as this follows from the files
    same_file: frozenset[str] = frozenset()  # names of the slides of the run, or of runs before it, with the same file


def transfer(
    slide: Slide,
    digest: str | None,
    provenance: dict[str, Any],
    scored: Rows = NO_ROWS,
    data: DataRecipe = DEFAULT_DATA,
    adapt: str = NO_ADAPTATION,
) -> Transfer:
    """Find out how a slide relates to the training slides of a model, by their content.

    Args:
        slide: The slide that is scored.
        digest: SHA-256 of its file; None for a slide that has no file.
        provenance: Of the model.
        scored: Rows that are scored in any geometry.
        data: Section of the model's recipe, which says what its run was trained on.
        adapt: How the model is adapted to the slide, as in `EvaluateConfig`.

    Returns:
        The relation.
    """
    initial: dict[str, Any] = provenance.get("init") or {}
    own, earlier = (dict(run.get("inputs", {})) for run in (provenance, initial))
    # Training slides are recognised by content: files are renamed, and two slides can have the same name.
    platform = (slide.facts or {}).get(keys.PLATFORM)
    platforms, initial_platforms = (set(run.get("platforms", [])) for run in (provenance, initial))
    seen, seen_before = digest in own.values(), digest in earlier.values()
    notes = []
    if not seen and slide.path and file_name(slide.path) in {_stem(path) for path in own}:
        notes.append(
            f"slide {slide.name}: the model was trained on another file of this name; if it is the same tissue split "
            "in another way, cells that are scored here may have been trained on"
        )
    if seen or seen_before:
        name, fine_tuned = IN_SAMPLE, bool(initial) and not seen_before
    else:
        name, fine_tuned = _relate_platform(platform, platforms, initial_platforms)
    trained_rows = np.intersect1d(scored, slide.regions(regions_of_file(provenance, data, digest)))
    num_trained = len(trained_rows)
    if num_trained:
        regions = [keys.REGIONS[number] for number in np.unique(slide.split[trained_rows])]
        where = ("regions " if len(regions) > 1 else "region ") + ", ".join(regions)
        notes.append(
            f"slide {slide.name}: the model was trained on {num_trained:,} of the {len(scored):,} scored cells ({where} "
            "of this very file); predictions of these cells do not show how well it predicts new ones"
        )
    facts = {
        "name": name,
        "adaptation": _name_adaptation(name, adapt, fine_tuned=fine_tuned),
        "trained_cells_scored": num_trained,
        "platform": platform,
        "trained_on": [_stem(path) for path in own],
        "trained_platforms": sorted(platforms),
        "initialised_from": initial.get("run"),
    }
    same_file = frozenset(_stem(path) for path, other in (earlier | own).items() if other == digest)
    return Transfer(facts, notes, trained_rows, same_file)


def describe_transfer(facts: dict[str, Any]) -> str:
    """The relation of a slide to a model as one sentence without a full stop, for the report."""
    trained_on = ", ".join(facts["trained_on"]) or "unknown slides"
    platforms = ", ".join(filter(None, facts["trained_platforms"])) or "an unknown platform"
    platform = facts["platform"] or "unknown"
    num_trained = facts["trained_cells_scored"]
    words = {
        IN_SAMPLE: f"the model was trained on {'regions' if num_trained else 'other regions'} of this slide",
        CROSS_SAMPLE: f"the model was trained on other slides, some of them of the same platform ({platform})",
        CROSS_PLATFORM: f"the model was trained on slides of other platforms than this one ({platform})",
    }
    changes = (facts["adaptation"] or "").split(", ")
    if FINE_TUNED in changes and facts["name"] == CROSS_PLATFORM:
        words[CROSS_PLATFORM] = f"this platform ({platform}) was part of fine-tuning only"
    kind = ", ".join(filter(None, (facts["name"], facts["adaptation"])))
    adapted = ", and adapted to the visible cells of this slide" if ADAPTED in changes else ""
    warning = f"; {num_trained:,} of the scored cells were training cells of the model" if num_trained else ""
    return f"{kind}: {words[facts['name']]} (trained on {trained_on}; {platforms}){adapted}{warning}"


def _relate_platform(platform: str | None, platforms: set[str], initial_platforms: set[str]) -> tuple[str, bool]:
    """The relation of a slide that was not trained on, and whether its platform was part of fine-tuning only."""
    if platform not in platforms | initial_platforms and platforms:
        return CROSS_PLATFORM, False
    if initial_platforms and platform not in initial_platforms:
        return CROSS_PLATFORM, True  # pretrained on another platform
    return CROSS_SAMPLE, False


def _name_adaptation(name: str, adapt: str, *, fine_tuned: bool) -> str | None:
    """What was done to use a model on a slide; None for a slide on which it was trained from the start."""
    steps = {FINE_TUNED: fine_tuned, ADAPTED: adapt != NO_ADAPTATION}
    return ", ".join(step for step, done in steps.items() if done) or (None if name == IN_SAMPLE else ZERO_SHOT)


def _stem(path: str | Path) -> str:
    return str(path).rpartition("/")[2].removesuffix(".h5ad")
