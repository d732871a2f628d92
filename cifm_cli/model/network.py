"""The whole network: sparse gene input, encoder on visible cells, padding, decoder on all cells, heads on masked ones.

Letters: N cells, V visible, K masked, M inferred, G genes of the vocabulary, P of the panel, D features, S scales.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from cifm_cli.model.layer import VoidNorm, build_layer
from cifm_cli.model.smoother import Smoother

if TYPE_CHECKING:
    from cifm_backends.base import Backend, Graph
    from cifm_cli.model.masking import Expression, MaskedTile
    from cifm_cli.recipe import Recipe


class Output(NamedTuple):
    """What every objective predicts for M masked cells and P genes.

    Args:
        magnitude: (M, P) log-normalised expression; negative values mean zero.
        logit: (M, P) logit of P(expressed).
    """

    magnitude: Tensor
    logit: Tensor


class GeneInput(nn.Module):
    """Bias-free linear map of sparse expression: gathers the expressed genes' rows and sums them, weighted.

    Args:
        num_genes: G.
        width: D.
    """

    def __init__(self, num_genes: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_genes, width).normal_(std=width**-0.5))

    def forward(self, expression: Expression) -> Tensor:
        """Map V cells to (V, D); a cell that expresses nothing gets zero."""
        return functional.embedding_bag(
            expression.genes, self.weight, expression.offsets, mode="sum", per_sample_weights=expression.values
        )


class GeneOutput(nn.Module):
    """Linear map to the genes of a panel; the vocabulary's other rows cost nothing.

    Args:
        width: D.
        num_genes: G.
        zero: Start at zero.
    """

    def __init__(self, width: int, num_genes: int, *, zero: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_genes, width).normal_(std=0.0 if zero else width**-0.5))
        self.bias = nn.Parameter(torch.zeros(num_genes))

    def forward(self, h: Tensor, genes: Tensor) -> Tensor:
        """Map (M, D) to (M, P)."""
        return functional.linear(h, self.weight[genes], self.bias[genes])


class PlainHead(nn.Module):
    """Magnitude and P(expressed) straight from the decoder's features, as in the paper.

    Args:
        num_genes: G.
        recipe: A whole recipe.
    """

    def __init__(self, num_genes: int, recipe: Recipe) -> None:
        super().__init__()
        self.norm = VoidNorm() if recipe.model.norm else nn.Identity()
        self.magnitude = GeneOutput(recipe.model.width, num_genes, zero=False)
        self.logit = GeneOutput(recipe.model.width, num_genes, zero=False)

    def forward(self, h: Tensor, tile: MaskedTile, gene_weight: Tensor) -> Output:
        """Predict the masked cells of the core.

        Args:
            h: (M, D) their decoder features.
            tile: Where they are.
            gene_weight: (G, D) weights of the gene input; not used here.

        Returns:
            Prediction for the panel.
        """
        del gene_weight
        h = self.norm(h)
        return Output(self.magnitude(h, tile.genes), self.logit(h, tile.genes))


class ResidualHead(nn.Module):
    """A smoother of the visible cells, plus a correction that starts at zero.

    The correction reads the decoder's features and, through the gene input's own weights, the means at every scale.

    Args:
        num_genes: G.
        recipe: A whole recipe.
    """

    def __init__(self, num_genes: int, recipe: Recipe) -> None:
        super().__init__()
        width, num_scales = recipe.model.width, len(recipe.objective.scales)
        self.smoother = Smoother(num_genes, recipe.objective)
        self.norm = VoidNorm()
        self.features = nn.Linear(width, width)
        self.means = nn.Linear((num_scales + 1) * width, width)
        self.mass = nn.Linear(num_scales, width)
        self.hidden = nn.Linear(width, width)
        self.magnitude = GeneOutput(width, num_genes, zero=True)
        self.logit = GeneOutput(width, num_genes, zero=True)

    def forward(self, h: Tensor, tile: MaskedTile, gene_weight: Tensor) -> Output:
        """Predict the masked cells of the core; see `PlainHead.forward`."""
        if tile.around is None:
            raise ValueError("the residual head needs the surroundings of the masked cells")
        means, shares = self.smoother.terms(tile.around, tile.genes)
        seen = self.norm(means @ gene_weight[tile.genes]).flatten(1)
        mass = torch.log1p(tile.around.mass)
        z = functional.silu(self.features(self.norm(h)) + self.means(seen) + self.mass(mass))
        z = functional.silu(self.hidden(z)) + z
        mean, logit = self.smoother(means, shares, tile.genes)
        return Output(mean + self.magnitude(z, tile.genes), logit + self.logit(z, tile.genes))


class Network(nn.Module):
    """Encoder f_enc, padding vector e, decoder f_dec and head (Eqs 2-3).

    Args:
        num_genes: G, size of the vocabulary.
        recipe: A whole recipe.
    """

    def __init__(self, num_genes: int, recipe: Recipe) -> None:
        super().__init__()
        self.genes = GeneInput(num_genes, recipe.model.width)
        self.encoder = nn.ModuleList(build_layer(recipe.model) for _ in range(recipe.model.encoder_layers))
        self.decoder = nn.ModuleList(build_layer(recipe.model) for _ in range(recipe.model.decoder_layers))
        self.padding = nn.Parameter(torch.empty(recipe.model.width).normal_())  # e
        head = ResidualHead if recipe.objective.name == "residual" else PlainHead
        self.head = head(num_genes, recipe)

    def encode(self, backend: Backend, graph: Graph, h: Tensor) -> tuple[Tensor, Tensor]:
        """Embed visible cells (Eq. 2).

        Args:
            backend: Runs the edge part of every layer.
            graph: A(C_unm), V cells.
            h: (V, D) from `self.genes`.

        Returns:
            Z_enc: (V, D) invariant features and (V, 2) how far each cell has moved, in radii.
        """
        return _run(self.encoder, backend, graph, h, h.new_zeros(len(h), 2))

    def decode(self, backend: Backend, tile: MaskedTile, h: Tensor, shift: Tensor) -> Tensor:
        """Pad the masked cells with e and decode (Eq. 3).

        Args:
            backend: Runs the edge part of every layer.
            tile: Which cells are masked.
            h: (V, D) encoder features.
            shift: (V, 2) encoder shift.

        Returns:
            (M, D) features of the cells to infer.
        """
        num_cells = tile.decoder_graph.num_cells
        padded = h.new_zeros(num_cells, h.shape[1]).index_copy(0, tile.visible, h)
        padded = padded.index_copy(0, tile.masked, self.padding.expand(len(tile.masked), -1))  # Pad
        moved = shift.new_zeros(num_cells, 2).index_copy(0, tile.visible, shift)
        decoded, _ = _run(self.decoder, backend, tile.decoder_graph, padded, moved)
        return decoded[tile.queries]

    def forward(self, backend: Backend, tile: MaskedTile) -> Output:
        """Infer the masked cells of a tile from its visible ones.

        Args:
            backend: Runs the edge part of every layer.
            tile: A masked tile on the network's device.

        Returns:
            Prediction for M cells and P genes.
        """
        h, shift = self.encode(backend, tile.encoder_graph, self.genes(tile.expression))
        return self.head(self.decode(backend, tile, h, shift), tile, self.genes.weight)  # type: ignore[no-any-return]


def _run(layers: nn.ModuleList, backend: Backend, graph: Graph, h: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    for layer in layers:
        h, shift = layer(backend, graph, h, shift)
    return h, shift
