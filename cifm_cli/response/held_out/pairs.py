"""Held-out neighbours: all cells of a label in a square are hidden and inferred from the other cells around them.

The inferred expression of the hidden cells, relative to cells of their label elsewhere, is compared with the real one. No
cell of the label serves as a neighbour, so that nothing is copied from cells of its own kind. The inference is a regression on
the composition and the expression of the neighbours. It is not the regression on distances of `label_regression.py`, which
gives the effects of an edit, and it does not use the network: it measures what surroundings tell of a label here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli.provenance import numpy_generator
from cifm_cli.response.held_out.log_changes import TOP_GENES
from cifm_cli.response.held_out.neighbourhoods import cells_of_others, describe
from cifm_cli.response.held_out.predictors import HiddenRegion, compare
from cifm_cli.response.held_out.regions import Grid
from cifm_cli.response.held_out.slide_ridge import SlideRidge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Slide
    from cifm_cli.response.surroundings import LabelledCells

    Numbers = NDArray[np.float64]

REGION_RADII: Final = 20.0  # side of a square, in radii of the graph
MARGIN_RADII: Final = 5.0  # cells so near to a square are neither hidden nor fitted to
MIN_HIDDEN: Final = 30  # cells of the label in a square
MIN_ELSEWHERE: Final = 200  # and outside of it
MAX_REGIONS: Final = 6  # squares per label, those with most cells
MAX_CELLS: Final = 3_000  # of a label, among which cells are hidden
MAX_FITTED: Final = 8_000  # of a label, with those


def held_out_neighbours(slide: Slide, cells: LabelledCells, seed: int, labels: tuple[int, ...]) -> list[dict[str, Any]]:
    """Hide the cells of each label in several squares and infer them.

    Args:
        slide: The slide.
        cells: Its cells with their labels.
        seed: Seed of the samples.
        labels: Codes of the labels.

    Returns:
        One entry per label and square: `label`, `centre_um`, `num_hidden`, and for each of `PREDICTORS` `pearson`,
        `signed_precision` and `energy_distance`; columns of the compared `genes`, and whether the `sign_is_right`.
    """
    grid = Grid(slide.xy_um.min(axis=0), REGION_RADII * slide.radius_um)
    ridges = _Ridges(slide, grid, seed)
    return [entry for code in labels for entry in _of_label(slide, cells, seed, code, ridges)]


def _of_label(slide: Slide, cells: LabelledCells, seed: int, code: int, ridges: _Ridges) -> Iterator[dict[str, Any]]:
    """One entry for each square in which the cells of a label are hidden."""
    generator = numpy_generator(seed, "held-out", cells.names[code])
    rows = cells.of(code)
    rows = rows[slide.total_counts[rows] > 0]
    if len(rows) < MIN_ELSEWHERE + MIN_HIDDEN:
        return
    order = generator.permutation(rows)
    sample, rows = np.sort(order[:MAX_CELLS]), np.sort(order[:MAX_FITTED])
    squares, sizes = np.unique(ridges.square_of_cell[sample], axis=0, return_counts=True)
    largest = [number for number in np.argsort(-sizes, kind="stable")[:MAX_REGIONS] if sizes[number] >= MIN_HIDDEN]
    if not largest:
        return
    held = describe(slide, cells, code, rows, sample)
    if len(held.genes) < TOP_GENES:
        return
    grid = ridges.grid
    for number in largest:
        inside = (ridges.square_of_cell[rows] == squares[number]).all(axis=1)
        low = grid.low_um + squares[number] * grid.side_um
        outside = np.maximum(low - held.xy_um, held.xy_um - low - grid.side_um).max(axis=1)
        fitted = ~inside & (outside > MARGIN_RADII * slide.radius_um)
        hidden = inside & np.isin(rows, sample)
        if fitted.sum() < MIN_ELSEWHERE:
            continue
        x, y = squares[number].tolist()
        ridge = ridges.without(x, y).predict(slide, cells_of_others(slide, cells, code), rows)[:, held.genes]
        yield {
            "label": cells.names[code],
            "centre_um": (low + grid.side_um / 2).tolist(),
            "num_hidden": int(hidden.sum()),
            **compare(HiddenRegion(held, ridge, inside, hidden, fitted, grid), generator),
        }


class _Ridges:
    """Ridge regressions of the slide, each without a square, in which several labels may be hidden."""

    def __init__(self, slide: Slide, grid: Grid, seed: int) -> None:
        self.grid = grid
        self.square_of_cell = ((slide.xy_um - grid.low_um) // grid.side_um).astype(np.int64)
        self._slide, self._seed = slide, seed
        self._fitted: dict[tuple[int, int], SlideRidge] = {}

    def without(self, x: int, y: int) -> SlideRidge:
        """The regression that is fitted to cells outside a square, given by its column and row."""
        if (x, y) not in self._fitted:
            is_outside = (self.square_of_cell != (x, y)).any(axis=1)
            generator = numpy_generator(self._seed, "held-out ridge", x, y)
            self._fitted[x, y] = SlideRidge.fit(self._slide, is_outside, generator)
        return self._fitted[x, y]
