"""The radius graph A(C) of Eq. 1. It is computed from the coordinates when needed, and never stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from cifm_backends.base import Graph
from cifm_cli.data.pairs import pairs_within

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    # Subtracted in double precision: float32 cannot resolve small distances between large coordinates.
    displacement = (xy_um[targets] - xy_um[sources]) / radius_um
    return _from_sorted(
        len(xy_um), torch.from_numpy(sources), torch.from_numpy(targets), torch.from_numpy(displacement).to(dtype)
    )


def subgraph(graph: Graph, cells: torch.Tensor) -> Graph:
    """Take the subgraph of some of the cells, which equals the radius graph of those cells.

    Args:
        graph: A radius graph over N cells.
        cells: (n,) int64 ascending cells of the subgraph.

    Returns:
        The graph over the n cells, numbered by their position in `cells`.
    """
    # New number of each cell; -1 marks cells outside the subgraph.
    position = torch.full((graph.num_cells,), -1, dtype=torch.int64, device=cells.device)
    position[cells] = torch.arange(len(cells), device=cells.device)
    sources, targets = position[graph.sources], position[graph.targets]
    # As numbers, not as a mask, which every selection would search again.
    inside = ((sources >= 0) & (targets >= 0)).nonzero().ravel()
    return _from_sorted(len(cells), sources[inside], targets[inside], graph.displacement[inside])


def layer_graphs(graph: Graph, output_cells: torch.Tensor, num_layers: int) -> tuple[torch.Tensor, list[LayerGraph]]:
    """Restrict each layer to the cells and edges that affect some output cells. Their values are the same as with all.

    Args:
        graph: Graph over N cells.
        output_cells: (k,) int64 ascending cells whose values after the last layer are requested.
        num_layers: Number of layers of message passing, at least one.

    Returns:
        (n,) ascending input cells of the first layer, and the graph of each layer.
    """
    reached = torch.zeros(graph.num_cells, dtype=torch.bool, device=output_cells.device)
    reached[output_cells] = True
    cells, layers = output_cells, []
    for _ in range(num_layers):  # from the last layer to the first
        # Edges that end in a cell whose value is needed after this layer.
        needed = reached[graph.targets].nonzero().ravel()
        outputs = cells
        reached[graph.sources[needed]] = True
        cells = reached.nonzero().ravel()
        # Only positions of needed cells are used, so the others may be undefined.
        position = torch.empty_like(graph.indptr[:-1])
        position[cells] = torch.arange(len(cells), device=cells.device)
        inner = _from_sorted(
            len(cells), position[graph.sources[needed]], position[graph.targets[needed]], graph.displacement[needed]
        )
        # Cells that were output cells stay input cells, as a layer updates a cell from its own value too.
        layers.append(LayerGraph(inner, position[outputs]))
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
    return _from_sorted(num_cells, cells, cells, torch.zeros(len(cells), 2, dtype=dtype))


def _from_sorted(num_cells: int, sources: torch.Tensor, targets: torch.Tensor, displacement: torch.Tensor) -> Graph:
    # `minlength`, so that isolated cells at the end have a row too.
    degrees = torch.bincount(targets, minlength=num_cells)
    indptr = torch.cat([degrees.new_zeros(1), degrees.cumsum(0)])
    return Graph(indptr, sources, targets, displacement)
