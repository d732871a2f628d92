"""Linear maps from sparse expression to features, and from features to the genes of a panel.

Letters: N cells, V visible, M inferred, G genes of the vocabulary, P of the panel, D features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from cifm_cli.model.panel_genes import select_genes
from cifm_cli.model.products import Linear, product

if TYPE_CHECKING:
    from cifm_cli.model.masking import Expression


class GeneInput(nn.Module):
    """Bias-free linear map of sparse expression, as a weighted sum of the rows of the expressed genes.

    Args:
        num_genes: G.
        width: D.
    """

    def __init__(self, num_genes: int, width: int) -> None:
        super().__init__()
        # Scaled such that the row of a gene has a norm of about 1 for any width.
        self.weight = nn.Parameter(torch.empty(num_genes, width).normal_(std=width**-0.5))

    def forward(self, expression: Expression, genes: Tensor, mean: Tensor | None = None) -> Tensor:
        """Map the expression of V cells to features.

        Args:
            expression: Expression of V cells.
            genes: (P,) vocabulary rows of the panel.
            mean: (P,) mean expression of the slide, which is subtracted from that of every cell with counts; None to
                subtract nothing.

        Returns:
            (V, D) features; those of a void cell are zero.
        """
        # A weighted sum of rows: the expression is never made dense, and a panel may lack any genes.
        h = _sum_rows(self.weight, expression.genes, expression.offsets, expression.values)
        if mean is None:
            return h
        # The mean is mapped once, as the expression of one more cell, so that the cells stay sparse.
        centre = _sum_rows(self.weight, genes, genes.new_zeros(1), mean)
        return h - expression.has_counts.to(h.dtype)[:, None] * centre


def _sum_rows(weight: Tensor, genes: Tensor, offsets: Tensor, values: Tensor) -> Tensor:
    """Sum the rows `genes` of (G, D) weights, scaled by `values`, over the ranges that begin at `offsets`."""
    return functional.embedding_bag(genes, weight, offsets, mode="sum", per_sample_weights=values)


class GeneOutput(nn.Module):
    """Linear map to the genes of a panel. Rows of the vocabulary outside the panel are not computed.

    Args:
        width: D.
        num_genes: G.
        rank: Rank r of the weights, stored as the product (G, r) (r, D); None for full (G, D) weights.
        zero: Whether the weights start at zero.
    """

    def __init__(self, width: int, num_genes: int, *, rank: int | None = None, zero: bool) -> None:
        super().__init__()
        self.reduce = Linear(width, rank, bias=False) if rank else nn.Identity()
        # With a rank, both maps together have r (G + D) weights in place of G D.
        inner = rank or width
        self.weight = nn.Parameter(torch.empty(num_genes, inner).normal_(std=0.0 if zero else inner**-0.5))
        self.bias = nn.Parameter(torch.zeros(num_genes))

    def forward(self, h: Tensor, genes: Tensor) -> Tensor:
        """Map (M, D) features to (M, P) values for the vocabulary rows `genes`."""
        # Rows are selected before the product, so its cost depends on the panel and not on the vocabulary.
        return product(self.reduce(h), select_genes(self.weight, genes)) + select_genes(self.bias, genes)
