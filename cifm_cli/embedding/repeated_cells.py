"""Cells that occur twice in a probe: their label is known from the training cells of a fold that holds them out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.data.cell_sketch import MIN_COUNTS_FRACTION, MIN_SAME_COUNTS, recognisable_checksums
from cifm_cli.data.checksums import gene_keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.writers.embedded import EmbeddedSlide

    Rows = NDArray[np.int64]


def repeat_notes(
    slides: Sequence[EmbeddedSlide], rows: Sequence[Rows], splits: Sequence[tuple[Rows, Rows]]
) -> list[str]:
    """Warn about held-out cells that have exactly the counts of a training cell of their fold.

    Args:
        slides: Embedded slides.
        rows: Probed cells of each slide.
        splits: Positions of training cells and held-out cells among the probed cells, for each fold.

    Returns:
        One warning, or none.
    """
    # On the genes that all slides measure, as the same cells may have been prepared with different panels.
    genes = sorted(set.intersection(*(set(slide.gene_ids) for slide in slides)))
    numbers = gene_keys(genes)
    by_slide = []
    for slide, probed in zip(slides, rows, strict=True):
        column = {gene: position for position, gene in enumerate(slide.gene_ids)}
        counts = slide.counts[probed][:, [column[gene] for gene in genes]]
        by_slide.append(recognisable_checksums(counts, numbers))
    checksums = np.concatenate(by_slide)
    num_repeated = sum(
        int((np.isin(checksums[test], checksums[train]) & (checksums[test] > 0)).sum()) for train, test in splits
    )
    num_compared = int((checksums > 0).sum())
    if num_repeated < max(MIN_SAME_COUNTS, MIN_COUNTS_FRACTION * num_compared):
        return []
    note = (
        f"{num_repeated:,} of the {len(checksums):,} probed cells have exactly the counts of a training cell in the fold that "
        "holds them out: the same cells occur twice, and the scores do not show how well the label of new cells is predicted"
    )
    return [note]
