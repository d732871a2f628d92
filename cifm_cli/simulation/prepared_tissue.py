"""The residents of a simulation, their labels and the edits, before the update rule is fitted.

All that can be wrong with what the user asks for is found here, before the model is adapted to the slide.

Letters: N residents, P genes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from cifm_cli.celltype.annotate import slide_tissue
from cifm_cli.celltype.base import TYPING_SUM
from cifm_cli.celltype.marker_annotator import MarkerAnnotator, fit_marker_annotator
from cifm_cli.celltype.markers import load_markers
from cifm_cli.provenance import numpy_generator
from cifm_cli.simulation.edits.labels import AnnotatorLabels
from cifm_cli.simulation.edits.resolve import EditContext, resolve_edits
from cifm_cli.simulation.tissue import crop_tissue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.simulation.config import SimulateConfig
    from cifm_cli.simulation.edits.labels import CellLabels
    from cifm_cli.simulation.edits.resolve import ResolvedEdit
    from cifm_cli.simulation.tissue import TissueState
    from cifm_cli.simulation.window import Window

# Cells of the slide to which the annotator is fitted, and among which source cells are selected.
MAX_TYPED_CELLS: Final = 50_000


@dataclass(frozen=True)
class PreparedTissue:
    """The residents, their labels, and the edits that were looked up on them."""

    tissue: TissueState  # the N residents before any edit, with P genes
    window: Window  # their rows and their extent on the slide
    annotator: MarkerAnnotator  # assigns cell types before, during and after the simulation
    labels: CellLabels  # of the residents, by which edits name them
    edits: Sequence[ResolvedEdit]  # what the treated arm changes


def prepare_tissue(slide: Slide, columns: NDArray[np.int64], config: SimulateConfig, window: Window) -> PreparedTissue:
    """Fit the annotator, cut out the window and look up the edits.

    Args:
        slide: The slide, at the model's radius.
        columns: (P,) genes of the slide that the model knows.
        config: The settings.
        window: Cells that are simulated.

    Returns:
        The tissue and its edits.

    Raises:
        CifmError: The marker table cannot be read, or an edit cannot be made; see `resolve_edits`.
    """
    rows = np.arange(slide.num_cells)
    if len(rows) > MAX_TYPED_CELLS:
        rows = np.sort(numpy_generator(config.seed, "typer").choice(rows, MAX_TYPED_CELLS, replace=False))
    # Simulated cells have only the genes that the model knows; all cells must be typed by the same genes.
    symbols = [slide.symbols[column] for column in columns]
    expression = slide.expression(rows, TYPING_SUM)[:, columns]
    annotator = fit_marker_annotator(expression, symbols, load_markers(config.markers), tissue=slide_tissue(slide))
    tissue = crop_tissue(slide, window.rows, columns)
    if config.labels:
        labels: CellLabels = config.labels.take(window.rows)
        source_rows: Rows = np.arange(slide.num_cells)
        source_labels: CellLabels = config.labels
    else:
        residents = annotator.annotate(tissue.slide.expression(np.arange(len(window.rows)), TYPING_SUM), symbols)
        labels = AnnotatorLabels(residents, annotator.left_out)
        source_rows, source_labels = rows, AnnotatorLabels(annotator.annotate(expression, symbols), annotator.left_out)
    context = EditContext(slide, columns, tissue, labels, source_rows, source_labels, config.seed)
    return PreparedTissue(tissue, window, annotator, labels, resolve_edits(config.edits, context))
