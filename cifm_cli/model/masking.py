"""Masking (Eqs 2-3): choice of the masked cells, and the tensors that encoder and decoder read.

Letters: n cells of a tile, V of them visible and K masked; M masked cells are in the core and are inferred; P genes of
the panel.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from cifm_cli.data.graph import layer_graphs, radius_graph, subgraph
from cifm_cli.data.pairs import distance_to_nearest
from cifm_cli.data.slide import log_normalise
from cifm_cli.model.augmentation import bootstrap_weights, thin_counts
from cifm_cli.model.smoother import NeighbourSums, reliability_of, sum_neighbours

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix
    from torch import Tensor

    from cifm_cli.data.graph import LayerGraph
    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.data.tiles import Tile
    from cifm_cli.model.slide_parameters import SlideParameters
    from cifm_cli.model.vocabulary import Panel
    from cifm_cli.recipe import Recipe


@dataclass(frozen=True)
class Expression:
    """Sparse log-normalised expression, stored cell by cell."""

    genes: Tensor  # (Z,) vocabulary rows of the non-zero values
    columns: Tensor  # (Z,) their genes as positions in the panel
    offsets: Tensor  # (V,) position of the first value of each cell
    values: Tensor  # (Z,) log-normalised expression
    has_counts: Tensor  # (V,) whether a cell expresses any gene of the panel

    def to(self, device: torch.device) -> Expression:
        """Copy to a device."""
        return Expression(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True)
class MaskedTile:
    """Input of the network for a tile with masked cells, reduced to the cells that the prediction depends on."""

    expression: Expression  # expression of the V visible cells. That of the masked cells is never read.
    encoder: tuple[LayerGraph, ...]  # A(C_unm) over the visible cells (Eq. 2), for each layer of the encoder.
    # A(C) over all cells (Eq. 3), for each layer of the decoder. The last one keeps the M queries, which are the masked
    # cells of the core in ascending order.
    decoder: tuple[LayerGraph, ...]
    visible: Tensor  # (U,) cells of the first decoder graph that the encoder embeds
    masked: Tensor  # (K,) cells of the first decoder graph that are masked
    genes: Tensor  # (P,) vocabulary rows of the slide's panel
    # sums over the visible cells around the queries, for the objective `residual`; otherwise None
    neighbours: NeighbourSums | None
    # expression of all visible cells that `neighbours` refers to; otherwise None
    neighbour_expression: Expression | None
    # parameters of the slide, for the objective `residual`; otherwise None
    slide: SlideParameters | None

    def to(self, device: torch.device) -> MaskedTile:
        """Copy to a device; returns itself if it is there already."""
        if self.visible.device == device:
            return self
        return replace(
            self,
            expression=self.expression.to(device),
            encoder=tuple(layer.to(device) for layer in self.encoder),
            decoder=tuple(layer.to(device) for layer in self.decoder),
            visible=self.visible.to(device),
            masked=self.masked.to(device),
            genes=self.genes.to(device),
            neighbours=self.neighbours.to(device) if self.neighbours else None,
            neighbour_expression=self.neighbour_expression.to(device) if self.neighbour_expression else None,
            slide=self.slide.to(device) if self.slide else None,
        )


class Mask(NamedTuple):
    """What is hidden from the network in a tile."""

    cells: Rows  # (K,) positions of the masked cells in the tile
    # source of randomness of the augmentation (`mask.thinning` and `mask.bootstrap`) in training; None: there is none
    augmentation: np.random.Generator | None = None


def message_reach_um(recipe: Recipe, radius_um: float) -> float:
    """Reach of the messages in micrometres: one radius for each layer of encoder and decoder."""
    return (recipe.model.encoder_layers + recipe.model.decoder_layers) * radius_um


def reach_um(recipe: Recipe, radius_um: float) -> float:
    """Largest distance at which a cell has an effect on a prediction. It is the width of the halo of a tile.

    Args:
        recipe: A whole recipe.
        radius_um: Radius of the graph in micrometres.

    Returns:
        Reach of the messages or of the smoother, whichever is longer, in micrometres.
    """
    messages_um = message_reach_um(recipe, radius_um)
    return max(messages_um, recipe.objective.cutoff * radius_um) if recipe.objective.name == "residual" else messages_um


def choose_masked(core: Rows, xy: NDArray[np.float64], recipe: Recipe, generator: np.random.Generator) -> Rows:
    """Choose the masked cells of a tile: uniformly at random (paper, B.3), or all cells of some squares.

    Args:
        core: (c,) positions of the core cells in the tile.
        xy: (c, 2) coordinates of the core cells, in radii.
        recipe: A whole recipe; its section `mask` sets number and geometry.
        generator: Source of randomness.

    Returns:
        Positions to mask in the tile, ascending, at least one.
    """
    low, high = recipe.mask.share, recipe.mask.share_max or recipe.mask.share
    # A fraction drawn anew for each tile, so that the model is trained for sparse and for dense masks.
    number = max(1, round(len(core) * generator.uniform(low, high)))
    if generator.random() < recipe.mask.contiguous:
        side = generator.uniform(*recipe.mask.patch_radii)
        # A random origin: the borders of the squares are not tied to the border of the tile.
        corner = xy.min(axis=0) - generator.uniform(0, side, size=2)
        column, row = ((xy - corner) // side).astype(np.int64).T
        # Only squares that contain cells are numbered.
        _, square = np.unique(column * (row.max() + 1) + row, return_inverse=True)
        order = generator.permutation(int(square.max()) + 1)  # squares are filled one after the other
        # The stable sort keeps cells of a square in their order along the Hilbert curve: the last square is filled in
        # part, by cells that are near each other.
        return np.sort(core[np.argsort(order[square], kind="stable")[:number]])
    return np.sort(generator.choice(core, size=number, replace=False))


def mask_tile(
    slide: Slide,
    tile: Tile,
    mask: Mask,
    panel: Panel,
    recipe: Recipe,
    parameters: SlideParameters | None,
    dtype: torch.dtype = torch.float32,
) -> MaskedTile:
    """Remove the masked cells from a tile (Eq. 2). Their counts are not read.

    Args:
        slide: The slide of the tile.
        tile: Core and halo.
        mask: The masked cells, of which those in the core are inferred.
        panel: Genes of the slide that the model knows.
        recipe: A whole recipe.
        parameters: Parameters of the slide for the genes of `panel`; None for the objective `balanced_mse`.
        dtype: Precision of the floating-point tensors.

    Returns:
        Input of the network.
    """
    is_masked = np.zeros(len(tile.rows), dtype=bool)
    is_masked[mask.cells] = True
    queries = np.intersect1d(mask.cells, tile.core)  # masked cells of the halo belong to another tile
    visible = np.flatnonzero(~is_masked)
    counts = panel.select(slide.counts(tile.rows[visible]))
    # The depth is that over all genes of the slide, so normalised values do not depend on the panel of the model.
    depth = slide.total_counts[tile.rows[visible]]
    expression = log_normalise(counts, depth, recipe.data.target_sum)
    graphs = reduce_graphs(tile, queries, is_masked, slide.radius_um, recipe, dtype)
    neighbours = neighbour_expression = None
    if recipe.objective.name == "residual":
        # In radii, so that one recipe serves platforms of different spacing.
        xy = tile.xy_um / slide.radius_um
        kind = torch.empty(0, dtype=dtype).numpy().dtype
        weights = _weights_in_sums(depth, mask, recipe)
        neighbours = sum_neighbours(xy[queries], xy[visible], expression, counts, weights, recipe.objective, kind)
        neighbour_expression = to_expression(expression, panel.vocabulary_rows, dtype)
    # From positions in the tile to rows of `expression`.
    embedded = np.searchsorted(visible, graphs.embedded)
    seen = expression[embedded]
    if mask.augmentation and recipe.mask.thinning:
        thinned, kept = thin_counts(counts[embedded], recipe.mask.thinning, mask.augmentation)
        # The expected depth, as the genes outside the panel are not read here.
        seen = log_normalise(thinned, depth[embedded] * kept, recipe.data.target_sum)
    return MaskedTile(
        expression=to_expression(seen, panel.vocabulary_rows, dtype),
        encoder=tuple(graphs.encoder),
        decoder=tuple(graphs.decoder),
        visible=graphs.visible,
        masked=graphs.masked,
        genes=torch.from_numpy(panel.vocabulary_rows),
        neighbours=neighbours,
        neighbour_expression=neighbour_expression,
        slide=parameters.to(dtype) if parameters else None,
    )


def _weights_in_sums(depth: NDArray[np.float64], mask: Mask, recipe: Recipe) -> NDArray[np.float64]:
    """Weights of visible cells of some depth in the sums of the smoother: in training with `mask.bootstrap`, random ones."""
    weights = reliability_of(depth)
    if mask.augmentation and recipe.mask.bootstrap:
        weights *= bootstrap_weights(len(depth), recipe.mask.bootstrap, mask.augmentation)
    return weights


class TileGraphs(NamedTuple):
    """The graphs of a tile, reduced to the cells that the prediction depends on."""

    encoder: list[LayerGraph]  # A(C_unm) for each layer of the encoder
    decoder: list[LayerGraph]  # A(C) for each layer of the decoder
    embedded: Rows  # positions in the tile of the cells of the first encoder graph
    visible: Tensor  # (U,) cells of the first decoder graph that the encoder embeds
    masked: Tensor  # (K,) cells of the first decoder graph that are masked


def reduce_graphs(
    tile: Tile, queries: Rows, is_masked: NDArray[np.bool_], radius_um: float, recipe: Recipe, dtype: torch.dtype
) -> TileGraphs:
    """Build the graphs of a tile, from the last layer backwards.

    The decoder runs on the cells whose messages reach the queries, the encoder on the cells whose messages reach the
    visible cells of the decoder.
    """
    # The halo may be wider, for the smoother; the graph needs only the cells whose messages can reach a query. One micrometre
    # more, so that rounding excludes no cell at the end of a path.
    reach_um = message_reach_um(recipe, radius_um) + 1.0
    near = np.flatnonzero(distance_to_nearest(tile.xy_um, tile.xy_um[queries], reach_um) <= reach_um)
    graph = radius_graph(tile.xy_um[near], radius_um, self_loops=recipe.model.self_loops, dtype=dtype)
    # Queries are at distance 0, so all of them are near.
    near_queries = torch.from_numpy(np.searchsorted(near, queries))
    decoded, decoder = layer_graphs(graph, near_queries, recipe.model.decoder_layers)
    near_masked = torch.from_numpy(is_masked[near])
    near_visible = (~near_masked).nonzero().ravel()
    visible_decoded = (~near_masked[decoded]).nonzero().ravel()
    encoded, encoder = layer_graphs(
        subgraph(graph, near_visible),
        torch.searchsorted(near_visible, decoded[visible_decoded]),
        recipe.model.encoder_layers,
    )
    masked_decoded = near_masked[decoded].nonzero().ravel()
    return TileGraphs(encoder, decoder, near[near_visible[encoded].numpy()], visible_decoded, masked_decoded)


def to_expression(matrix: csr_matrix, vocabulary_rows: NDArray[np.int64], dtype: torch.dtype) -> Expression:
    """Convert a sparse matrix to tensors, with vocabulary rows in place of column numbers.

    Args:
        matrix: (V, P) log-normalised expression.
        vocabulary_rows: (P,) vocabulary row of each column.
        dtype: Precision of the values.

    Returns:
        The expression of V cells.
    """
    columns = matrix.indices.astype(np.int64)
    return Expression(
        genes=torch.from_numpy(vocabulary_rows[columns]),
        columns=torch.from_numpy(columns),
        offsets=torch.from_numpy(matrix.indptr[:-1].astype(np.int64)),
        values=torch.from_numpy(matrix.data).to(dtype),
        # By value: a matrix may store zeros.
        has_counts=torch.from_numpy(np.asarray(matrix.sum(axis=1)).ravel() > 0),
    )
