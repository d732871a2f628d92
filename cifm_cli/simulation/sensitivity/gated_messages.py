"""Message passing in which some cells send their messages with a weight, the gate.

A cell with the gate w adds w msg_ij to the sums of its neighbours (Eqs 13-14) and receives the messages of all other cells in
full. With w = 1 it is a cell like any other, with w = 0 the others are as without it. In between, each sum over neighbours is
linear in w, so that the derivative at w = 0 exists. The features of a void cell send no message (Eq. 10), so that its
derivative is zero.

Letters: E edges, X added cells.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch.utils.checkpoint import checkpoint

from cifm_backends.base import Backend, EdgeTerms, Graph, Messages, NodeTerms
from cifm_backends.torch_reference import edge_messages
from cifm_cli.data.graph import LayerGraph

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True)
class GatedGraph(Graph):
    """A graph whose edges have weights."""

    gate: Tensor = field(kw_only=True)  # (E,) weight of the message of each edge


class GatedBackend(Backend):
    """Plain torch operations, which multiply the messages of each edge of a `GatedGraph` by its gate."""

    name = "gated"

    def version(self) -> str:
        """Version of torch."""
        return f"torch {torch.__version__}"

    def supports(self, device: str) -> bool:
        """Every device of torch."""
        return bool(device)

    def messages(self, graph: Graph, nodes: NodeTerms, edges: EdgeTerms, shift: Tensor) -> Messages:
        """Run the edge part of a factored layer; see `Backend.messages`."""
        # Only values of cells are stored for the derivative; those of edges, which take most memory, are computed twice.
        result = checkpoint(self._sum_messages, graph, nodes, edges, shift, use_reentrant=False)
        return Messages(*result)

    def _sum_messages(self, graph: Graph, nodes: NodeTerms, edges: EdgeTerms, shift: Tensor) -> tuple[Tensor, Tensor]:
        sent = edge_messages(graph, nodes, edges, shift)
        pooled, step, weight = (self.sum_edges(graph, values) for values in sent)
        return pooled, step / (1 + weight)

    def sum_edges(self, graph: Graph, values: Tensor) -> Tensor:
        """Sum gated values of edges over the edges of each receiving cell."""
        if not isinstance(graph, GatedGraph):
            raise TypeError("the graph has no gates")
        return super().sum_edges(graph, values * graph.gate[:, None].to(values.dtype))


@dataclass(frozen=True)
class GatedLayers:
    """Graphs of consecutive layers, and the added cell whose gate each edge has."""

    layers: tuple[LayerGraph, ...]
    gates: tuple[Tensor, ...]  # for each layer (E,), positions in the gates; X for an edge whose weight is 1

    def with_gates(self, gate: Tensor) -> tuple[LayerGraph, ...]:
        """The graphs with (X,) gates of the added cells."""
        padded = torch.cat([gate, gate.new_ones(1)])
        return tuple(
            LayerGraph(_gated(layer.graph, padded[number]), layer.outputs)
            for layer, number in zip(self.layers, self.gates, strict=True)
        )


def assign_gates(layers: Sequence[LayerGraph], added: Tensor, num_added: int) -> tuple[GatedLayers, Tensor]:
    """Find the edges that added cells send, and remove those between two of them.

    Added cells do not act on each other: the sum of two infinitesimal effects is their joint effect.

    Args:
        layers: Graphs of consecutive layers.
        added: (n,) number of the added cell that each input cell of the first layer is; -1 for other cells.
        num_added: X.

    Returns:
        The layers, and `added` for the output cells of the last one.
    """
    kept, gates = [], []
    for layer in layers:
        graph = layer.graph
        source, target = added[graph.sources], added[graph.targets]
        is_loop = graph.sources == graph.targets  # an added cell reads itself in full
        keep = (source < 0) | (target < 0) | is_loop
        gates.append(torch.where((source >= 0) & ~is_loop, source, num_added)[keep])
        kept.append(LayerGraph(_take_edges(graph, keep), layer.outputs))
        added = added[layer.outputs]
    return GatedLayers(tuple(kept), tuple(gates)), added


def _take_edges(graph: Graph, keep: Tensor) -> Graph:
    targets = graph.targets[keep]
    degrees = torch.bincount(targets, minlength=graph.num_cells)
    indptr = torch.cat([degrees.new_zeros(1), degrees.cumsum(0)])
    return Graph(indptr, graph.sources[keep], targets, graph.displacement[keep])


def _gated(graph: Graph, gate: Tensor) -> GatedGraph:
    return GatedGraph(graph.indptr, graph.sources, graph.targets, graph.displacement, gate=gate)
