"""The cells of several slides as one sequence, and the sample of them to which an analysis is fitted.

Letters: S slides, N cells of all slides, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from cifm_cli import provenance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Rows = NDArray[np.int64]


@dataclass(frozen=True)
class JointCells:
    """Embeddings of the cells of several slides, one slide after the other."""

    names: Sequence[str]  # S names of the slides
    embeddings: Sequence[NDArray[np.float32]]  # S matrices of D columns, in memory or mapped from files

    @cached_property
    def offsets(self) -> Rows:
        """(S + 1,) row of the first cell of each slide, and N."""
        return np.concatenate([[0], np.cumsum([len(matrix) for matrix in self.embeddings])]).astype(np.int64)

    @property
    def num_cells(self) -> int:
        """N."""
        return int(self.offsets[-1])

    def rows_of(self, slide: int) -> slice:
        """Rows of the cells of a slide, by its position."""
        return slice(int(self.offsets[slide]), int(self.offsets[slide + 1]))

    def read(self, rows: Rows) -> NDArray[np.float32]:
        """Read embeddings.

        Args:
            rows: (n,) ascending rows.

        Returns:
            (n, D).
        """
        ends = np.searchsorted(rows, self.offsets)
        parts = [
            matrix[rows[first:last] - offset]
            for matrix, first, last, offset in zip(self.embeddings, ends[:-1], ends[1:], self.offsets[:-1], strict=True)
        ]
        return np.concatenate(parts).astype(np.float32, copy=False)

    def slide_numbers(self) -> NDArray[np.int32]:
        """(N,) position of the slide of each cell."""
        return np.repeat(np.arange(len(self.names), dtype=np.int32), np.diff(self.offsets))

    def sample(self, size: int, seed: int) -> Rows:
        """Draw cells without replacement.

        Args:
            size: Largest number of cells.
            seed: Seed of the draw.

        Returns:
            Ascending rows; all N if there are no more than `size`.
        """
        if self.num_cells <= size:
            return np.arange(self.num_cells)
        generator = provenance.numpy_generator(seed, "analysed cells")
        return np.sort(generator.choice(self.num_cells, size, replace=False))
