"""The reference backend: Eqs 11-13 in plain tensor operations, on any device and in any precision."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from cifm_backends.base import Backend, EdgeTerms, Graph, Messages, NodeTerms, in_working_precision


def radial_basis(squared: Tensor, num_basis: int) -> Tensor:
    """Gaussians of the distance, from flat to narrow, faded to zero at the radius.

    They are functions of the squared distance, so they are smooth where two cells have the same position.
    rho_b(u) = (1 - u)^2 exp(-beta_b u) for u < 1, else 0; beta_b = 0, 1, 2, 4, 8, ...

    Args:
        squared: (E,) squared distance in squared radii.
        num_basis: B.

    Returns:
        (E, B) values in [0, 1].
    """
    beta = torch.tensor([0.0, *(2.0**b for b in range(num_basis - 1))], dtype=squared.dtype, device=squared.device)
    fade = (1 - squared).clamp(min=0).square()
    return fade[:, None] * torch.exp(-squared[:, None] * beta)


def intensity(product: Tensor) -> Tensor:
    """The phi of Eq. 11: bounded, and smooth and zero at zero, so that void cells send and receive no messages."""
    return product / (1 + product.abs())


class TorchBackend(Backend):
    """Gathers features to edges, multiplies them there, and adds the results to cells. Holds a few E x D tensors."""

    name = "torch"
    priority = 10

    def version(self) -> str:
        """Version of torch."""
        return f"torch {torch.__version__}"

    def supports(self, device: str) -> bool:
        """Every device of torch."""
        return bool(device)

    @in_working_precision()
    def messages(self, graph: Graph, nodes: NodeTerms, edges: EdgeTerms, shift: Tensor) -> Messages:
        """Run the edge part of a factored layer; see `Backend.messages`."""
        i_E = graph.targets
        msg_E, step_E, weight_E = edge_messages(graph, nodes, edges, shift)
        # Sum over the edges of each receiving cell (Eq. 14, inner sum)
        pooled = torch.zeros_like(nodes.target).index_add(0, i_E, msg_E)
        # The step is divided by the sum of intensities, so that void cells do not change it, as their number would.
        total = weight_E.new_ones(graph.num_cells, 1).index_add(0, i_E, weight_E)
        return Messages(pooled, torch.zeros_like(shift).index_add(0, i_E, step_E) / total)  # Eq. 13


class EdgeMessages(NamedTuple):
    """What each edge adds to the sums of its receiving cell."""

    message: Tensor  # (E, D) msg_ij
    step: Tensor  # (E, 2) dx <v, msg_ij>
    weight: Tensor  # (E, 1) mean_h |Int_ijh|


def edge_messages(graph: Graph, nodes: NodeTerms, edges: EdgeTerms, shift: Tensor) -> EdgeMessages:
    """Compute the messages of a factored layer, before they are summed; see `Backend.messages`."""
    i_E, j_E = graph.targets, graph.sources
    num_heads = edges.num_heads
    dx_E = graph.displacement + shift[i_E] - shift[j_E]
    rho_E = radial_basis(dx_E.square().sum(-1), edges.radial.shape[1])
    query_E = nodes.query[i_E].unflatten(-1, (num_heads, -1))
    key_E = nodes.key[j_E].unflatten(-1, (num_heads, -1))
    int_E = intensity((query_E * key_E).sum(-1) * query_E.shape[-1] ** -0.5)  # Eq. 11
    inner_E = functional.silu(nodes.target[i_E] + nodes.source[j_E] + rho_E @ edges.radial.T)
    msg_E = (inner_E.unflatten(-1, (num_heads, -1)) * int_E[..., None]).flatten(-2)  # Eq. 12
    step_E = dx_E * (msg_E @ edges.coordinate)[:, None]
    return EdgeMessages(msg_E, step_E, int_E.abs().mean(-1, keepdim=True))
