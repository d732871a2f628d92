"""One network: sparse gene input, encoder on visible cells, padding, decoder on all cells, head on masked cells.

Letters: N cells, V visible, U of them embedded, K masked, M inferred, G genes of the vocabulary, P of the panel, D
features.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from cifm_cli.model.dropout import Dropout
from cifm_cli.model.gene_maps import GeneInput
from cifm_cli.model.heads import PlainHead, ReleaseHead, ResidualHead
from cifm_cli.model.layer import build_layer
from cifm_cli.model.release_layer import ReleaseGeneMaps, release_output

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cifm_backends.base import Backend
    from cifm_cli.data.graph import LayerGraph
    from cifm_cli.model.layer import Layer
    from cifm_cli.model.masking import Expression, MaskedTile
    from cifm_cli.model.output import Output
    from cifm_cli.model.slide_parameters import SlideParameters
    from cifm_cli.model.surroundings import Surroundings
    from cifm_cli.recipe import Recipe


class Network(nn.Module):
    """Encoder f_enc, padding vector e, decoder f_dec and head (Eqs 2-3).

    Args:
        num_genes: G, size of the vocabulary.
        recipe: A whole recipe.
    """

    def __init__(self, num_genes: int, recipe: Recipe) -> None:
        super().__init__()
        self.genes = GeneInput(num_genes, recipe.model.width)
        self.gene_dropout = Dropout(recipe.model.gene_dropout)
        self.encoder = nn.ModuleList(build_layer(recipe.model) for _ in range(recipe.model.encoder_layers))
        self.decoder = nn.ModuleList(build_layer(recipe.model) for _ in range(recipe.model.decoder_layers))
        self.padding = nn.Parameter(torch.empty(recipe.model.width).normal_())  # e
        self.is_release = recipe.model.message == "release"
        # Modules of the public release alone, which has MLPs in place of linear maps.
        self.gene_maps = ReleaseGeneMaps(recipe.model) if self.is_release else None
        self.encoder_output = release_output(recipe.model) if self.is_release else None
        self.decoder_output = release_output(recipe.model) if self.is_release else None
        plain = ReleaseHead if self.is_release else PlainHead
        head = ResidualHead if recipe.objective.name == "residual" else plain
        self.head = head(num_genes, recipe)

    def embed_expression(
        self, expression: Expression, genes: Tensor, slide: SlideParameters | None, offset: Tensor | None = None
    ) -> Tensor:
        """Map the expression of visible cells to the input of the encoder.

        Args:
            expression: Expression of V cells.
            genes: (P,) vocabulary rows of the panel.
            slide: Parameters of the slide, on whose mean expression is centred; None for the objective of the paper.
            offset: (V, D) added to the product of the expression with the weights of the genes.

        Returns:
            (V, D) features; those of a void cell are zero.
        """
        seen = replace(expression, values=self.gene_dropout(expression.values))
        embedded: Tensor = self.genes(seen, genes, slide.mean if slide else None)
        embedded = embedded if offset is None else embedded + offset
        # Autocast may have made the features bfloat16; those of cells keep the precision of the weights.
        return self.gene_maps(embedded).to(embedded.dtype) if self.gene_maps else embedded

    def encode(
        self, backend: Backend, layers: Sequence[LayerGraph], h: Tensor, *, moves: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Embed visible cells (Eq. 2).

        Args:
            backend: Runs the edge part of every layer.
            layers: A(C_unm) for every layer; the first graph has V cells, and the last layer keeps U.
            h: (V, D) from `embed_expression`.
            moves: Whether the shift of the result is used.

        Returns:
            Z_enc: (U, D) invariant features and (U, 2) how far each cell has moved, in radii.
        """
        # The shift starts at zero: every cell is at its measured position.
        moves = moves and not self.is_release
        h, shift = run_layers(self.encoder, backend, layers, h, h.new_zeros(len(h), 2), moves=moves)
        return self.encoder_output(h).to(h.dtype) if self.encoder_output else h, shift

    def decode(self, backend: Backend, tile: MaskedTile, h: Tensor, shift: Tensor) -> Tensor:
        """Pad the masked cells with e and decode (Eq. 3).

        Args:
            backend: Runs the edge part of every layer.
            tile: The masked tile.
            h: (U, D) encoder features.
            shift: (U, 2) encoder shift.

        Returns:
            (M, D) features of the cells to infer.
        """
        num_cells = tile.decoder[0].graph.num_cells
        padded = h.new_zeros(num_cells, h.shape[1]).index_copy(0, tile.visible, h)
        padded = padded.index_copy(0, tile.masked, self.padding.expand(len(tile.masked), -1))  # Pad
        # Masked cells start at their measured position; in the public release all cells do.
        moved = shift.new_zeros(num_cells, 2)
        moved = moved if self.is_release else moved.index_copy(0, tile.visible, shift)
        decoded, _ = run_layers(self.decoder, backend, tile.decoder, padded, moved, moves=False)
        return self.decoder_output(decoded).to(decoded.dtype) if self.decoder_output else decoded

    def forward(self, backend: Backend, tile: MaskedTile, surroundings: Surroundings | None = None) -> Output:
        """Infer the masked cells of a tile from its visible ones.

        Args:
            backend: Runs the edge part of every layer.
            tile: A masked tile on the network's device.
            surroundings: From `Ensemble.describe`; None to compute it here, without a linear correction.

        Returns:
            Prediction for M cells and P genes, in the precision of the weights.
        """
        return _in_precision(
            self.head(self.run(backend, tile), tile, self.genes.weight, surroundings), self.padding.dtype
        )

    def run(self, backend: Backend, tile: MaskedTile) -> Tensor:
        """Encode and decode.

        Args:
            backend: Runs the edge part of every layer.
            tile: A masked tile on the network's device.

        Returns:
            (M, D) features of the cells to infer, for the head.
        """
        h = self.embed_expression(tile.expression, tile.genes, tile.slide)
        h, shift = self.encode(backend, tile.encoder, h)
        # Only the invariant features go to the head: a prediction must not change when the slide is rotated.
        return self.decode(backend, tile, h, shift)

    def infer_blends(self, backend: Backend, tiles: Sequence[MaskedTile], surroundings: Surroundings) -> list[Output]:
        """Infer the masked cells of tiles that differ only in the weights with which the smoother blends its terms.

        Args:
            backend: Runs the edge part of every layer.
            tiles: The tiles, on the network's device; the network is run on the first one.
            surroundings: What they have in common, from `Ensemble.describe`.

        Returns:
            What `forward` returns for each.
        """
        head = cast("ResidualHead", self.head)
        corrections = head.correct(self.run(backend, tiles[0]), tiles[0], self.genes.weight, surroundings)
        return [_in_precision(head.join(corrections, tile, surroundings), self.padding.dtype) for tile in tiles]


def _in_precision(output: Output, dtype: torch.dtype) -> Output:
    """Convert an output. The head may have computed in bfloat16; losses and probabilities need the precision of the weights."""
    # Fields that the head of the paper lacks are None.
    tensors = {name: values for name, values in output._asdict().items() if values is not None}
    return output._replace(**{name: values.to(dtype) for name, values in tensors.items()})


def run_layers(
    modules: Iterable[nn.Module],
    backend: Backend,
    layers: Sequence[LayerGraph],
    h: Tensor,
    shift: Tensor,
    *,
    moves: bool,
) -> tuple[Tensor, Tensor]:
    """Run layers one after the other.

    Args:
        modules: The layers.
        backend: Runs their edge part.
        layers: Their graphs.
        h: (n, D) features of the cells of the first graph.
        shift: (n, 2) how far each of them has moved, in radii.
        moves: Whether the shift of the result is used.

    Returns:
        Features and shift of the cells that the last layer keeps.
    """
    pairs = cast("list[tuple[Layer, LayerGraph]]", list(zip(modules, layers, strict=True)))  # torch has no typed list
    for number, (module, layer) in enumerate(pairs, start=1):
        is_used = moves if number == len(pairs) else pairs[number][0].reads_shift(pairs[number][1])
        h, shift = module(backend, layer, h, shift, moves=is_used)
    return h, shift
