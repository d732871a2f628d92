"""The radius graph A(C) of Eq. 1, derived from coordinates whenever it is needed and never stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from cifm_backends.base import Graph

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
