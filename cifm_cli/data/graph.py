"""The radius graph A(C) of Eq. 1, derived from coordinates whenever it is needed and never stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from cifm_backends.base import Graph

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class LayerGraph:
    """What one layer runs on: the farther from the cells that are asked for, the fewer layers a cell matters to.

    Args:
        graph: Over the n cells that the layer reads; only cells that are kept receive edges.
        kept: (k,) positions, ascending, of the cells that the next layer reads; after the last layer, of those asked for.
    """

    graph: Graph
    kept: torch.Tensor

    def keep(self, values: torch.Tensor) -> torch.Tensor:
        """The (k, ...) rows of (n, ...) values that are kept; not a copy where all of them are."""
        return values if len(self.kept) == len(values) else values.index_select(0, self.kept)

    def to(self, device: torch.device) -> LayerGraph:
        """Copy to a device."""
        return LayerGraph(move_graph(self.graph, device), self.kept.to(device))


def radius_graph(
    xy_um: NDArray[np.float64], radius_um: float, *, self_loops: bool = False, dtype: torch.dtype = torch.float32
) -> Graph:
    """Join cells at most one radius apart (paper, B.1: an edge where distance <= radius).

    Args:
        xy_um: (N, 2) cell centres in micrometres; cells may share a place.
        radius_um: Radius in micrometres.
        self_loops: Also join every cell with itself, as the paper's formula does.
        dtype: Precision of the displacements.

    Returns:
        A graph with both directions of every edge, displacements in radii.
    """
    num_cells = len(xy_um)
    pairs = cKDTree(xy_um).query_pairs(radius_um, output_type="ndarray") if num_cells else np.empty((0, 2), np.intp)
    loops = np.repeat(np.arange(num_cells if self_loops else 0), 2).reshape(-1, 2)
    ends = np.concatenate([pairs, pairs[:, ::-1], loops])
    # Sorted by target, then source, by compressing twice: every cell sums its messages in slide order, in a tile as in
    # the whole slide.
    by_source = csr_matrix((np.ones(len(ends), np.int8), ends.T), (num_cells, num_cells))
    rows = by_source.T.tocsr()
    sources, targets = rows.indices.astype(np.int64), np.repeat(np.arange(num_cells), np.diff(rows.indptr))
    displacement = (xy_um[targets] - xy_um[sources]) / radius_um
    return _from_sorted(
        num_cells, torch.from_numpy(sources), torch.from_numpy(targets), torch.from_numpy(displacement).to(dtype)
    )


def subgraph(graph: Graph, cells: torch.Tensor) -> Graph:
    """The graph of some of the cells, as if it had been built from them alone.

    Args:
        graph: Any radius graph over N cells.
        cells: (n,) int64 ascending cells to keep.

    Returns:
        The graph over the n cells, numbered by their position in `cells`.
    """
    position = torch.full((graph.num_cells,), -1, dtype=torch.int64, device=cells.device)
    position[cells] = torch.arange(len(cells), device=cells.device)
    sources, targets = position[graph.sources], position[graph.targets]
    kept = (sources >= 0) & (targets >= 0)
    return _from_sorted(len(cells), sources[kept], targets[kept], graph.displacement[kept])


def shells(graph: Graph, wanted: torch.Tensor, num_layers: int) -> tuple[torch.Tensor, list[LayerGraph]]:
    """Cut a graph down to what some cells need, layer by layer; what they get is what the whole graph would give them.

    Args:
        graph: Over N cells.
        wanted: (k,) int64 cells that are asked for after the last layer, ascending.
        num_layers: Of message passing, at least one.

    Returns:
        (n,) ascending cells that the first layer reads, and what each layer runs on.
    """
    reached = torch.zeros(graph.num_cells, dtype=torch.bool, device=wanted.device)
    reached[wanted] = True
    cells, found = wanted, []
    for _ in range(num_layers):
        needed = reached[graph.targets]
        asked = cells
        reached = reached.index_fill(0, graph.sources[needed], value=True)
        cells = reached.nonzero().ravel()
        position = torch.empty_like(graph.indptr[:-1])
        position[cells] = torch.arange(len(cells), device=cells.device)
        inner = _from_sorted(
            len(cells), position[graph.sources[needed]], position[graph.targets[needed]], graph.displacement[needed]
        )
        found.append(LayerGraph(inner, position[asked]))
    return cells, found[::-1]


def whole(graph: Graph, num_layers: int) -> list[LayerGraph]:
    """All cells in every layer.

    Args:
        graph: Over N cells.
        num_layers: Of message passing.

    Returns:
        What each layer runs on.
    """
    return [LayerGraph(graph, torch.arange(graph.num_cells, device=graph.indptr.device))] * num_layers


def move_graph(graph: Graph, device: torch.device) -> Graph:
    """Copy a graph to a device."""
    return Graph(
        graph.indptr.to(device), graph.sources.to(device), graph.targets.to(device), graph.displacement.to(device)
    )


def without_edges(num_cells: int, *, self_loops: bool, dtype: torch.dtype = torch.float32) -> Graph:
    """The graph of cells that see nobody: what a cell embedding is computed on (paper, section 4).

    Args:
        num_cells: N.
        self_loops: Join every cell with itself, where the model was trained so.
        dtype: Precision of the displacements.

    Returns:
        A graph without edges between cells.
    """
    cells = torch.arange(num_cells if self_loops else 0)
    return _from_sorted(num_cells, cells, cells, torch.zeros(len(cells), 2, dtype=dtype))


def _from_sorted(num_cells: int, sources: torch.Tensor, targets: torch.Tensor, displacement: torch.Tensor) -> Graph:
    degrees = torch.bincount(targets, minlength=num_cells)
    indptr = torch.cat([degrees.new_zeros(1), degrees.cumsum(0)])
    return Graph(indptr, sources, targets, displacement)
