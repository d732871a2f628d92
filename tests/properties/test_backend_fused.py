"""Properties of the fused backend beyond conformance: threads, unused memory, and the accuracy of its sigmoid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from cifm_backends import fused_cpu, fused_math
from cifm_backends.base import EdgeTerms, Graph, NodeTerms
from cifm_backends.fused_kernels import transpose

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def restored_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def ring(num_cells: int, reach: int) -> Graph:
    """A ring in which each cell receives messages from the `reach` cells before it."""
    targets = torch.arange(num_cells).repeat_interleave(reach)
    sources = (targets.view(-1, reach) - torch.arange(1, reach + 1)).remainder(num_cells).sort(dim=1).values.flatten()
    indptr = torch.arange(num_cells + 1) * reach
    displacement = torch.full((len(sources), 2), 0.3)
    return Graph(indptr, sources, targets, displacement)


def run(graph: Graph, width: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    num_cells = graph.num_cells

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    terms, radial, coordinate, shift = (
        normal(num_cells, 4 * width),
        normal(width, 6),
        normal(width),
        normal(num_cells, 2),
    )
    edges = EdgeTerms(radial, coordinate, 4)
    found = fused_cpu.FusedBackend().messages(graph, NodeTerms(*terms.chunk(4, -1)), edges, shift)
    return [*found, *torch.autograd.grad(found.pooled.sum() + found.shift.sum(), (terms, radial, coordinate, shift))]


def test_the_number_of_threads_changes_no_bit(restored_threads: None) -> None:
    graph = ring(3000, 8)
    assert len(fused_cpu._bounds(fused_cpu._by_target(graph), 64)) > 4
    outputs = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        outputs.append(run(graph, 64))
    for other in outputs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(outputs[0], other, strict=True))


def test_nan_reaches_the_receiving_cells_only() -> None:
    # cell 0 receives from cells 3 and 4, cells 1 and 2 receive from cell 0
    graph, width = ring(5, 2), 4
    terms = torch.ones(5, width)
    source = terms.clone()
    source[0, 1] = torch.nan
    nodes = NodeTerms(terms, terms, terms, source)
    found = fused_cpu.FusedBackend().messages(
        graph, nodes, EdgeTerms(torch.ones(width, 6), torch.ones(width), 2), torch.zeros(5, 2)
    )
    assert found.pooled.isnan().any(dim=1).tolist() == [False, True, True, False, False]


def test_uninitialised_memory_reaches_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three edges do not fill a tile of four; the fourth entry is uninitialised."""

    def scratch_of_nan(layer: fused_math.Layer) -> fused_math.Scratch:
        scratch = fused_math.new_scratch(layer)
        for name in set(scratch._fields) - {"rho", "rho_slope", "tile_rho"}:  # these begin as zeros
            getattr(scratch, name).fill(np.nan)
        return scratch

    expected = run(ring(3, 1), 8)
    monkeypatch.setattr(fused_cpu, "new_scratch", scratch_of_nan)
    assert all(torch.equal(a, b) for a, b in zip(run(ring(3, 1), 8), expected, strict=True))


@pytest.mark.parametrize(("kind", "allowed"), [(np.float32, 4e-7), (np.float64, 1e-15)])
def test_sigmoid_has_the_error_of_a_few_roundings(kind: type, allowed: float) -> None:
    @njit
    def sigmoid_all(values: np.ndarray, out: np.ndarray) -> None:
        for d in range(len(values)):
            out[d] = fused_math.sigmoid(values[d])

    values = np.linspace(-80, 80, 100_001).astype(kind)
    out = np.empty_like(values)
    sigmoid_all(values, out)
    wanted = 1 / (1 + np.exp(-values.astype(np.longdouble)))
    assert float(np.max(np.abs(out - wanted) / wanted)) < allowed
    extremes = np.array([-np.inf, np.inf, np.nan], kind)
    sigmoid_all(extremes, out)
    assert out[0] < 1e-37
    assert out[1] == 1
    assert np.isnan(out[2])


@given(
    st.integers(0, 9).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.tuples(*[st.integers(0, max(n - 1, 0))] * 2))))
)
def test_transpose_sorts_every_edge_by_its_source(drawn: tuple[int, set[tuple[int, int]]]) -> None:
    num_cells, pairs = drawn
    edges = sorted(pairs) if num_cells else []  # (target, source)
    targets, sources = np.array(edges, np.int64).reshape(-1, 2).T.copy()
    indptr = np.searchsorted(targets, np.arange(num_cells + 1))
    index = transpose(indptr, sources)
    listed = [
        (int(index.others[place]), j, int(index.edges[place]))
        for j in range(num_cells)
        for place in range(index.indptr[j], index.indptr[j + 1])
    ]
    wanted = sorted(((j, i, e) for e, (i, j) in enumerate(edges)))
    assert listed == [(i, j, e) for j, i, e in wanted]
