"""Which cells are the core of each training tile: a pure function of the seed and the number of the tile.

The cells of a region lie along a Hilbert curve. Each epoch cuts the curve anew into ranges of `tile_cells` cells, from
a random offset, so that every cell is in one range and a few are in two, and visits the ranges in random order. No draw
depends on an earlier one: a resumed run, or another number of processes, makes the same tiles.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.recipe_sections import DataRecipe


class CellRange(NamedTuple):
    """Consecutive cells of the training region of a slide."""

    slide: int  # number of the slide
    start: int  # first row of the region
    stop: int  # row after the last one


class Sampler:
    """Orders the ranges of all slides at random, epoch by epoch.

    Args:
        lengths: Number of cells in the training region of each slide.
        recipe: Its `sampling` is `slides`, where every slide is visited equally often (Eq. 15), or `cells`, where every
            range is.
        seed: Seed of all offsets and orders.
    """

    def __init__(self, lengths: Sequence[int], recipe: DataRecipe, seed: int) -> None:
        self.lengths = lengths
        self.size = recipe.tile_cells
        self.seed = seed
        # One range more than fits into the region, so that the ranges cover every cell whatever the offset.
        self.num_ranges = [length // self.size + 1 for length in lengths]
        self._by_cells = recipe.sampling == "cells"
        # The same order is used for many tiles in a row.
        self._cached_order = lru_cache(maxsize=2 * len(lengths))(self._order)

    def cell_range(self, number: int) -> CellRange:
        """The core of a tile.

        Args:
            number: Number of the tile since the start of training.

        Returns:
            Its slide and its cells.
        """
        return self._in_order_of_ranges(number) if self._by_cells else self._in_order_of_slides(number)

    def _in_order_of_slides(self, number: int) -> CellRange:
        """Visit every slide once, then every slide again. Each slide has epochs of its own."""
        visit, turn = divmod(number, len(self.lengths))
        slide = int(self._cached_order(len(self.lengths), "slides", visit)[turn])
        epoch, turn = divmod(visit, self.num_ranges[slide])
        order = self._cached_order(self.num_ranges[slide], "stretches", slide, epoch)
        return self._range(slide, epoch, int(order[turn]))

    def _in_order_of_ranges(self, number: int) -> CellRange:
        """Visit every range of every slide once, then all again."""
        ends = np.cumsum(self.num_ranges)
        epoch, turn = divmod(number, int(ends[-1]))
        chosen = int(self._cached_order(int(ends[-1]), "corpus", epoch)[turn])
        # Ranges are numbered slide after slide; `ends[s]` is one past the last range of slide s.
        slide = int(np.searchsorted(ends, chosen, side="right"))
        return self._range(slide, epoch, chosen - int(ends[slide]) + self.num_ranges[slide])

    def _range(self, slide: int, epoch: int, position: int) -> CellRange:
        """The range at a position along the curve. The first and the last one are moved inside the region."""
        length = self.lengths[slide]
        slack = self.num_ranges[slide] * self.size - length
        # The offset changes with the epoch: a cell at the border of a tile is in the middle of another one later.
        offset = int(numpy_generator(self.seed, "offset", slide, epoch).integers(slack + 1))
        start = min(max(position * self.size - offset, 0), max(length - self.size, 0))
        return CellRange(slide, start, min(start + self.size, length))

    def _order(self, number: int, *stream: int | str) -> NDArray[np.int64]:
        """A random order of the numbers below `number`."""
        return numpy_generator(self.seed, "order", *stream).permutation(number)
