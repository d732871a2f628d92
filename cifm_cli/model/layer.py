"""One void-invariant message-passing layer (Eqs 11-14), in its factored and in its literal form.

Letters: N cells, n of them kept, E edges j -> i, D features, H heads. A void cell has h = 0; nothing below has a bias,
so it stays void, sends no message and receives none (Eq. 10).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cifm_backends.base import EdgeTerms, NodeTerms
from cifm_cli.model.bias_free import BiasFreeMLP, VoidNorm
from cifm_cli.model.edge_maps import ScalarMLP, first_map, is_plain, sum_edges
from cifm_cli.model.products import Linear
from cifm_cli.model.release_layer import ReleaseLayer

if TYPE_CHECKING:
    from cifm_backends.base import Backend
    from cifm_cli.data.graph import LayerGraph
    from cifm_cli.recipe_sections import ModelRecipe

COORDINATE_INIT = 1e-3  # at first, cells hardly move


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
        self.project = Linear(width, 4 * width, bias=False)  # Q, K, A, B
        self.radial = nn.Parameter(torch.empty(width, recipe.radial).normal_(std=recipe.radial**-0.5))  # C
        self.coordinate = nn.Parameter(torch.empty(width).normal_(std=COORDINATE_INIT))  # v
        # Not normalised, so the scale of the sum has an effect: it tells many neighbours from few.
        self.bfmlp4 = BiasFreeMLP((width, 2 * width, width), recipe.mlp_layers, nn.Identity())

    def forward(
        self, backend: Backend, layer: LayerGraph, h: Tensor, shift: Tensor, *, moves: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Run one layer.

        Args:
            backend: Runs the edge part.
            layer: Graph of N cells and E edges, and the n cells to keep.
            h: (N, D) features.
            shift: (N, 2) how far each cell has moved, in radii.
            moves: Whether the shift of the result is used; a layer may leave it as it is otherwise.

        Returns:
            (n, D) features and (n, 2) shift.
        """
        del moves  # costs nothing here
        # The norm is before the projections, and the residual adds to features that are not normalised.
        nodes = NodeTerms(*self.project(self.norm(h)).chunk(4, dim=-1))
        # Eqs 11-13 run in the backend: `cifm_backends.torch_reference` has them in plain torch.
        messages = backend.messages(layer.graph, nodes, EdgeTerms(self.radial, self.coordinate, self.num_heads), shift)
        # Cells that later layers do not need are dropped first, so the MLP does not run on them.
        # Autocast may have made the update bfloat16; the residual sum keeps the precision of h.
        update = self.bfmlp4(layer.select_outputs(messages.pooled)).to(h.dtype)  # Eq. 14
        return (layer.select_outputs(h) + update if self.residual else update), layer.select_outputs(
            shift + messages.shift
        )

    def reads_shift(self, _layer: LayerGraph) -> bool:
        """Whether it makes a difference where the layer before has moved the cells."""
        return True


class LiteralLayer(nn.Module):
    """Eqs 11-14 as printed: bias-free MLPs on every edge, O(E D^2). The reference, and the `paper` recipes.

    The inner product of Eq. 11 is a mean over channels, a constant that BFMLP_1 absorbs; BFMLP_1 is never normalised,
    since its input is a scalar. The sum of Eq. 13 is not divided by anything. `edge_maps` computes the same function with
    fewer products, for graphs without weights of edges.

    Args:
        recipe: The model section of a recipe.
    """

    def __init__(self, recipe: ModelRecipe) -> None:
        super().__init__()
        width, depth = recipe.width, recipe.mlp_layers
        self.residual = recipe.residual
        norm = VoidNorm() if recipe.norm else nn.Identity()
        self.bfmlp1 = BiasFreeMLP((1, width, 1), depth, nn.Identity())
        self.bfmlp2 = BiasFreeMLP((2 * width + 1, width, width), depth, norm)
        self.bfmlp3 = BiasFreeMLP((width, width, 1), depth, norm)
        self.bfmlp4 = BiasFreeMLP((width, width, width), depth, norm)
        # As in the factored layer, cells hardly move before training.
        with torch.no_grad():
            self.bfmlp3.last.weight.mul_(COORDINATE_INIT)

    def forward(
        self, backend: Backend, layer: LayerGraph, h: Tensor, shift: Tensor, *, moves: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Run one layer; see `FactoredLayer.forward`."""
        pooled, moved = (
            self._split(layer, h, shift, moves=moves)
            if is_plain(layer.graph)
            else self.as_printed(backend, layer, h, shift)
        )
        update = self.bfmlp4(layer.select_outputs(pooled)).to(h.dtype)  # Eq. 14
        return (layer.select_outputs(h) + update if self.residual else update), layer.select_outputs(moved)

    def reads_shift(self, _layer: LayerGraph) -> bool:
        """Whether it makes a difference where the layer before has moved the cells."""
        return True

    def as_printed(self, backend: Backend, layer: LayerGraph, h: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Run Eqs 11-13 with an MLP on every edge, as they are printed.

        Args:
            backend: Reads cells along edges, and sums edges into cells.
            layer: Graph of N cells.
            h: (N, D) features.
            shift: (N, 2) how far each cell has moved, in radii.

        Returns:
            (N, D) sums of the messages, and (N, 2) shift of the cells.
        """
        graph = layer.graph
        h_i, h_j, product_E, dx_E = backend.read_edges(graph, h, shift)
        # torch defines the gradient of the norm at zero as zero, so self loops do no harm.
        distance_E = torch.linalg.vector_norm(dx_E, dim=-1, keepdim=True)
        int_E = self.bfmlp1(product_E)  # Eq. 11
        msg_E = self.bfmlp2(torch.cat([h_i, h_j, distance_E], dim=-1) * int_E)  # Eq. 12
        moved = shift + backend.sum_edges(graph, dx_E * self.bfmlp3(msg_E))  # Eq. 13
        return backend.sum_edges(graph, msg_E), moved

    def _split(self, layer: LayerGraph, h: Tensor, shift: Tensor, *, moves: bool) -> tuple[Tensor, Tensor]:
        """What `as_printed` computes, up to rounding; the cells stay where they are without `moves`."""
        first = first_map(self.bfmlp2, h, ScalarMLP.of(self.bfmlp1), None)
        # The values of edges that a backward pass reads are half of those of the printed form.
        mlps = self.bfmlp2, self.bfmlp3 if moves else None
        sums = sum_edges(layer.graph, first, mlps, h, shift, keeps_edges=True)
        return self.bfmlp2.last(sums.hidden), shift + sums.step


Layer = FactoredLayer | LiteralLayer | ReleaseLayer


def build_layer(recipe: ModelRecipe) -> Layer:
    """Create the layer that the recipe names.

    Args:
        recipe: The model section of a recipe.

    Returns:
        A layer with fresh weights.
    """
    if recipe.message == "release":
        return ReleaseLayer(recipe)
    return LiteralLayer(recipe) if recipe.message == "mlp" else FactoredLayer(recipe)
