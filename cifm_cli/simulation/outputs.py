"""The folder a simulation leaves: tables, figures, a report, and the tissue before and after."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.sparse import csr_matrix, vstack

from cifm_cli.data.writers.trajectory import write_trajectory
from cifm_cli.report import html
from cifm_cli.simulation import figures, summary
from cifm_cli.simulation.experiment import CONTROL, TREATED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cifm_cli.data.slide import Slide
    from cifm_cli.simulation.experiment import Course, Experiment

RESULT: Final = "simulation.json"
NOTES: Final = """\
The control is the same tissue on the same schedule with the same random numbers, without injected cells. Read the \
difference between the arms, not the change since the start.
Replicates differ in the places and donors of the injected cells and in the schedule. They share one trained model: \
their spread says nothing about how far the model itself can be trusted.
Cells keep their place and their number of counts; none divides, dies or moves, and what lies outside the window does \
not exist. A change of composition is a change of what the model expects to stand at a place.
Types are called by marker genes, with the yardstick fitted on the untouched slide; a cell of no clear type is \
unassigned.""".splitlines()


def write_outputs(
    folder: Path, slide: Slide, experiment: Experiment, courses: Sequence[Course], result: dict[str, Any]
) -> None:
    """Write everything into an existing folder.

    Args:
        folder: Where to.
        slide: The slide that the experiment was cut from.
        experiment: What was run.
        courses: What came of it.
        result: Content of `simulation.json`, with its provenance.
    """
    names = experiment.typer.names
    columns = ("arm", "replicate", "step", "cell_type", "num_cells", "share")
    _write_csv(folder / "composition.csv", columns, summary.composition_rows(courses, names))
    columns = ("arm", "replicate", "from", "to", "num_cells", "share")
    _write_csv(folder / "transitions.csv", columns, summary.transition_rows(courses, names))
    (folder / RESULT).write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf8")
    _write_states(folder / "trajectory.h5ad", slide, experiment, courses, result["provenance"])
    images = figures.draw(experiment, courses, list(result["change"]))
    for name, image in images.items():
        (folder / f"{name}.png").write_bytes(image.content)
    _write_report(folder / "report.html", result, images)


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", encoding="utf8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


def _write_states(
    path: Path, slide: Slide, experiment: Experiment, courses: Sequence[Course], provenance: dict[str, Any]
) -> None:
    """The first replicate: residents, then injected cells, which the control does not have."""
    control, treated = courses[:2]
    tissue = treated.final
    num_injected = tissue.slide.num_cells - tissue.num_residents
    donated = tissue.counts[tissue.num_residents :]
    nobody = csr_matrix(donated.shape, dtype=np.float32)
    injected = np.arange(tissue.slide.num_cells) >= tissue.num_residents

    def types(course: Course, step: int, of_injected: str) -> np.ndarray[Any, Any]:
        resident = np.array(experiment.typer.names, dtype=object)[course.codes[step]]
        return np.concatenate([resident, np.full(num_injected, of_injected, dtype=object)])

    donor_type = experiment.donors.cell_type
    write_trajectory(
        path,
        tissue.slide,
        slide.barcodes(experiment.window.rows).tolist() + [f"injected-{number}" for number in range(num_injected)],
        {
            "injected": injected,
            "type_before": types(treated, 0, donor_type),
            "type_after": types(treated, -1, donor_type),
            "type_after_control": types(control, -1, "absent"),
        },
        {
            "initial": vstack([experiment.tissue.counts, donated], format="csr"),
            CONTROL: vstack([control.final.counts, nobody], format="csr"),
            TREATED: tissue.counts,
        },
        provenance,
    )


def change_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The change of composition as text, for the terminal and the report.

    Args:
        result: Content of `simulation.json`.

    Returns:
        Column names and rows.
    """
    rows = [
        [
            name,
            *(f"{100 * entry[key]:.2f} %" for key in ("before", CONTROL, TREATED)),
            f"{100 * entry['difference']:+.2f}",
        ]
        for name, entry in result["change"].items()
    ]
    columns = ["cell type", "before", CONTROL, TREATED, "difference"]
    if result["settings"]["replicates"] == 1:
        return columns, rows
    spreads = (f"{100 * entry['standard_deviation']:.2f}" for entry in result["change"].values())
    return [*columns, "sd over replicates"], [[*row, spread] for row, spread in zip(rows, spreads, strict=True)]


def _write_report(path: Path, result: dict[str, Any], images: dict[str, html.Image]) -> None:
    settings, injected = result["settings"], result["injected"]
    columns, rows = change_table(result)
    what = (
        f"{injected['count']:,} copies of {injected['cell_type']}s were put at random places among "
        f"{result['window']['num_cells']:,} cells of {result['slide']}; in {settings['steps']} steps every cell was "
        f"masked and inferred anew about {settings['updates_per_cell']:.1f} times. Without injection the composition "
        f"moved by {100 * result['drift']:.1f} % of the cells."
    )
    maps = [images[name] for name in ("map_before", "map_treated", "map_control")]
    sections = [
        html.Section("What changed", what, html.Table(columns, rows), [images["composition"]]),
        html.Section("Maps", "", None, maps),
        html.Section("Transitions", "", None, [images["transitions"], images["transitions_difference"]]),
        html.Section("How to read it", "\n\n".join(result["notes"])),
    ]
    html.write_report(path, f"{result['slide']}: {injected['cell_type']}s injected", sections, result["provenance"])
