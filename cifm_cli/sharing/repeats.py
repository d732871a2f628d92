"""Cells that occur in two samples, for instance because a slide was given twice under different names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cifm_cli import provenance

if TYPE_CHECKING:
    from cifm_cli.sharing.cells import Cells

_MIN_FRACTION = 0.01  # of the cells of a sample; single void cells have equal embeddings by right


def repeat_note(cells: Cells) -> list[str]:
    """Warn of samples that have the same embeddings as others.

    Args:
        cells: The cells.

    Returns:
        One warning, or none.
    """
    # Equal rows have equal sums of products; different rows nearly never do.
    direction = provenance.numpy_generator(0, "sharing repeats").normal(size=cells.width)
    keys = np.empty(cells.num_cells)
    for number, part in enumerate(cells.parts):
        for first in range(0, len(part.embedding), 65_536):
            block = part.embedding[first : first + 65_536].astype(np.float64)
            # Summed by row and not as a matrix product, whose rounding depends on the position of the row.
            start = int(cells.bounds[number]) + first
            keys[start : start + len(block)] = (block * direction).sum(axis=1)
    _, group = np.unique(keys, return_inverse=True)
    low = np.full(group.max() + 1, len(cells.samples))
    high = np.full(group.max() + 1, -1)
    np.minimum.at(low, group, cells.codes)
    np.maximum.at(high, group, cells.codes)
    repeated = (low < high)[group]
    share = np.bincount(cells.codes[repeated], minlength=len(cells.samples)) / cells.sizes
    names = [name for name, value in zip(cells.samples, share, strict=True) if value >= _MIN_FRACTION]
    if not names:
        return []
    found = f"{int(repeated.sum()):,} cells of {', '.join(names)}"
    same = f"{found} have exactly the embedding of a cell of another sample"
    return [f"{same}: if the same cells were given twice, they share everything"]
