"""Which stretch of which slide every tile of training has as its core: a pure function of the seed and the tile's number.

A region's cells lie along a Hilbert curve. Each epoch lays stretches of `tile_cells` cells along it anew, at a random
offset, so that every cell is in one of them, a few in two, and visits them in random order. Nothing is drawn one after
the other: a resumed run, or another number of processes, sees the same tiles.
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


class Stretch(NamedTuple):
    """Consecutive cells of a slide's region: `start` to `stop` of its rows."""

    slide: int
    start: int
    stop: int


class Sampler:
    """Orders the stretches of all slides.

    Args:
        lengths: Cells in the region of each slide.
        recipe: Its `sampling` is `slides`, where each slide is visited as often as another (Eq. 15), or `cells`, where
            each stretch is.
        seed: The user's seed.
    """

    def __init__(self, lengths: Sequence[int], recipe: DataRecipe, seed: int) -> None:
        self.lengths = lengths
        self.size = recipe.tile_cells
        self.seed = seed
        # One more than fit in, so that they cover every cell from any offset that `_place` may draw.
        self.num_stretches = [length // self.size + 1 for length in lengths]
        self._by_cells = recipe.sampling == "cells"
        self._shuffled = lru_cache(maxsize=2 * len(lengths))(self._shuffle)

    def stretch(self, number: int) -> Stretch:
        """The core of a tile.

        Args:
            number: Of the tile, counted from the start of training.

        Returns:
            Where it is.
        """
        return self._among_stretches(number) if self._by_cells else self._among_slides(number)

    def _among_slides(self, number: int) -> Stretch:
        """Visit all slides, then all slides again; each slide has epochs of its own."""
        visit, turn = divmod(number, len(self.lengths))
        slide = int(self._shuffled(len(self.lengths), "slides", visit)[turn])
        epoch, turn = divmod(visit, self.num_stretches[slide])
        return self._place(
            slide, epoch, int(self._shuffled(self.num_stretches[slide], "stretches", slide, epoch)[turn])
        )

    def _among_stretches(self, number: int) -> Stretch:
        """Visit all stretches of all slides, then all again."""
        ends = np.cumsum(self.num_stretches)
        epoch, turn = divmod(number, int(ends[-1]))
        chosen = int(self._shuffled(int(ends[-1]), "corpus", epoch)[turn])
        slide = int(np.searchsorted(ends, chosen, side="right"))
        return self._place(slide, epoch, chosen - int(ends[slide]) + self.num_stretches[slide])

    def _place(self, slide: int, epoch: int, position: int) -> Stretch:
        """Lay the stretches of an epoch, one after the other from a random offset; the outermost stay inside."""
        length = self.lengths[slide]
        slack = self.num_stretches[slide] * self.size - length
        offset = int(numpy_generator(self.seed, "offset", slide, epoch).integers(slack + 1))
        start = min(max(position * self.size - offset, 0), max(length - self.size, 0))
        return Stretch(slide, start, min(start + self.size, length))

    def _shuffle(self, number: int, *stream: int | str) -> NDArray[np.int64]:
        return numpy_generator(self.seed, "order", *stream).permutation(number)
