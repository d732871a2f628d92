"""Reference of the conformance checks: Eqs 11-13 over all N x N pairs of cells, differentiated by torch.

It shares no code with any backend. Letters as in `cases`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from cifm_backends.conformance.cases import Case, Inputs


def dense_messages(case: Case, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Compute Eqs 11-13 over all pairs (i, j) of cells; see `Backend.messages`."""
    num_cells, head_width = len(case.mask), case.width // case.num_heads
    dx = dense_displacement(case.mask, inputs.displacement) + inputs.shift[:, None] - inputs.shift[None]
    squared = (dx * dx).sum(-1)
    # beta_b = 0, 1, 2, 4, ... is written out, since this file shares no code with the backends.
    beta = [0, 1, 2, 4, 8, 16, 32, 64, 128][: case.num_basis]
    fade = torch.where(squared < 1, (1 - squared) ** 2, 0.0)
    rho = torch.stack([fade * torch.exp(-b * squared) for b in beta], dim=-1)
    # The same split into heads as in the backends: consecutive features belong to one head.
    query, key = (t.reshape(num_cells, case.num_heads, head_width) for t in (inputs.query, inputs.key))
    # Eq. 11
    inner = torch.einsum("ihp,jhp->ijh", query, key) / head_width**0.5
    # a pair without an edge has no intensity, and so no message.
    intensity = torch.where(case.mask[..., None], inner / (1 + inner.abs()), 0.0)
    argument = inputs.target[:, None] + inputs.source[None] + torch.einsum("ijb,db->ijd", rho, inputs.radial)
    # Eq. 12, with silu(x) = x / (1 + exp(-x)) written out
    message = argument / (1 + torch.exp(-argument)) * intensity.repeat_interleave(head_width, dim=-1)
    # Eq. 13
    step = torch.einsum("ijc,ijd,d->ic", dx, message, inputs.coordinate)
    return message.sum(1), step / (1 + intensity.abs().mean(-1).sum(1, keepdim=True))


def dense_edges(mask: Tensor, h: Tensor, shift: Tensor, displacement: Tensor, carried: Tensor) -> dict[str, Tensor]:
    """Compute `Backend.read_edges`, and `Backend.sum_edges` of `carried`, by (E, N) incidence matrices."""
    edges = mask.nonzero()
    receives, sends = (edges[:, [end]] == torch.arange(len(mask)) for end in range(2))
    target, source = receives.to(h) @ h, sends.to(h) @ h
    product = torch.einsum("ed,ed->e", target, source)[:, None] / h.shape[1]
    moved = displacement + (receives.to(h) - sends.to(h)) @ shift
    return {
        "target": target,
        "source": source,
        "product": product,
        "displacement": moved,
        "sum": receives.T.to(h) @ carried,
    }


def dense_displacement(mask: Tensor, displacement: Tensor) -> Tensor:
    """(N, N, 2) displacement of every pair, zero where there is no edge."""
    dense = torch.zeros(*mask.shape, 2, dtype=displacement.dtype, device=displacement.device)
    return dense.index_put(mask.to(displacement.device).nonzero(as_tuple=True), displacement)
