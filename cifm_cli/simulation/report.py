"""The page of a simulation: the answer and how sure it is, then pictures, then tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from cifm_cli.report.html import Image, Section, write_report
from cifm_cli.response.effect_table import effect_table
from cifm_cli.response.summary import response_table
from cifm_cli.simulation.answer import MIN_STABLE
from cifm_cli.simulation.simulate import change_table, result_notes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd

_MAX_EFFECTS: Final = 40
_MAX_BANDS: Final = 30
_EFFECTS: Final = (
    "The called effects, one row per gene and label, those that are most clearly different from zero first, and those that may be "
    "transcripts of the edited cells last. The mean shift is "
    "the unadjusted difference; where other surroundings explain most of it, it is an association with them. Perhaps "
    "transcripts of the edited cells: a gene that these express much more, of which segmentation may have given transcripts to "
    "their neighbours. All rows are in effects.csv."
)


_NO_EFFECT: Final = (
    "No effect is called: no gene changes near the edits more than chance explains. All estimates are in effects.csv."
)
_BANDS: Final = (
    "Residents: cells of the label at this distance of an edit. Support: cells of the label that have the edited label as near "
    "on the slide as it is, from which the response is learned. Rise, fall: genes that are called. Association: genes whose "
    "difference is mostly explained by other surroundings."
)


def write_simulation_report(
    path: Path, content: Mapping[str, Any], effects: pd.DataFrame, images: Mapping[str, Image]
) -> None:
    """Write the page.

    Args:
        path: The `.html` file.
        content: The content of `simulation.json`.
        effects: The response.
        images: Images from `draw_figures`.

    Raises:
        CifmError: The file cannot be written.
    """
    response, answer = content["response"], content["answer"]
    title = f"Simulation of {content['slide']}"
    doubt = (
        ""
        if content["stability"]["control"] >= MIN_STABLE
        else " (do not interpret: the tissue changes without the edits too)"
    )
    strongest = effect_table(effects, _MAX_EFFECTS)
    sections = [
        _pictures("Which genes respond, and how far", images, "effects_by_distance"),
        _pictures("The tissue", images, "animation", "map_before", "map_treated", "map_control", "map_difference"),
        _pictures(f"Composition{doubt}", images, "change", "composition"),
        _pictures(f"Transitions{doubt}", images, "transitions", "transitions_difference"),
        Section("Strongest effects", _EFFECTS if strongest.rows else _NO_EFFECT, strongest if strongest.rows else None),
        Section("Response by label and distance", _BANDS, response_table(dict(response), _MAX_BANDS)),
        Section(f"Composition by type{doubt}", _setting(content), change_table(dict(content))),
        Section("Interpretation", "\n\n".join(content["notes"])),
    ]
    shown = [
        section
        for section in sections
        if section.images or (section.table.rows if section.table is not None else section.text)
    ]
    remarks = [*answer["trust"], *response["notes"]]
    sentence = f"{answer['sentence'][:1].upper()}{answer['sentence'][1:]}."
    write_report(path, title, shown, content["provenance"], answer=sentence, remarks=remarks)


def _pictures(heading: str, images: Mapping[str, Image], *names: str) -> Section:
    """A section with those of the images that there are."""
    return Section(heading, images=[images[name] for name in names if name in images])


def _setting(content: Mapping[str, Any]) -> str:
    settings = content["settings"]
    setting = (
        f"{content['window']['num_cells']:,} cells of {content['slide']}, {settings['steps']} steps, dynamics "
        f"{settings['dynamics']}; every cell was updated about {settings['updates_per_cell']:.1f} times."
    )
    return "\n\n".join([setting, *(f"{note[:1].upper()}{note[1:]}." for note in result_notes(dict(content)))])
