"""Masking (Eqs 2-3): which cells are removed, and the tensors that the encoder and the decoder see.

Letters: n cells of a tile, K masked, V = n - K visible, M of the masked are in the core and inferred, P genes of the
panel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from cifm_backends.base import Graph
from cifm_cli.data.graph import radius_graph, subgraph
from cifm_cli.data.slide import log_normalise
from cifm_cli.model.smoother import Surroundings, look_around

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix
    from torch import Tensor

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.data.tiles import Tile
    from cifm_cli.model.vocabulary import Panel
    from cifm_cli.recipe import Recipe


@dataclass(frozen=True)
class Expression:
    """Sparse log-normalised expression, cell after cell.

    Args:
        genes: (Z,) vocabulary rows of the non-zero values.
        offsets: (V,) where each cell's values start.
        values: (Z,) log-normalised.
    """

    genes: Tensor
    offsets: Tensor
    values: Tensor

    def to(self, device: torch.device) -> Expression:
        """Copy to a device."""
        return Expression(self.genes.to(device), self.offsets.to(device), self.values.to(device))


@dataclass(frozen=True)
class MaskedTile:
    """A tile with some of its cells masked, ready for the network.

    Args:
        expression: Of the V visible cells; the masked cells' is not in here.
        encoder_graph: A(C_unm) over the visible cells (Eq. 2).
        decoder_graph: A(C) over all n cells (Eq. 3).
        visible: (V,) visible cells of the decoder graph.
        masked: (K,) masked cells of the decoder graph.
        queries: (M,) masked core cells of the decoder graph, ascending: the ones to infer.
        genes: (P,) vocabulary rows of the slide's panel.
        around: What surrounds the queries, for objectives that start there.
        surrounding: Expression of the visible cells that `around` counts, far ones included.
    """

    expression: Expression
    encoder_graph: Graph
    decoder_graph: Graph
    visible: Tensor
    masked: Tensor
    queries: Tensor
    genes: Tensor
    around: Surroundings | None
    surrounding: Expression | None

    def to(self, device: torch.device) -> MaskedTile:
        """Copy to a device; itself when it is there."""
        if self.visible.device == device:
            return self
        return replace(
            self,
            expression=self.expression.to(device),
            encoder_graph=move_graph(self.encoder_graph, device),
            decoder_graph=move_graph(self.decoder_graph, device),
            visible=self.visible.to(device),
            masked=self.masked.to(device),
            queries=self.queries.to(device),
            genes=self.genes.to(device),
            around=self.around.to(device) if self.around else None,
            surrounding=self.surrounding.to(device) if self.surrounding else None,
        )


def message_reach_um(recipe: Recipe, radius_um: float) -> float:
    """How far messages carry: one radius per layer of encoder and decoder, in micrometres."""
    return (recipe.model.encoder_layers + recipe.model.decoder_layers) * radius_um


def reach_um(recipe: Recipe, radius_um: float) -> float:
    """How far a cell can matter to a prediction, which is the halo of a tile.

    Args:
        recipe: A whole recipe.
        radius_um: Radius of the graph, micrometres.

    Returns:
        The reach of the messages, or of the smoother if that is longer, in micrometres.
    """
    messages_um = message_reach_um(recipe, radius_um)
    return max(messages_um, recipe.objective.cutoff * radius_um) if recipe.objective.name == "residual" else messages_um


def move_graph(graph: Graph, device: torch.device) -> Graph:
    """Copy a graph to a device."""
    return Graph(
        graph.indptr.to(device), graph.sources.to(device), graph.targets.to(device), graph.displacement.to(device)
    )


def choose_masked(core: Rows, places: NDArray[np.float64], recipe: Recipe, generator: np.random.Generator) -> Rows:
    """Draw the masked cells of a tile: scattered uniformly over its core (paper, B.3), or filling squares of it.

    Args:
        core: (c,) positions of the core cells.
        places: (c, 2) where they are, in radii.
        recipe: Its mask section says how many and which.
        generator: Source of randomness.

    Returns:
        Positions to mask, ascending, at least one.
    """
    low, high = recipe.mask.share, recipe.mask.share_max or recipe.mask.share
    number = max(1, round(len(core) * generator.uniform(low, high)))
    if generator.random() < recipe.mask.contiguous:
        side = generator.uniform(*recipe.mask.patch_radii)
        corner = places.min(axis=0) - generator.uniform(0, side, size=2)
        _, square = np.unique(((places - corner) // side).astype(np.int64), axis=0, return_inverse=True)
        turn = generator.permutation(int(square.max()) + 1)  # squares are filled one after the other
        return np.sort(core[np.argsort(turn[square.ravel()], kind="stable")[:number]])
    return np.sort(generator.choice(core, size=number, replace=False))


def mask_tile(
    slide: Slide, tile: Tile, masked: Rows, panel: Panel, recipe: Recipe, dtype: torch.dtype = torch.float32
) -> MaskedTile:
    """Remove the masked cells from a tile (Eq. 2). Their counts are not even read.

    Args:
        slide: Where the tile is.
        tile: Core and halo.
        masked: (K,) positions in the tile; the ones in its core are inferred.
        panel: Genes of the slide that the model knows.
        recipe: A whole recipe.
        dtype: Precision of every real tensor.

    Returns:
        What the network reads.
    """
    is_masked = np.zeros(len(tile.rows), dtype=bool)
    is_masked[masked] = True
    queries = np.intersect1d(masked, tile.core)
    visible = np.flatnonzero(~is_masked)
    counts = slide.counts(tile.rows[visible])[:, panel.columns]
    depth = slide.total_counts[tile.rows[visible]]
    expression = log_normalise(counts, depth, recipe.data.target_sum)
    near = tile.distance_um <= message_reach_um(recipe, slide.radius_um)  # the smoother may see further
    graph = radius_graph(tile.xy_um[near], slide.radius_um, self_loops=recipe.model.self_loops, dtype=dtype)
    seen = np.flatnonzero(~is_masked[near])
    around = None
    if recipe.objective.name == "residual":
        places = tile.xy_um / slide.radius_um
        around = look_around(places[queries], places[visible], expression, counts, depth, recipe.objective).to(dtype)
    return MaskedTile(
        expression=to_expression(expression[near[visible]], panel.vocabulary_rows, dtype),
        encoder_graph=subgraph(graph, torch.from_numpy(seen)),
        decoder_graph=graph,
        visible=torch.from_numpy(seen),
        masked=torch.from_numpy(np.flatnonzero(is_masked[near])),
        queries=torch.from_numpy(np.searchsorted(np.flatnonzero(near), queries)),
        genes=torch.from_numpy(panel.vocabulary_rows),
        around=around,
        surrounding=to_expression(expression, panel.vocabulary_rows, dtype) if around else None,
    )


def to_expression(matrix: csr_matrix, vocabulary_rows: NDArray[np.int64], dtype: torch.dtype) -> Expression:
    """Sparse rows as tensors, columns renamed to vocabulary rows.

    Args:
        matrix: (V, P) log-normalised.
        vocabulary_rows: (P,) vocabulary row of each column.
        dtype: Precision of the values.

    Returns:
        The same values.
    """
    return Expression(
        genes=torch.from_numpy(vocabulary_rows[matrix.indices]),
        offsets=torch.from_numpy(matrix.indptr[:-1].astype(np.int64)),
        values=torch.from_numpy(matrix.data).to(dtype),
    )
