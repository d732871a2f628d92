"""Practice: visible cells of a slide are hidden and predicted, so that adaptation can learn from the errors.

Letters: N cells of a slide, M practised cells of a tile, P genes, D features of the network.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from cifm_cli.data.prefetch import prefetch
from cifm_cli.data.tiles import Tiler, chunks
from cifm_cli.inference.hidden_tile import HiddenTile, circle_means
from cifm_cli.inference.neighbourhood.blend import REACH_RADII
from cifm_cli.inference.neighbourhood.visible_cells import GeneStats
from cifm_cli.model.example import Example
from cifm_cli.model.gene_profiles import sum_genes
from cifm_cli.model.masking import Mask, mask_tile, reach_um
from cifm_cli.model.objective import Targets

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.inference.prediction import Prediction
    from cifm_cli.model.gene_profiles import GeneTotals
    from cifm_cli.model.slide_parameters import SlideParameters


@dataclass(frozen=True)
class PracticeFold:
    """Cells that are hidden together for practice."""

    visible: Rows  # ascending rows that are visible
    hidden: Rows  # ascending rows that are hidden
    queries: Rows  # those of them that are predicted, ascending


class PracticeTile(NamedTuple):
    """Practised cells of one tile."""

    hidden: HiddenTile  # input of network and regression
    stats: GeneStats  # statistics of the slide without the hidden cells
    expression: csr_matrix  # (M, P) actual log-normalised expression
    counts: csr_matrix  # (M, P) actual raw counts

    @property
    def num_cells(self) -> int:
        """M."""
        return int(self.counts.shape[0])

    @property
    def circles(self) -> Sequence[Prediction]:
        """Neighbour means of the M cells, one prediction for each radius."""
        if self.hidden.circles is None:
            raise ValueError("a practice tile is made with neighbour means")
        return self.hidden.circles

    def example(self) -> Example:
        """The same for `fit_slide_parameters`."""
        values, counts = (torch.from_numpy(matrix.toarray()) for matrix in (self.expression, self.counts))
        return Example(self.hidden.masked, Targets(values, counts))

    def with_parameters(self, parameters: SlideParameters) -> PracticeTile:
        """The same tile with fitted weights of the smoother; its profiles stay those without the hidden cells."""
        masked = self.hidden.masked
        if masked.slide is None:
            raise ValueError("a tile made for another objective has no parameters of its slide")
        own = replace(
            parameters, mean=masked.slide.mean, expressed=masked.slide.expressed, composition=masked.slide.composition
        )
        return self._replace(hidden=replace(self.hidden, masked=replace(masked, slide=own)))


def practice_tiles(
    model: LoadedModel,
    slide: Slide,
    folds: Sequence[PracticeFold],
    start: SlideParameters,
    totals: GeneTotals,
    summed: Rows,
) -> Iterator[PracticeTile]:
    """Hide the cells of some folds, and read what their prediction needs.

    Args:
        model: The model.
        slide: The slide.
        folds: The folds.
        start: Parameters of the slide.
        totals: Sums over `summed`.
        summed: Ascending rows that the profiles of the slide are means of.

    Yields:
        The practised cells tile by tile. While the caller handles a tile, the next one is read.
    """
    recipe = model.checkpoint.recipe
    reach = max(reach_um(recipe, slide.radius_um), REACH_RADII * slide.radius_um)
    for fold in folds:
        parameters, stats = _without_hidden(model, slide, fold, start, totals, summed)
        rows = np.union1d(fold.visible, fold.hidden)
        is_hidden = np.zeros(slide.num_cells, dtype=bool)
        is_hidden[fold.hidden] = True
        reader = _FoldReader(model, slide, Tiler(slide.xy_um, rows, reach), is_hidden, parameters, stats)
        queries = (np.intersect1d(rows_of_tile, fold.queries) for rows_of_tile in chunks(rows, recipe.data.tile_cells))
        yield from prefetch(reader.read, filter(len, queries))


@dataclass(frozen=True)
class _FoldReader:
    """What the tiles of one fold have in common."""

    model: LoadedModel
    slide: Slide
    tiler: Tiler
    is_hidden: NDArray[np.bool_]  # (N,) for each cell of the slide
    parameters: SlideParameters  # of the slide without the hidden cells
    stats: GeneStats  # the same profiles

    def read(self, queries: Rows) -> PracticeTile:
        """Read the tile around some queries."""
        model, slide, tile = self.model, self.slide, self.tiler.tile(queries)
        hidden = np.flatnonzero(self.is_hidden[tile.rows])
        recipe, panel = model.checkpoint.recipe, model.panel(slide)
        masked = mask_tile(slide, tile, Mask(hidden), panel, recipe, self.parameters)
        circles = circle_means(model, slide, tile, hidden, self.stats)
        expression = panel.select(slide.expression(queries, recipe.data.target_sum))
        counts = panel.select(slide.counts(queries))
        return PracticeTile(HiddenTile(masked, circles), self.stats, expression, counts)


def _without_hidden(
    model: LoadedModel,
    slide: Slide,
    fold: PracticeFold,
    start: SlideParameters,
    totals: GeneTotals,
    summed: Rows,
) -> tuple[SlideParameters, GeneStats]:
    """Profiles of a slide without the hidden cells, as parameters and as statistics.

    Where the widest circle covers the whole slide, the difference between both means would be exactly what is hidden.
    """
    taken_out = np.intersect1d(fold.hidden, summed, assume_unique=True)
    others = totals.minus(sum_genes(slide, taken_out, model.panel(slide), model.checkpoint.recipe.data.target_sum))
    return start.with_profiles(others.profiles()), stats_of(others)


def stats_of(totals: GeneTotals) -> GeneStats:
    """Statistics of the cells of some totals."""
    number = totals.num_cells.clamp(min=1)
    return GeneStats(*(x.numpy() for x in (totals.values / number, totals.expressed / number, totals.counts)))
