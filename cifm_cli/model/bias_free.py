"""Bias-free MLPs and the norms between their maps: an input of zero gives an output of zero."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from cifm_cli.model.products import Linear

NORM_EPSILON = 1e-5  # keeps the derivative at void finite: 1 / sqrt(epsilon)


class VoidNorm(nn.Module):
    """Root-mean-square norm without mean or bias: scale-free, and zero stays zero."""

    def forward(self, h: Tensor) -> Tensor:
        """Normalise (N, D) features cell by cell."""
        return functional.rms_norm(h, h.shape[-1:], eps=NORM_EPSILON)


class CentredNorm(nn.Module):
    """Layer norm without learned scale or bias: zero stays zero, as its mean is zero. That of the public release."""

    def forward(self, h: Tensor) -> Tensor:
        """Normalise (N, D) features cell by cell."""
        return functional.layer_norm(h, h.shape[-1:], eps=NORM_EPSILON)


class HiddenMaps(nn.Module):
    """The maps of a bias-free MLP but the last: the first is followed by ReLU, the others add ReLU(W x) to x.

    Args:
        size_in: Input features.
        hidden: Hidden features, which are the output.
        num_maps: Linear maps, at least one.
        norm: Follows every map; `nn.Identity` for none.
    """

    def __init__(self, size_in: int, hidden: int, num_maps: int, norm: nn.Module) -> None:
        super().__init__()
        self.first = Linear(size_in, hidden, bias=False)
        self.middle = nn.ModuleList(Linear(hidden, hidden, bias=False) for _ in range(num_maps - 1))
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., input) to (..., hidden)."""
        return self.after_first(self.first(x))

    def after_first(self, z: Tensor) -> Tensor:
        """Run everything after the product of the first map, which is (..., hidden) and may be overwritten."""
        return run_middle(z, self.middle, self.norm)


def run_middle(z: Tensor, middle: nn.ModuleList, norm: nn.Module) -> Tensor:
    """Run a bias-free MLP from the product of its first map up to the input of its last one.

    Args:
        z: (..., hidden) the product; it may be overwritten.
        middle: The maps between the first and the last.
        norm: Follows every map.

    Returns:
        (..., hidden) features.
    """
    # In place without gradients: the largest tensors of the literal form are these.
    in_place = not torch.is_grad_enabled()
    x: Tensor = norm(functional.relu(z, inplace=in_place))
    for linear in middle:
        y = functional.relu(linear(x), inplace=in_place)
        x = norm(y.add_(x) if in_place and y.dtype == x.dtype else x + y)
    return x


class BiasFreeMLP(HiddenMaps):
    """BFMLP: linear maps without bias, ReLU between them, optionally normalised; BFMLP(0) = 0.

    With a norm the MLP is scale-invariant, so only the sign of a scalar input has an effect: give it no bare scalars.

    Args:
        sizes: Input, hidden and output features.
        num_layers: Linear maps, at least two.
        norm: Follows every map but the last; `nn.Identity` for none.
    """

    def __init__(self, sizes: tuple[int, int, int], num_layers: int, norm: nn.Module) -> None:
        size_in, hidden, size_out = sizes
        super().__init__(size_in, hidden, num_layers - 1, norm)
        self.last = Linear(hidden, size_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., input) to (..., output)."""
        return self.last(super().forward(x))  # type: ignore[no-any-return]
