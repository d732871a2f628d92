"""A backend that sums edges as segments, since they are sorted by receiving cell."""

from __future__ import annotations

import torch
from torch import Tensor

from cifm_backends.base import Backend, EdgeTerms, Graph, Messages, NodeTerms, in_working_precision
from cifm_backends.torch_reference import edge_messages


class SegmentsBackend(Backend):
    """Inherits the operations of the literal form; only `messages` is its own."""

    name = "segments"
    priority = 5  # below the backends of cifm, so `auto` does not take it

    def version(self) -> str:
        """Version of torch."""
        return f"torch {torch.__version__}"

    def supports(self, device: str) -> bool:
        """The CPU only."""
        return device == "cpu"

    @in_working_precision()
    def messages(self, graph: Graph, nodes: NodeTerms, edges: EdgeTerms, shift: Tensor) -> Messages:
        """Run the edge part of a factored layer; see `Backend.messages`."""
        message, step, weight = edge_messages(graph, nodes, edges, shift)
        # One matrix (E, D + 3), so that there is one sum.
        sums = _segment_sums(torch.cat([message, step, weight], dim=1), graph.indptr)
        pooled, step, total = sums.split([message.shape[1], 2, 1], dim=1)
        return Messages(pooled, step / (1 + total))


def _segment_sums(values: Tensor, indptr: Tensor) -> Tensor:
    """Sums of the rows `indptr[i]` to `indptr[i + 1]` of (E, F) values, as (N, F)."""
    # `segment_reduce` does not accept an empty matrix, and a graph may have no edges.
    padded = torch.cat([values, values.new_zeros(1, values.shape[1])])
    lengths = torch.cat([indptr.diff(), indptr.new_ones(1)])
    return torch.segment_reduce(padded, "sum", lengths=lengths, initial=0.0)[:-1]
