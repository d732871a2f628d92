"""Matrix products of cells with weights, the larger part of a training step.

Letters: N cells, or queries; I input and O output features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from torch.autograd.function import FunctionCtx

# On a CPU, products in bfloat16 are compiled for each number of rows, which takes several times as long as the product.
# Two tiles rarely have the same number of cells, but the multiples of this number are few. They fit into the cache of
# compiled products, which holds 1,024.
ROWS = 128


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply features by weights; in bfloat16 within `precision.computing_in("bfloat16", ...)`.

    Args:
        x: (..., I) features, one row per cell.
        weight: (O, I) weights.

    Returns:
        (..., O) products.
    """
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return functional.linear(x, weight)
    result: Tensor = _PaddedProduct.apply(x.reshape(-1, x.shape[-1]), weight)  # type: ignore[no-untyped-call]
    return result.view(*x.shape[:-1], len(weight))


class Linear(nn.Linear):
    """`torch.nn.Linear` by `product`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., I) to (..., O)."""
        y = product(x, self.weight)
        return y if self.bias is None else y + self.bias


class _PaddedProduct(torch.autograd.Function):
    """A product in bfloat16, whose rows are padded with zeros to a multiple of `ROWS`. Zeros add nothing to a gradient."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor) -> Tensor:
        """Multiply (N, I) features by (O, I) weights."""
        padded, half = _pad(x), weight.to(torch.bfloat16)
        ctx.save_for_backward(padded, half)
        return (padded @ half.T)[: len(x)]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:  # noqa: ANN401 - torch has no type
        """Gradients by the features and by the weights; None for one that is not needed."""
        padded, half = ctx.saved_tensors
        of_y = _pad(gradient)
        of_x = (of_y @ half)[: len(gradient)] if ctx.needs_input_grad[0] else None
        of_weight = of_y.T @ padded if ctx.needs_input_grad[1] else None
        return of_x, of_weight  # autograd converts them to the types of the inputs


def _pad(x: Tensor) -> Tensor:
    """Copy (N, I) features to bfloat16, with rows of zeros up to a multiple of `ROWS`."""
    num_cells = len(x)
    padded = x.new_empty(num_cells + -num_cells % ROWS, x.shape[1], dtype=torch.bfloat16)
    padded[:num_cells], padded[num_cells:] = x, 0
    return padded
