"""The radius graph of five cells, drawn."""

from __future__ import annotations

import numpy as np
import pytest

from cifm_cli.data.graph import edgeless_graph, radius_graph

#   0 --20-- 1        4       radius 20: an edge where distance <= radius,
#            |                so 0-1 (exactly 20) and 1-2, 1-3; 2 and 3 have the same position
#          2 3
XY_UM = np.array([[0.0, 0.0], [20.0, 0.0], [20.0, 15.0], [20.0, 15.0], [90.0, 0.0]])


def test_edges_of_five_cells() -> None:
    graph = radius_graph(XY_UM, 20.0)
    rows = [graph.sources[a:b].tolist() for a, b in zip(graph.indptr[:-1], graph.indptr[1:], strict=True)]
    assert rows == [[1], [0, 2, 3], [1, 3], [1, 2], []]
    assert graph.targets.tolist() == [0, 1, 1, 1, 2, 2, 3, 3]
    assert graph.displacement.tolist() == [
        [-1.0, 0.0],
        [1.0, 0.0],
        [0.0, -0.75],
        [0.0, -0.75],
        [0.0, 0.75],
        [0.0, 0.0],
        [0.0, 0.75],
        [0.0, 0.0],
    ]


def test_self_loops_add_the_diagonal() -> None:
    graph = radius_graph(XY_UM, 20.0, self_loops=True)
    assert graph.num_edges == 8 + 5
    assert graph.sources[graph.indptr[4] : graph.indptr[5]].tolist() == [4]


@pytest.mark.parametrize("num_cells", [0, 1])
def test_graph_of_no_cells_or_one_cell(num_cells: int) -> None:
    graph = radius_graph(np.zeros((num_cells, 2)), 20.0)
    assert (graph.num_cells, graph.num_edges) == (num_cells, 0)
    assert edgeless_graph(num_cells, self_loops=True).num_edges == num_cells


def test_displacements_are_exact_far_from_the_origin() -> None:
    near, far = radius_graph(XY_UM, 20.0), radius_graph(XY_UM + 2.0**24, 20.0)
    assert near.displacement.tolist() == far.displacement.tolist()
