"""One void-invariant message-passing layer (Eqs 11-14), in its factored and in its literal form.

Letters: N cells, n of them kept, E edges j -> i, D features, H heads. A void cell has h = 0; nothing below has a bias,
so it stays void, sends no message and receives none (Eq. 10).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from cifm_backends.base import EdgeTerms, NodeTerms

if TYPE_CHECKING:
    from cifm_backends.base import Backend
    from cifm_cli.data.graph import LayerGraph
    from cifm_cli.recipe_sections import ModelRecipe

NORM_EPSILON = 1e-5  # keeps the derivative at void finite: 1 / sqrt(epsilon)
COORDINATE_INIT = 1e-3  # at first, cells hardly move


class VoidNorm(nn.Module):
    """Root-mean-square norm without mean or bias: scale-free, and zero stays zero."""

    def forward(self, h: Tensor) -> Tensor:
        """Normalise (N, D) features cell by cell."""
        return functional.rms_norm(h, h.shape[-1:], eps=NORM_EPSILON)


class BiasFreeMLP(nn.Module):
    """BFMLP: linear maps without bias, ReLU between them, optionally normalised; BFMLP(0) = 0.

    The first map is followed by ReLU, the middle ones add ReLU(W x) to x, the last is linear.
    With `norm` the MLP is scale-invariant, so only the sign of a scalar input has an effect: give it no bare scalars.

    Args:
        sizes: Input, hidden and output features.
        num_layers: Linear maps, at least two.
        norm: Normalise after every map but the last.
    """

    def __init__(self, sizes: tuple[int, int, int], num_layers: int, *, norm: bool) -> None:
        super().__init__()
        size_in, hidden, size_out = sizes
        self.first = nn.Linear(size_in, hidden, bias=False)
        self.middle = nn.ModuleList(nn.Linear(hidden, hidden, bias=False) for _ in range(num_layers - 2))
        self.last = nn.Linear(hidden, size_out, bias=False)
        self.norm = VoidNorm() if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., input) to (..., output)."""
        x = self.norm(functional.relu(self.first(x)))
        for linear in self.middle:
            x = self.norm(x + functional.relu(linear(x)))
        return self.last(x)  # type: ignore[no-any-return]


class FactoredLayer(nn.Module):
    """The fast form: every D x D product is on cells, an edge costs O(D).

    With z = norm(h) and bias-free projections Q, K, A, B of z:

        Int_ij = phi(<Q_i, K_j>)                                                   (Eq. 11, per head)
        msg_ij = Int_ij * silu(A_i + B_j + C rho(d_ij / r))                         (Eq. 12)
        x_i'   = x_i + sum_j (x_i - x_j) <v, msg_ij> / (1 + sum_j |Int_ij|)         (Eq. 13)
        h_i'   = h_i + BFMLP_4(W sum_j msg_ij)                                      (Eq. 14)

    W is the first map of BFMLP_4. It also stands for the last linear map of BFMLP_2, which therefore costs nothing on
    edges. See `Backend.messages` for phi and rho.

    Args:
        recipe: The model section of a recipe.
    """

    def __init__(self, recipe: ModelRecipe) -> None:
        super().__init__()
        width = recipe.width
        self.num_heads = recipe.heads
        self.residual = recipe.residual
        self.norm = VoidNorm() if recipe.norm else nn.Identity()
        # One product for all four projections; backends read them as slices of its result.
        self.project = nn.Linear(width, 4 * width, bias=False)  # Q, K, A, B
        self.radial = nn.Parameter(torch.empty(width, recipe.radial).normal_(std=recipe.radial**-0.5))  # C
        self.coordinate = nn.Parameter(torch.empty(width).normal_(std=COORDINATE_INIT))  # v
        # Not normalised, so the scale of the sum has an effect: it tells many neighbours from few.
        self.bfmlp4 = BiasFreeMLP((width, 2 * width, width), recipe.mlp_layers, norm=False)

    def forward(self, backend: Backend, layer: LayerGraph, h: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Run one layer.

        Args:
            backend: Runs the edge part.
            layer: Graph of N cells and E edges, and the n cells to keep.
            h: (N, D) features.
            shift: (N, 2) how far each cell has moved, in radii.

        Returns:
            (n, D) features and (n, 2) shift.
        """
        # The norm is before the projections, and the residual adds to features that are not normalised.
        nodes = NodeTerms(*self.project(self.norm(h)).chunk(4, dim=-1))
        messages = backend.messages(layer.graph, nodes, EdgeTerms(self.radial, self.coordinate, self.num_heads), shift)
        # Cells that later layers do not need are dropped first, so the MLP does not run on them.
        # Autocast may have made the update bfloat16; the residual sum keeps the precision of h.
        update = self.bfmlp4(layer.select_outputs(messages.pooled)).to(h.dtype)  # Eq. 14
        return (layer.select_outputs(h) + update if self.residual else update), layer.select_outputs(
            shift + messages.shift
        )


class LiteralLayer(nn.Module):
    """Eqs 11-14 as printed: bias-free MLPs on every edge, O(E D^2). The reference, and the `paper` recipes.

    The inner product of Eq. 11 is a mean over channels, a constant that BFMLP_1 absorbs; BFMLP_1 is never normalised,
    since its input is a scalar. The sum of Eq. 13 is not divided by anything.

    Args:
        recipe: The model section of a recipe.
    """

    def __init__(self, recipe: ModelRecipe) -> None:
        super().__init__()
        width, depth, norm = recipe.width, recipe.mlp_layers, recipe.norm
        self.residual = recipe.residual
        self.bfmlp1 = BiasFreeMLP((1, width, 1), depth, norm=False)
        self.bfmlp2 = BiasFreeMLP((2 * width + 1, width, width), depth, norm=norm)
        self.bfmlp3 = BiasFreeMLP((width, width, 1), depth, norm=norm)
        self.bfmlp4 = BiasFreeMLP((width, width, width), depth, norm=norm)
        # As in the factored layer, cells hardly move before training.
        with torch.no_grad():
            self.bfmlp3.last.weight.mul_(COORDINATE_INIT)

    def forward(self, backend: Backend, layer: LayerGraph, h: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Run one layer; see `FactoredLayer.forward`. The backend reads cells along edges and sums edges into cells."""
        graph = layer.graph
        h_i, h_j, product_E, dx_E = backend.read_edges(graph, h, shift)
        # torch defines the gradient of the norm at zero as zero, so self loops do no harm.
        distance_E = torch.linalg.vector_norm(dx_E, dim=-1, keepdim=True)
        int_E = self.bfmlp1(product_E)  # Eq. 11
        msg_E = self.bfmlp2(torch.cat([h_i, h_j, distance_E], dim=-1) * int_E)  # Eq. 12
        moved = shift + backend.sum_edges(graph, dx_E * self.bfmlp3(msg_E))  # Eq. 13
        update = self.bfmlp4(layer.select_outputs(backend.sum_edges(graph, msg_E))).to(h.dtype)  # Eq. 14
        return (layer.select_outputs(h) + update if self.residual else update), layer.select_outputs(moved)


def build_layer(recipe: ModelRecipe) -> FactoredLayer | LiteralLayer:
    """Create the layer that the recipe names.

    Args:
        recipe: The model section of a recipe.

    Returns:
        A layer with fresh weights.
    """
    return LiteralLayer(recipe) if recipe.message == "mlp" else FactoredLayer(recipe)
