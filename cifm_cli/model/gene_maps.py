"""Between genes and features: sparse expression in, predictions for a panel's genes out.

Letters: N cells, V visible, M inferred, G genes of the vocabulary, P of the panel, D features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from cifm_cli.model.masking import Expression


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
        rank: r, of the product (G, r) (r, D) that stands for the (G, D) weights; all of them when absent.
        zero: Start at zero.
    """

    def __init__(self, width: int, num_genes: int, *, rank: int | None = None, zero: bool) -> None:
        super().__init__()
        self.reduce = nn.Linear(width, rank, bias=False) if rank else nn.Identity()
        inner = rank or width
        self.weight = nn.Parameter(torch.empty(num_genes, inner).normal_(std=0.0 if zero else inner**-0.5))
        self.bias = nn.Parameter(torch.zeros(num_genes))

    def forward(self, h: Tensor, genes: Tensor) -> Tensor:
        """Map (M, D) to (M, P)."""
        return functional.linear(self.reduce(h), self.weight[genes], self.bias[genes])
