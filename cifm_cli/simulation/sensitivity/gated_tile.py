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
from cifm_cli.model.smoother import RELIABLE_COUNTS, NeighbourSums, sum_neighbours
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
    queries = np.intersect1d(hidden, tile.core)
    distance_um = cKDTree(tile.xy_um[queries]).query(added.xy_um)[0] if added.num_cells else np.empty(0)
    near = np.flatnonzero(distance_um <= reach_um)
    network = _network_input(model, slide, tile, hidden, (added, near, distance_um[near]), dtype)
    circles, visible = _gated_circles(model, slide, tile, hidden, added.xy_um[near], dtype)
    if not added.total_counts:
        # Void cells are no neighbours: they would be cells that express nothing.
        circles = tuple(replace(circle, added=circle.added * 0) for circle in circles)
    return replace(network, circles=circles, visible_cells=visible)


def _network_input(
    model: LoadedModel,
    slide: Slide,
    tile: Tile,
    hidden: Rows,
    near: tuple[AddedCells, Rows, NDArray[np.float64]],
    dtype: torch.dtype,
) -> GatedTile:
    """The input of the network; see `masking.mask_tile`, which does the same without added cells."""
    added, numbers, distance_um = near
    recipe, panel, device = model.checkpoint.recipe, model.panel(slide), model.device
    num_cells, num_added = len(tile.rows), len(numbers)
    extended = _extend(tile, slide.num_cells + numbers, added.xy_um[numbers], distance_um)
    is_masked = np.zeros(num_cells + num_added, dtype=bool)
    is_masked[hidden] = True
    queries, visible = np.intersect1d(hidden, tile.core), np.flatnonzero(~is_masked[:num_cells])
    counts, depth = slide.counts(tile.rows[visible])[:, panel.columns], slide.total_counts[tile.rows[visible]]
    expression = log_normalise(counts, depth, recipe.data.target_sum)
    own = log_normalise(added.counts, np.array([added.total_counts]), recipe.data.target_sum)
    all_expression = vstack([expression, own[np.zeros(num_added, dtype=np.int64)]], format="csr")
    graphs = reduce_graphs(extended, queries, is_masked, slide.radius_um, recipe, dtype)
    embedded = np.searchsorted(np.flatnonzero(~is_masked), graphs.embedded)
    encoder, decoder = _assign(graphs.embedded, graphs, num_cells, num_added)
    sums = pairs = None
    if recipe.objective.name == "residual":
        xy = tile.xy_um / slide.radius_um
        sums = sum_neighbours(xy[queries], xy[visible], expression, counts, depth, recipe.objective).to(dtype)
        pairs = _pairs(xy[queries], added, numbers, own, slide.radius_um, model, dtype)
    parameters = model.slide_parameters(slide)
    base = MaskedTile(
        expression=to_expression(all_expression[embedded], panel.vocabulary_rows, dtype),
        encoder=encoder.layers,
        decoder=decoder.layers,
        visible=graphs.visible,
        masked=graphs.masked,
        genes=torch.from_numpy(panel.vocabulary_rows),
        neighbours=sums,
        neighbour_expression=to_expression(all_expression, panel.vocabulary_rows, dtype) if sums else None,
        slide=parameters.to(dtype) if parameters else None,
    ).to(device)
    return GatedTile(
        base=base,
        encoder=GatedLayers(base.encoder, tuple(gate.to(device) for gate in encoder.gates)),
        decoder=GatedLayers(base.decoder, tuple(gate.to(device) for gate in decoder.gates)),
        pairs=pairs,
        circles=(),
        expression=torch.from_numpy(own.toarray()[0]).to(device, dtype),
        num_visible=len(visible),
        added=numbers,
        queries_um=tile.xy_um[queries],
        visible_rows=tile.rows[visible],
        embedded=np.where(graphs.embedded < num_cells, extended.rows[graphs.embedded], -1),
        visible_cells=None,
    )


def _extend(tile: Tile, rows: Rows, xy_um: NDArray[np.float64], distance_um: NDArray[np.float64]) -> Tile:
    """Append added cells to the halo of a tile."""
    return Tile(
        np.concatenate([tile.rows, rows]),
        tile.core,
        np.concatenate([tile.xy_um, xy_um]),
        np.concatenate([tile.distance_um, distance_um]),
    )


def _assign(embedded: Rows, graphs: TileGraphs, num_cells: int, num_added: int) -> tuple[GatedLayers, GatedLayers]:
    """Find the edges of added cells in the graphs of encoder and decoder."""
    number = torch.from_numpy(np.where(embedded < num_cells, -1, embedded - num_cells))
    encoder, number = assign_gates(graphs.encoder, number, num_added)
    decoded = torch.full((graphs.decoder[0].graph.num_cells,), -1, dtype=torch.int64)
    decoded[graphs.visible] = number
    return encoder, assign_gates(graphs.decoder, decoded, num_added)[0]


def _pairs(
    queries: NDArray[np.float64],
    added: AddedCells,
    numbers: Rows,
    expression: csr_matrix,
    radius_um: float,
    model: LoadedModel,
    dtype: torch.dtype,
) -> AddedPairs:
    """Weigh the added cells around each query; see `smoother.sum_neighbours`."""
    objective = model.checkpoint.recipe.objective
    places = added.xy_um[numbers] / radius_um
    near = pairs_within(cKDTree(queries), cKDTree(places), objective.cutoff).tocoo()
    squared = np.square(queries[near.row] - places[near.col]).sum(axis=1)
    reliability = added.total_counts / (added.total_counts + RELIABLE_COUNTS)
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
    model: LoadedModel, slide: Slide, tile: Tile, hidden: Rows, added_um: NDArray[np.float64], dtype: torch.dtype
) -> tuple[tuple[GatedCircle, ...], VisibleCells | None]:
    """Neighbour means of the hidden cells, and the circles that each added cell is in."""
    if model.adaptation is None or model.adaptation.refinement is None:
        return (), None
    visible = visible_cells(model, slide, tile, hidden, model.adaptation.stats)
    xy_um = tile.xy_um[np.intersect1d(hidden, tile.core)]
    tree = cKDTree(xy_um)
    circles = []
    for radius, means in zip(RADII, neighbour_means(visible, xy_um), strict=True):
        radius_um = radius * slide.radius_um
        side_um = square_side_um(radius_um, slide.radius_um)
        cells = visible.cells if side_um is None else visible.squares(side_um)
        number = np.asarray(pairs_within(tree, cells.tree, radius_um) @ cells.number)[:, 0]
        # A square is in the circle as a whole, or not at all.
        places_um = added_um if side_um is None else (np.floor(added_um / side_um) + 0.5) * side_um
        inside = pairs_within(tree, cKDTree(places_um), radius_um)
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
