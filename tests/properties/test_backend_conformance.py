"""Every backend that loads obeys the laws of the seam, and the laws catch backends that don't."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

import pytest
import torch

import cifm_backends
from cifm_backends.base import EdgeTerms, EdgeValues, Graph, Messages, NodeTerms
from cifm_backends.conformance import check
from cifm_backends.conformance_cases import Inputs, cases, draw
from cifm_backends.torch_reference import TorchBackend

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from cifm_backends.base import Backend

DTYPES = (torch.float64, torch.float32, torch.bfloat16)
REGISTERED = sorted(entry.name for entry in metadata.entry_points(group=cifm_backends.GROUP))


def loaded(name: str) -> Backend:
    status = cifm_backends.available()[name]
    if status.backend is None:
        pytest.skip(status.problem)
    return status.backend


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.dgl if n == "dgl" else ()) for n in REGISTERED])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_law_holds(name: str, dtype: torch.dtype, record_property: Callable[[str, object], None]) -> None:
    findings = check(loaded(name), (dtype,))
    measured = [finding for finding in findings if finding.tolerance > 0]
    record_property("worst", str(max(measured, key=lambda finding: finding.error / finding.tolerance)))
    assert not [str(finding) for finding in findings if not finding.holds]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.dgl if n == "dgl" else ()) for n in REGISTERED])
def test_gradients_pass_gradcheck(name: str) -> None:
    backend = loaded(name)
    case = next(case for case in cases() if case.name == "self loops")
    trial = draw(backend, case, torch.float64, "cpu")
    leaves = tuple(value.requires_grad_() for value in trial.inputs)
    assert torch.autograd.gradcheck(lambda *values: trial.run(Inputs(*values)), leaves)


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
        found = super().messages(graph, nodes, edges, shift)
        if self.mistake == "divided by the degree":
            degree = (graph.indptr[1:] - graph.indptr[:-1]).clamp(min=1)[:, None]
            return found._replace(shift=found.shift / degree)
        if self.mistake == "float32 inside":
            return Messages(found.pooled.float().to(found.pooled.dtype), found.shift)
        if self.mistake == "cell 0 hears noise" and graph.num_cells:
            return found._replace(pooled=found.pooled + 1e-9 * torch.rand_like(found.pooled))
        return found

    def read_edges(self, graph: Graph, h: Tensor, shift: Tensor) -> EdgeValues:
        found = super().read_edges(graph, h, shift)
        if self.mistake == "literal form: ends exchanged":
            return found._replace(target=found.source, source=found.target)
        return found

    def sum_edges(self, graph: Graph, values: Tensor) -> Tensor:
        if self.mistake == "literal form: no gradient to edges":
            values = values.detach()
        return super().sum_edges(graph, values)


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        ("no gradient to senders", "gradient of source"),
        ("transposed", "pooled"),
        ("one head", "pooled"),
        ("shift of the receiver only", "moved"),
        ("divided by the degree", "moved"),
        ("float32 inside", "pooled"),
        ("cell 0 hears noise", "tensors that change between two runs"),
        ("literal form: ends exchanged", "literal form: target"),
        ("literal form: no gradient to edges", "literal form: gradient of carried"),
    ],
)
def test_a_broken_backend_is_caught(mistake: str, law: str) -> None:
    failures = [finding for finding in check(Broken(mistake), (torch.float64,)) if not finding.holds]
    assert law in {finding.law for finding in failures}
    assert all(str(finding).startswith("FAILS") for finding in failures)


def test_the_unbroken_one_passes() -> None:
    assert all(finding.holds for finding in check(Broken("none"), (torch.float64,)))
