"""Recognition of cells that a model was trained on, in any file and under any name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from cifm_cli import keys
from cifm_cli.data.cell_sketch import CellChecksums, match_cells, place_checksums, recognisable_checksums
from cifm_cli.data.checksums import gene_keys
from cifm_cli.model.vocabulary import match_panel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.cell_sketch import CellSketch, SeenCells
    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.model.checkpoint import Checkpoint
    from cifm_cli.model.slide_parameters import SlideParameters

MAX_COMPARED = 20_000  # cells that are looked for
MIN_KNOWN = 0.3  # part of the cells that was trained on, from which a slide has the states and weights of its training


def is_new(slide: Slide, rows: Rows, checkpoint: Checkpoint) -> bool:
    """Whether a model was trained on none of some cells.

    Args:
        slide: The slide.
        rows: Ascending rows of the cells, of which evenly spaced ones are looked for.
        checkpoint: The model.

    Returns:
        False also for a model that does not record what it was trained on.
    """
    return bool(checkpoint.sketches) and not _find_trained(slide, rows, checkpoint)


def trained_fraction(slide: Slide, rows: Rows, checkpoint: Checkpoint) -> float:
    """Estimate the fraction of some cells that a model was trained on, in one of its slides.

    Args:
        slide: The slide.
        rows: Ascending rows of the cells, of which evenly spaced ones are looked for.
        checkpoint: The model.

    Returns:
        The fraction; 0 for a model that does not record what it was trained on.
    """
    return max((seen.fraction for _, seen in _find_trained(slide, rows, checkpoint)), default=0.0)


def trained_states(slide: Slide, rows: Rows, checkpoint: Checkpoint) -> NDArray[np.float32] | None:
    """Find the cell states with which a model was trained on some cells.

    The network knows them: it infers their probabilities better than those of other states of the same slide.

    Args:
        slide: The slide.
        rows: Ascending rows of the cells, of which evenly spaced ones are looked for.
        checkpoint: The model, which knows all genes of the slide.

    Returns:
        (K, P) mean expression of the states, for the genes of the slide that the model knows, in the order of the slide;
        None for a slide that is new, or measures other genes than in training.
    """
    found = [pair for pair in _find_trained(slide, rows, checkpoint) if pair[0].states is not None]
    sketch, seen = max(found, key=lambda pair: pair[1].fraction, default=(None, None))
    if sketch is None or seen is None or sketch.states is None or seen.fraction < MIN_KNOWN:
        return None
    # Position of each gene of the vocabulary among those that were measured in training.
    position = np.cumsum(sketch.is_measured) - 1
    genes = match_panel(slide, checkpoint.vocabulary).vocabulary_rows
    return sketch.states[:, position[genes]] if sketch.is_measured[genes].all() else None


def trained_weights(slide: Slide, rows: Rows, checkpoint: Checkpoint) -> SlideParameters | None:
    """Find the weights of the smoother with which a network was trained, if some cells are of its only training slide.

    The network corrects the smoother with these weights, and adds its corrections to wrong ones with any others.

    Args:
        slide: The slide.
        rows: Ascending rows of the cells, of which evenly spaced ones are looked for.
        checkpoint: The model, which knows all genes of the slide.

    Returns:
        Parameters with these weights, for the genes of the slide that the model knows, in the order of the slide; None for a
        slide that is new, one of several, or measures other genes than in training.
    """
    pooled = checkpoint.network.pooled  # of several slides together they are those of none
    own = [sketch for sketch in checkpoint.sketches if sketch.use == keys.TRAIN and not sketch.run]
    found = [seen for sketch, seen in _find_trained(slide, rows, checkpoint) if len(own) == 1 and sketch is own[0]]
    if pooled is None or not found or found[0].fraction < MIN_KNOWN:
        return None
    genes = match_panel(slide, checkpoint.vocabulary).vocabulary_rows
    known = own[0].is_measured[genes].all()
    return pooled.parameters_of(torch.from_numpy(genes)).to(torch.device("cpu")) if known else None


def _find_trained(slide: Slide, rows: Rows, checkpoint: Checkpoint) -> list[tuple[CellSketch, SeenCells]]:
    """Sketches of training cells that contain some of the cells."""
    trained = [sketch for sketch in checkpoint.sketches if sketch.use == keys.TRAIN]
    compared = rows[:: max(1, -(-len(rows) // MAX_COMPARED))]
    return find_seen(slide, compared, trained, checkpoint.vocabulary)


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
