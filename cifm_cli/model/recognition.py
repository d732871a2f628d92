"""Recognition of cells that a model was trained on, in any file and under any name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cifm_cli import keys
from cifm_cli.data.cell_sketch import CellChecksums, match_cells, place_checksums, recognisable_checksums
from cifm_cli.data.checksums import gene_keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cifm_cli.data.cell_sketch import CellSketch, SeenCells
    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.model.checkpoint import Checkpoint

MAX_COMPARED = 20_000  # cells that are looked for


def is_new(slide: Slide, rows: Rows, checkpoint: Checkpoint) -> bool:
    """Whether a model was trained on none of some cells.

    Args:
        slide: The slide.
        rows: Ascending rows of the cells, of which evenly spaced ones are looked for.
        checkpoint: The model.

    Returns:
        False also for a model that does not record what it was trained on.
    """
    if not checkpoint.sketches:
        return False
    trained = [sketch for sketch in checkpoint.sketches if sketch.use == keys.TRAIN]
    compared = rows[:: max(1, -(-len(rows) // MAX_COMPARED))]
    return not find_seen(slide, compared, trained, checkpoint.vocabulary)


def find_seen(
    slide: Slide, rows: Rows, sketches: Sequence[CellSketch], vocabulary: Sequence[str]
) -> list[tuple[CellSketch, SeenCells]]:
    """Find the sketches that contain cells of a slide.

    Args:
        slide: The slide.
        rows: Ascending rows of the cells to look for.
        sketches: Sketches of cells that a model has seen.
        vocabulary: Ensembl ids of the genes of the model.

    Returns:
        Sketches that contain more of the cells than chance explains, and how many of them.
    """
    counts, places = slide.counts(rows), place_checksums(slide.xy_um)[rows]
    position = {gene: row for row, gene in enumerate(vocabulary)}
    in_vocabulary = np.array([position.get(gene, -1) for gene in slide.gene_ids])
    by_panel: dict[bytes, CellChecksums] = {}
    found = []
    for sketch in sketches:
        # The checksum of a training cell is that of the genes that its slide measures and the model knows.
        columns = np.flatnonzero((in_vocabulary >= 0) & sketch.is_measured[in_vocabulary])
        panel = columns.tobytes()
        if panel not in by_panel:
            gene_numbers = gene_keys([slide.gene_ids[column] for column in columns])
            by_panel[panel] = CellChecksums(recognisable_checksums(counts[:, columns], gene_numbers), places)
        seen = match_cells(by_panel[panel], sketch)
        if seen.is_significant:
            found.append((sketch, seen))
    return found
