"""A backend that goes through the cells in chunks, so that it stores the edges of one chunk at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.utils.checkpoint import checkpoint

from cifm_backends.base import Backend, EdgeTerms, Graph, Messages, NodeTerms, in_working_precision
from cifm_backends.torch_reference import edge_messages

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 512  # cells


class ChunkedBackend(Backend):
    """Computes a chunk of cells as the torch backend does, and once more in the backward pass instead of storing it."""

    name = "chunked"
    priority = 5  # below torch, so that `auto` does not choose it
    stores_edges = False

    def version(self) -> str:
        """Shown by `cifm backends` and stored with each result."""
        return "cifm-example 1.0"

    def supports(self, device: str) -> bool:
        """Every device of torch."""
        return bool(device)

    @in_working_precision()
    def messages(self, graph: Graph, nodes: NodeTerms, edges: EdgeTerms, shift: Tensor) -> Messages:
        """Run the edge part of a factored layer; see `Backend.messages`."""
        # A graph without cells is one empty chunk, whose results still have a width, a type and gradients.
        parts = [
            checkpoint(sum_chunk, graph, nodes, edges, shift, first, use_reentrant=False)
            for first in range(0, max(1, graph.num_cells), CHUNK)
        ]
        return Messages(*map(torch.cat, zip(*parts, strict=True)))


def sum_chunk(graph: Graph, nodes: NodeTerms, edges: EdgeTerms, shift: Tensor, first: int) -> Messages:
    """Messages that the cells from `first` on receive: (CHUNK, D) and (CHUNK, 2), fewer at the end."""
    starts = graph.indptr[first : first + CHUNK + 1]
    rows = slice(int(starts[0]), int(starts[-1]))
    chunk = Graph(starts, graph.sources[rows], graph.targets[rows], graph.displacement[rows])
    message, step, weight = edge_messages(chunk, nodes, edges, shift)
    own, num_cells = chunk.targets - first, len(starts) - 1
    pooled = message.new_zeros(num_cells, message.shape[1]).index_add(0, own, message)
    total = weight.new_ones(num_cells, 1).index_add(0, own, weight)
    return Messages(pooled, step.new_zeros(num_cells, 2).index_add(0, own, step) / total)
