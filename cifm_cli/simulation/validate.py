"""`cifm simulate --validate`: what may be believed of the response on a slide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli.celltype.annotate import slide_tissue
from cifm_cli.celltype.base import TYPING_SUM, UNASSIGNED
from cifm_cli.celltype.marker_annotator import fit_marker_annotator
from cifm_cli.celltype.markers import load_markers
from cifm_cli.data.tiles import chunks
from cifm_cli.provenance import numpy_generator
from cifm_cli.response.surroundings import NO_LABEL, LabelledCells
from cifm_cli.response.validation import validate_response
from cifm_cli.response.validation_report import write_validation_report
from cifm_cli.response.validation_tables import validation_tables
from cifm_cli.simulation.prepared_tissue import MAX_TYPED_CELLS
from cifm_cli.workspace import atomic_files, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Slide
    from cifm_cli.simulation.edits.labels import ColumnLabels

RESULT: Final = "validation.json"
REPORT: Final = "report.html"


def validate(slide: Slide, labels: ColumnLabels | None, markers: Path | None, seed: int) -> dict[str, Any]:
    """Validate the response on the real cells of a slide and on planted tissues.

    Args:
        slide: The slide.
        labels: Labels of its cells; None for the types of the annotator.
        markers: Table of marker genes that extends the packaged one.
        seed: Seed of all samples.

    Returns:
        See `validate_response`.

    Raises:
        CifmError: The marker table cannot be read.
    """
    names = _annotate(slide, markers, seed) if labels is None else labels.labels
    known = tuple(sorted({name for name in names if name not in {None, UNASSIGNED}}))
    number = {name: code for code, name in enumerate(known)}
    codes = np.array([number.get(name, NO_LABEL) for name in names], dtype=np.int64)
    return validate_response(slide, LabelledCells(slide.xy_um, codes, known), seed)


def write_validation(out: Path, facts: dict[str, Any]) -> None:
    """Write `validation.json`, the page and the tables into a folder, whose other files are left alone.

    Args:
        out: The folder.
        facts: Dictionary from `validate`, with `provenance`.

    Raises:
        CifmError: The folder cannot be written.
    """
    with atomic_files(out, RESULT) as new:
        write_json(new / RESULT, facts)
        for name, table in validation_tables(facts).items():
            # The line end is fixed: pandas would use that of the system.
            table.to_csv(new / f"{name}.csv", index=False, lineterminator="\n", float_format="%.6g")
        write_validation_report(new / REPORT, facts)


def _annotate(slide: Slide, markers: Path | None, seed: int) -> NDArray[Any]:
    """(N,) types of all cells."""
    rows = np.arange(slide.num_cells)
    if len(rows) > MAX_TYPED_CELLS:
        rows = np.sort(numpy_generator(seed, "typer").choice(rows, MAX_TYPED_CELLS, replace=False))
    expression = slide.expression(rows, TYPING_SUM)
    annotator = fit_marker_annotator(expression, slide.symbols, load_markers(markers), tissue=slide_tissue(slide))
    parts = [
        annotator.annotate(slide.expression(part, TYPING_SUM), slide.symbols).labels
        for part in chunks(np.arange(slide.num_cells), MAX_TYPED_CELLS)
    ]
    return np.concatenate(parts)
