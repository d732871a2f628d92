"""A tile with hidden cells and added cells of any weight, and its prediction as a differentiable function of the weights.

The weight w of an added cell multiplies its messages in the network (see `gated_messages`), and its expression, its counts and
its number in all sums over neighbours: those of the smoother, and those of the circles that an adapted model averages. With
w = 1 the prediction is that of the tissue with the cell, with w = 0 that without it.

Circles without a visible cell take the mean of the next wider circle. They stay so in the derivative, as their mean would jump.

Letters: n cells of a tile, M hidden cells of its core, V visible cells, X added cells near the tile, P genes, S scales.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import vstack
from scipy.spatial import cKDTree

from cifm_cli.data.slide import log_normalise
from cifm_cli.data.tiles import Tile
from cifm_cli.inference.hidden_tile import visible_cells
from cifm_cli.inference.neighbourhood.blend import RADII, neighbour_means
from cifm_cli.inference.neighbourhood.circle_means import pairs_within, square_side_um
from cifm_cli.model.masking import MaskedTile, reduce_graphs, to_expression
from cifm_cli.model.smoother import NeighbourSums, reliability_of, sum_neighbours
from cifm_cli.simulation.sensitivity.gated_messages import GatedLayers, assign_gates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix
    from torch import Tensor

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.inference.neighbourhood.visible_cells import VisibleCells
    from cifm_cli.model.masking import TileGraphs
    from cifm_cli.simulation.sensitivity.added_cells import AddedCells


@dataclass(frozen=True)
class AddedPairs:
    """Pairs of a hidden cell and an added cell within the cutoff of the smoother, and what an added cell adds."""

    query: Tensor  # (E,) hidden cells
    added: Tensor  # (E,) added cells
    weight: Tensor  # (E, S) weight of each pair at each scale, if the added cell is whole
    expression: Tensor  # (P,) log-normalised expression of the added cell
    counts: Tensor  # (P,) its counts

    def extend(self, sums: NeighbourSums, gate: Tensor, num_visible: int) -> NeighbourSums:
        """Add the added cells, by (X,) gates, to sums over the visible cells."""
        weight = self.weight * gate[self.added, None]
        mass = torch.zeros_like(sums.mass).index_add(0, self.query, weight)
        return NeighbourSums(
            expression=sums.expression + mass[:, :, None] * self.expression,
            expressed=sums.expressed + mass[:, :, None] * (self.expression > 0),
            counts=sums.counts + mass[:, :, None] * self.counts,
            mass=sums.mass + mass,
            weight=torch.cat([sums.weight, weight]),
            query=torch.cat([sums.query, self.query]),
            visible=torch.cat([sums.visible, num_visible + self.added]),
        )


@dataclass(frozen=True)
class GatedCircle:
    """Means within one radius."""

    means: Tensor  # (M, P) of the visible cells
    number: Tensor  # (M,) visible cells
    added: Tensor  # sparse (M, X) ones where an added cell is in the circle
    radius_um: float

    def with_added(self, expression: Tensor, gate: Tensor, wider: Tensor | None) -> Tensor:
        """(M, P) means with the added cells; empty circles take those of the next wider one."""
        added = (self.added @ gate[:, None])[:, 0]
        total = self.number + added
        is_empty = self.number == 0
        means = (self.number[:, None] * self.means + added[:, None] * expression) / total.masked_fill(is_empty, 1)[
            :, None
        ]
        return torch.where(is_empty[:, None], self.means if wider is None else wider, means)


@dataclass(frozen=True)
class GatedTile:
    """What the prediction of the hidden cells of a core reads."""

    base: MaskedTile  # visible cells in its sums, visible and added cells in its graphs
    encoder: GatedLayers
    decoder: GatedLayers
    pairs: AddedPairs | None  # None for the objective `balanced_mse`
    circles: tuple[GatedCircle, ...]  # narrowest first; none without adaptation
    expression: Tensor  # (P,) log-normalised expression of the added cell
    num_visible: int  # V
    added: Rows  # (X,) numbers of the added cells of the tile
    queries_um: NDArray[np.float64]  # (M, 2) places of the hidden cells
    visible_rows: Rows  # (V,) rows of the slide
    embedded: Rows  # rows of the slide of the cells of the first encoder graph; -1 for an added cell
    visible_cells: VisibleCells | None  # those of the circles; None without adaptation

    def with_gates(self, gate: Tensor) -> MaskedTile:
        """The input of the network, with (X,) gates."""
        sums = self.base.neighbours
        if self.pairs is not None and sums is not None:
            sums = self.pairs.extend(sums, gate, self.num_visible)
        return replace(
            self.base, encoder=self.encoder.with_gates(gate), decoder=self.decoder.with_gates(gate), neighbours=sums
        )

    def circle_means(self, gate: Tensor, offsets: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Neighbour means, (M, P) for each radius; `offsets` of that shape are added to them."""
        means: list[Tensor] = []
        wider = None
        for number, circle in reversed(list(enumerate(self.circles))):
            wider = circle.with_added(self.expression, gate, wider)
            if offsets is not None:
                # An empty circle already has the offset of the wider one.
                wider = wider + offsets[number] * (circle.number > 0)[:, None]
            means.insert(0, wider)
        return means


def prepare_tile(
    model: LoadedModel, slide: Slide, tile: Tile, hidden: Rows, added: AddedCells, reach_um: float, dtype: torch.dtype
) -> GatedTile:
    """Hide cells of a tile, and add cells to it.

    Args:
        model: The model.
        slide: The slide of the tile.
        tile: Core and halo.
        hidden: Positions of the hidden cells in the tile; those in its core are inferred.
        added: The added cells.
        reach_um: Largest distance at which a cell has an effect on a prediction, micrometres.
        dtype: Precision of the floating-point tensors.

    Returns:
        The tile.
    """
    cells = _TileCells.of(slide, tile, hidden, added, reach_um)
    graphs = reduce_graphs(
        cells.extended, cells.queries, cells.is_masked, slide.radius_um, model.checkpoint.recipe, dtype
    )
    encoder, decoder = _assign(graphs, len(tile.rows), len(cells.numbers))
    graphs = graphs._replace(encoder=list(encoder.layers), decoder=list(decoder.layers))
    base, pairs, expression = _network_input(model, slide, cells, graphs, dtype)
    circles, visible_of_circles = _gated_circles(model, slide, cells, dtype)
    is_of_slide = graphs.embedded < len(tile.rows)
    return GatedTile(
        base=base,
        encoder=GatedLayers(base.encoder, tuple(gate.to(model.device) for gate in encoder.gates)),
        decoder=GatedLayers(base.decoder, tuple(gate.to(model.device) for gate in decoder.gates)),
        pairs=pairs,
        circles=circles,
        expression=expression,
        num_visible=len(cells.visible),
        added=cells.numbers,
        queries_um=cells.queries_um,
        visible_rows=tile.rows[cells.visible],
        embedded=np.where(is_of_slide, cells.extended.rows[graphs.embedded], -1),
        visible_cells=visible_of_circles,
    )


@dataclass(frozen=True)
class _TileCells:
    """The cells of a tile, and the added cells near its hidden ones."""

    tile: Tile  # n cells
    extended: Tile  # n + X cells, of which the added ones have rows beyond those of the slide
    hidden: Rows  # positions of the hidden cells in the tile
    added: AddedCells
    numbers: Rows  # (X,) of the added cells that are near

    @classmethod
    def of(cls, slide: Slide, tile: Tile, hidden: Rows, added: AddedCells, reach_um: float) -> _TileCells:
        """Append the added cells that are in reach of a query to the halo."""
        tree = cKDTree(tile.xy_um[np.intersect1d(hidden, tile.core)])
        distance_um = tree.query(added.xy_um)[0] if added.num_cells else np.empty(0)
        near = np.flatnonzero(distance_um <= reach_um)
        extended = Tile(
            np.concatenate([tile.rows, slide.num_cells + near]),
            tile.core,
            np.concatenate([tile.xy_um, added.xy_um[near]]),
            np.concatenate([tile.distance_um, distance_um[near]]),
        )
        return cls(tile, extended, hidden, added, near)

    @property
    def queries(self) -> Rows:
        """(M,) positions of the hidden cells of the core."""
        return np.intersect1d(self.hidden, self.tile.core)

    @property
    def queries_um(self) -> NDArray[np.float64]:
        """(M, 2) their places."""
        return self.tile.xy_um[self.queries]

    @property
    def added_um(self) -> NDArray[np.float64]:
        """(X, 2) places of the added cells."""
        return self.added.xy_um[self.numbers]

    @property
    def is_masked(self) -> NDArray[np.bool_]:
        """(n + X,) whether a cell is hidden."""
        is_masked = np.zeros(len(self.extended.rows), dtype=bool)
        is_masked[self.hidden] = True
        return is_masked

    @property
    def visible(self) -> Rows:
        """(V,) positions of the visible cells of the tile."""
        return np.flatnonzero(~self.is_masked[: len(self.tile.rows)])


def _network_input(
    model: LoadedModel, slide: Slide, cells: _TileCells, graphs: TileGraphs, dtype: torch.dtype
) -> tuple[MaskedTile, AddedPairs | None, Tensor]:
    """The input of the network, the pairs of its smoother, and the expression of an added cell.

    `masking.mask_tile` does the same without added cells.
    """
    recipe, panel, added = model.checkpoint.recipe, model.panel(slide), cells.added
    rows = cells.tile.rows[cells.visible]
    counts, depth = slide.counts(rows)[:, panel.columns], slide.total_counts[rows]
    expression = log_normalise(counts, depth, recipe.data.target_sum)
    of_added = log_normalise(added.counts, np.array([added.total_counts]), recipe.data.target_sum)
    all_expression = vstack([expression, of_added[np.zeros(len(cells.numbers), dtype=np.int64)]], format="csr")
    sums = pairs = None
    if recipe.objective.name == "residual":
        queries, visible = (xy_um / slide.radius_um for xy_um in (cells.queries_um, cells.tile.xy_um[cells.visible]))
        sums = sum_neighbours(queries, visible, expression, counts, reliability_of(depth), recipe.objective).to(dtype)
        pairs = _pairs(model, queries, cells.added_um / slide.radius_um, added, of_added, dtype)
    parameters = model.slide_parameters(slide)
    embedded = np.searchsorted(np.flatnonzero(~cells.is_masked), graphs.embedded)
    base = MaskedTile(
        expression=to_expression(all_expression[embedded], panel.vocabulary_rows, dtype),
        encoder=tuple(graphs.encoder),
        decoder=tuple(graphs.decoder),
        visible=graphs.visible,
        masked=graphs.masked,
        genes=torch.from_numpy(panel.vocabulary_rows),
        neighbours=sums,
        neighbour_expression=to_expression(all_expression, panel.vocabulary_rows, dtype) if sums else None,
        slide=parameters.to(dtype) if parameters else None,
    )
    return base.to(model.device), pairs, torch.from_numpy(of_added.toarray()[0]).to(model.device, dtype)


def _assign(graphs: TileGraphs, num_cells: int, num_added: int) -> tuple[GatedLayers, GatedLayers]:
    """Find the edges of added cells in the graphs of encoder and decoder."""
    number = torch.from_numpy(np.where(graphs.embedded < num_cells, -1, graphs.embedded - num_cells))
    encoder, number = assign_gates(graphs.encoder, number, num_added)
    decoded = torch.full((graphs.decoder[0].graph.num_cells,), -1, dtype=torch.int64)
    decoded[graphs.visible] = number
    return encoder, assign_gates(graphs.decoder, decoded, num_added)[0]


def _pairs(
    model: LoadedModel,
    queries: NDArray[np.float64],
    places: NDArray[np.float64],
    added: AddedCells,
    expression: csr_matrix,
    dtype: torch.dtype,
) -> AddedPairs:
    """Weigh the added cells around each query, places in radii of the graph; see `smoother.sum_neighbours`."""
    objective = model.checkpoint.recipe.objective
    near = pairs_within(cKDTree(queries), cKDTree(places), objective.cutoff).tocoo()
    squared = np.square(queries[near.row] - places[near.col]).sum(axis=1)
    reliability = reliability_of(np.array(float(added.total_counts)))
    weight = np.stack([np.exp(-0.5 * squared / scale**2) * reliability for scale in objective.scales], axis=1)

    def to(values: NDArray[np.float64]) -> Tensor:
        """Convert an array."""
        return torch.from_numpy(values).to(model.device, dtype)

    return AddedPairs(
        torch.from_numpy(near.row.astype(np.int64)).to(model.device),
        torch.from_numpy(near.col.astype(np.int64)).to(model.device),
        to(weight),
        to(expression.toarray()[0]),
        to(added.counts.toarray()[0].astype(np.float64)),
    )


def _gated_circles(
    model: LoadedModel, slide: Slide, cells: _TileCells, dtype: torch.dtype
) -> tuple[tuple[GatedCircle, ...], VisibleCells | None]:
    """Neighbour means of the hidden cells, and the circles that each added cell is in."""
    if model.adaptation is None or model.adaptation.refinement is None:
        return (), None
    visible = visible_cells(model, slide, cells.tile, cells.hidden, model.adaptation.stats)
    tree, added_um = cKDTree(cells.queries_um), cells.added_um
    circles = []
    for radius, means in zip(RADII, neighbour_means(visible, cells.queries_um), strict=True):
        radius_um = radius * slide.radius_um
        side_um = square_side_um(radius_um, slide.radius_um)
        averaged = visible.cells if side_um is None else visible.squares(side_um)
        number = np.asarray(pairs_within(tree, averaged.tree, radius_um) @ averaged.number)[:, 0]
        # A square is in the circle as a whole, or not at all.
        places_um = added_um if side_um is None else (np.floor(added_um / side_um) + 0.5) * side_um
        inside = pairs_within(tree, cKDTree(places_um), radius_um)
        # Void cells are no neighbours: they would be cells that express nothing.
        inside = inside if cells.added.total_counts else inside * 0
        circles.append(
            GatedCircle(
                torch.from_numpy(means.mean).to(model.device, dtype),
                torch.from_numpy(number).to(model.device, dtype),
                _sparse(inside, model.device, dtype),
                radius_um,
            )
        )
    return tuple(circles), visible


def _sparse(matrix: csr_matrix, device: torch.device, dtype: torch.dtype) -> Tensor:
    entries = matrix.tocoo()
    index = torch.from_numpy(np.stack([entries.row, entries.col]).astype(np.int64))
    values = torch.from_numpy(entries.data).to(dtype)
    return torch.sparse_coo_tensor(index, values, matrix.shape, check_invariants=False).coalesce().to(device)
