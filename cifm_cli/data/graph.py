"""The radius graph A(C) of Eq. 1. It is computed from the coordinates when needed, and never stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from cifm_backends.base import Graph
from cifm_cli.data.pairs import pairs_within
from cifm_cli.jit import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.jit import Array


@dataclass(frozen=True)
class LayerGraph:
    """The graph of one layer of message passing.

    A cell several radii away from the output cells affects only the first layers, so later layers run on fewer cells.
    """

    graph: Graph  # graph over the n input cells of the layer; only output cells receive edges
    # (k,) ascending positions of the output cells among the input cells. They are the input cells of the next layer, or
    # the requested cells after the last layer.
    outputs: torch.Tensor

    def select_outputs(self, values: torch.Tensor) -> torch.Tensor:
        """The (k, ...) rows of the output cells among (n, ...) values; the values themselves if k = n."""
        return values if len(self.outputs) == len(values) else values.index_select(0, self.outputs)

    def to(self, device: torch.device) -> LayerGraph:
        """Copy to a device."""
        return LayerGraph(move_graph(self.graph, device), self.outputs.to(device))


def radius_graph(
    xy_um: NDArray[np.float64], radius_um: float, *, self_loops: bool = False, dtype: torch.dtype = torch.float32
) -> Graph:
    """Connect cells whose distance is at most the radius (paper, B.1).

    Args:
        xy_um: (N, 2) cell centres in micrometres; several cells may have the same coordinates.
        radius_um: Radius in micrometres.
        self_loops: Whether to connect every cell with itself too, as the formula of the paper does.
        dtype: Type of the displacements.

    Returns:
        The graph, with both directions of every edge, and displacements in units of the radius.
    """
    # In this order, by target and then by source, every cell sums its messages in the order of the slide, so that a tile
    # gives bitwise the same sums as the whole slide.
    indptr, sources, _ = pairs_within(xy_um, xy_um, radius_um)
    targets = np.repeat(np.arange(len(xy_um)), np.diff(indptr))
    if not self_loops:
        other = sources != targets
        sources, targets = sources[other], targets[other]
        indptr = np.searchsorted(targets, np.arange(len(xy_um) + 1))
    displacement = torch.empty(len(sources), 2, dtype=dtype)
    _displace(xy_um, sources, targets, radius_um, displacement.numpy())
    return Graph(torch.from_numpy(indptr), torch.from_numpy(sources), torch.from_numpy(targets), displacement)


def subgraph(graph: Graph, cells: torch.Tensor) -> Graph:
    """Take the subgraph of some of the cells, which equals the radius graph of those cells.

    Args:
        graph: A radius graph over N cells, on the CPU.
        cells: (n,) int64 ascending cells of the subgraph.

    Returns:
        The graph over the n cells, numbered by their position in `cells`.
    """
    is_inside = torch.zeros(graph.num_cells, dtype=torch.bool)
    is_inside[cells] = True
    return _restrict(graph, cells, is_inside)


def layer_graphs(graph: Graph, output_cells: torch.Tensor, num_layers: int) -> tuple[torch.Tensor, list[LayerGraph]]:
    """Restrict each layer to the cells and edges that affect some output cells. Their values are the same as with all.

    Args:
        graph: Graph over N cells, on the CPU.
        output_cells: (k,) int64 ascending cells whose values after the last layer are requested.
        num_layers: Number of layers of message passing, at least one.

    Returns:
        (n,) ascending input cells of the first layer, and the graph of each layer.
    """
    reached = torch.zeros(graph.num_cells, dtype=torch.bool)
    reached[output_cells] = True
    cells, layers = output_cells, []
    for _ in range(num_layers):  # from the last layer to the first
        outputs, has_edges = cells, reached.clone()
        _reach(graph.indptr.numpy(), graph.sources.numpy(), outputs.numpy(), reached.numpy())
        cells = reached.nonzero().ravel()
        # Cells that were output cells stay input cells, as a layer updates a cell from its own value too.
        layers.append(LayerGraph(_restrict(graph, cells, has_edges), torch.searchsorted(cells, outputs)))
    return cells, layers[::-1]


def full_layer_graphs(graph: Graph, num_layers: int) -> list[LayerGraph]:
    """The graph of each layer if all cells are output cells.

    Args:
        graph: Graph over N cells.
        num_layers: Number of layers of message passing.

    Returns:
        The whole graph, once per layer.
    """
    # The same object for every layer: it is never changed, and would take memory for each copy.
    return [LayerGraph(graph, torch.arange(graph.num_cells, device=graph.indptr.device))] * num_layers


def move_graph(graph: Graph, device: torch.device) -> Graph:
    """Copy a graph to a device."""
    return Graph(
        graph.indptr.to(device), graph.sources.to(device), graph.targets.to(device), graph.displacement.to(device)
    )


def edgeless_graph(num_cells: int, *, self_loops: bool, dtype: torch.dtype = torch.float32) -> Graph:
    """A graph without edges between cells, on which cell embeddings are computed (paper, section 4).

    Args:
        num_cells: N.
        self_loops: Whether to connect every cell with itself, if the model was trained so.
        dtype: Type of the displacements.

    Returns:
        The graph.
    """
    cells = torch.arange(num_cells if self_loops else 0)
    indptr = torch.arange(num_cells + 1) if self_loops else torch.zeros(num_cells + 1, dtype=torch.int64)
    return Graph(indptr, cells, cells, torch.zeros(len(cells), 2, dtype=dtype))


def _restrict(graph: Graph, cells: torch.Tensor, has_edges: torch.Tensor) -> Graph:
    """Take some of the cells, with the edges from them to those among them that have edges.

    Args:
        graph: Graph over N cells, on the CPU.
        cells: (n,) int64 ascending cells.
        has_edges: (N,) whether edges to a cell are kept.

    Returns:
        The graph over the n cells, numbered by their position in `cells`.
    """
    # New number of each cell; -1 marks the others.
    position = np.full(graph.num_cells, -1)
    position[cells.numpy()] = np.arange(len(cells))
    indptr = np.zeros(len(cells) + 1, np.int64)
    edges, sources, targets = (np.empty(graph.num_edges, np.int64) for _ in range(3))
    # Their number is known at the end only.
    number = _keep_edges(
        graph.indptr.numpy(),
        graph.sources.numpy(),
        cells.numpy(),
        has_edges.numpy(),
        position,
        indptr,
        edges,
        sources,
        targets,
    )
    kept, own_sources, own_targets = (torch.from_numpy(each[:number]) for each in (edges, sources, targets))
    return Graph(torch.from_numpy(indptr), own_sources, own_targets, graph.displacement.index_select(0, kept))


@compiled
def _displace(xy_um: Array, sources: Array, targets: Array, radius_um: float, displacement: Array) -> None:
    for edge in range(len(sources)):
        for axis in range(2):
            # In double precision: float32 cannot resolve small distances between large coordinates.
            displacement[edge, axis] = (xy_um[targets[edge], axis] - xy_um[sources[edge], axis]) / radius_um


@compiled
def _reach(indptr: Array, sources: Array, cells: Array, reached: Array) -> None:
    """Mark the cells with an edge to some cells."""
    for cell in cells:
        for edge in range(indptr[cell], indptr[cell + 1]):
            reached[sources[edge]] = True


@compiled
def _keep_edges(  # noqa: PLR0913, PLR0917 - compiled code takes arrays, not objects
    indptr: Array,
    sources: Array,
    cells: Array,
    has_edges: Array,
    position: Array,
    kept_indptr: Array,
    kept: Array,
    kept_sources: Array,
    kept_targets: Array,
) -> int:
    number = 0
    for target in range(len(cells)):
        cell = cells[target]
        if has_edges[cell]:
            for edge in range(indptr[cell], indptr[cell + 1]):
                # What has no number is overwritten.
                source = position[sources[edge]]
                kept[number], kept_sources[number], kept_targets[number] = edge, source, target
                number += source >= 0
        kept_indptr[target + 1] = number
    return number
