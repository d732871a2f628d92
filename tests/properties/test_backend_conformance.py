"""Every backend that loads passes the conformance checks, and backends with a mistake fail them."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

import pytest
import torch
from builders import available_backend

import cifm_backends
from cifm_backends.base import EdgeTerms, EdgeValues, Graph, Messages, NodeTerms
from cifm_backends.conformance import check
from cifm_backends.conformance.cases import Inputs, all_cases, draw_case
from cifm_backends.torch_reference import TorchBackend

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


DTYPES = (torch.float64, torch.float32, torch.bfloat16)
REGISTERED = sorted(entry.name for entry in metadata.entry_points(group=cifm_backends.GROUP))


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.dgl if n == "dgl" else ()) for n in REGISTERED])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_backend_passes_the_conformance_checks(
    name: str, dtype: torch.dtype, record_property: Callable[[str, object], None]
) -> None:
    results = check(available_backend(name), (dtype,))
    measured = [result for result in results if result.tolerance > 0]
    record_property("worst", str(max(measured, key=lambda result: result.error / result.tolerance)))
    assert not [str(result) for result in results if not result.passed]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.dgl if n == "dgl" else ()) for n in REGISTERED])
def test_gradients_pass_gradcheck(name: str) -> None:
    backend = available_backend(name)
    case = next(case for case in all_cases() if case.name == "self loops")
    run = draw_case(backend, case, torch.float64, "cpu")
    leaves = tuple(value.requires_grad_() for value in run.inputs)
    assert torch.autograd.gradcheck(lambda *values: run.outputs(Inputs(*values)), leaves)


class Broken(TorchBackend):
    """A backend with one mistake."""

    def __init__(self, mistake: str) -> None:
        self.mistake = mistake

    def messages(self, graph: Graph, nodes: NodeTerms, edges: EdgeTerms, shift: Tensor) -> Messages:
        if self.mistake == "no gradient to senders":
            nodes = nodes._replace(source=nodes.source.detach())
        if self.mistake == "transposed":
            nodes = NodeTerms(nodes.key, nodes.query, nodes.target, nodes.source)
        if self.mistake == "one head":
            edges = EdgeTerms(edges.radial, edges.coordinate, 1)
        if self.mistake == "shift of the receiver only":
            shift = shift - shift.detach()
        messages = super().messages(graph, nodes, edges, shift)
        if self.mistake == "divided by the degree":
            degree = (graph.indptr[1:] - graph.indptr[:-1]).clamp(min=1)[:, None]
            return messages._replace(shift=messages.shift / degree)
        if self.mistake == "float32 inside":
            return Messages(messages.pooled.float().to(messages.pooled.dtype), messages.shift)
        if self.mistake == "noise in cell 0" and graph.num_cells:
            return messages._replace(pooled=messages.pooled + 1e-9 * torch.rand_like(messages.pooled))
        return messages

    def read_edges(self, graph: Graph, h: Tensor, shift: Tensor) -> EdgeValues:
        values = super().read_edges(graph, h, shift)
        if self.mistake == "literal form: ends exchanged":
            return values._replace(target=values.source, source=values.target)
        return values

    def sum_edges(self, graph: Graph, values: Tensor) -> Tensor:
        if self.mistake == "literal form: no gradient to edges":
            values = values.detach()
        return super().sum_edges(graph, values)


@pytest.mark.parametrize(
    ("mistake", "quantity"),
    [
        ("no gradient to senders", "gradient of source"),
        ("transposed", "pooled"),
        ("one head", "pooled"),
        ("shift of the receiver only", "moved"),
        ("divided by the degree", "moved"),
        ("float32 inside", "pooled"),
        ("noise in cell 0", "tensors that change between two runs"),
        ("literal form: ends exchanged", "literal form: target"),
        ("literal form: no gradient to edges", "literal form: gradient of carried"),
    ],
)
def test_every_mistake_fails_a_check(mistake: str, quantity: str) -> None:
    failures = [result for result in check(Broken(mistake), (torch.float64,)) if not result.passed]
    assert quantity in {result.quantity for result in failures}
    assert all(str(result).startswith("FAILED") for result in failures)


def test_a_backend_without_mistake_passes() -> None:
    assert all(result.passed for result in check(Broken("none"), (torch.float64,)))
