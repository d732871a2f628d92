"""Masking (Eqs 2-3): which cells are removed, and the tensors that the encoder and the decoder see.

Letters: n cells of a tile, of them V visible and K masked, M of the masked are in the core and inferred, P genes of the
panel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from cifm_cli.data.graph import layer_graphs, radius_graph, subgraph
from cifm_cli.data.slide import log_normalise
from cifm_cli.model.smoother import Surroundings, look_around

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix
    from torch import Tensor

    from cifm_cli.data.graph import LayerGraph
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
    """A tile with some of its cells masked, ready for the network: of it, what the cells to infer depend on.

    Args:
        expression: Of the V visible cells; the masked cells' is not in here.
        encoder: A(C_unm) over the visible cells (Eq. 2), for each layer of the encoder.
        decoder: A(C) over all cells (Eq. 3), for each layer of the decoder; the last one keeps the M queries, which are
            the masked cells of the core, ascending.
        visible: (U,) cells of the first decoder graph that the encoder embeds.
        masked: (K,) cells of the first decoder graph that are masked.
        genes: (P,) vocabulary rows of the slide's panel.
        around: What surrounds the queries, for objectives that start there.
        surrounding: Expression of the visible cells that `around` counts, far ones included.
    """

    expression: Expression
    encoder: tuple[LayerGraph, ...]
    decoder: tuple[LayerGraph, ...]
    visible: Tensor
    masked: Tensor
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
            encoder=tuple(shell.to(device) for shell in self.encoder),
            decoder=tuple(shell.to(device) for shell in self.decoder),
            visible=self.visible.to(device),
            masked=self.masked.to(device),
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
    near = np.flatnonzero(tile.distance_um <= message_reach_um(recipe, slide.radius_um))  # the smoother may see further
    graph = radius_graph(tile.xy_um[near], slide.radius_um, self_loops=recipe.model.self_loops, dtype=dtype)
    asked = torch.from_numpy(np.searchsorted(near, queries))
    decoded, decoder = layer_graphs(graph, asked, recipe.model.decoder_layers)
    hidden = torch.from_numpy(is_masked[near])
    seen = (~hidden).nonzero().ravel()
    visible_decoded = (~hidden[decoded]).nonzero().ravel()
    encoded, encoder = layer_graphs(
        subgraph(graph, seen), torch.searchsorted(seen, decoded[visible_decoded]), recipe.model.encoder_layers
    )
    read = np.searchsorted(visible, near[seen[encoded].numpy()])
    around = None
    if recipe.objective.name == "residual":
        places = tile.xy_um / slide.radius_um
        around = look_around(places[queries], places[visible], expression, counts, depth, recipe.objective).to(dtype)
    return MaskedTile(
        expression=to_expression(expression[read], panel.vocabulary_rows, dtype),
        encoder=tuple(encoder),
        decoder=tuple(decoder),
        visible=visible_decoded,
        masked=hidden[decoded].nonzero().ravel(),
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
