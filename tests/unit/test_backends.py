"""Finding, choosing and refusing backends; nothing here computes a message but the precision tests."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
import torch

import cifm_backends
from cifm_backends import BackendUnavailableError, available, select
from cifm_backends.base import EdgeTerms, Graph, Messages, NodeTerms, in_working_precision
from cifm_backends.torch_reference import TorchBackend, radial_basis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Entry:
    """An entry point that remembers whether it was loaded."""

    def __init__(self, name: str, make: Callable[[], object]) -> None:
        self.name, self.make, self.loaded = name, make, False

    def load(self) -> Callable[[], object]:
        self.loaded = True
        return self.make


class OnCuda(TorchBackend):
    def supports(self, device: str) -> bool:
        return device == "cuda"


def broken() -> object:
    raise FileNotFoundError("libthing.so is missing\nand a long story follows")


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, Entry]]]:
    """Pretend that these backends are installed: `register(fused=broken, torch=TorchBackend)`."""

    def forget() -> None:
        cifm_backends._entries.cache_clear()
        cifm_backends._status.cache_clear()

    def pretend(**makers: Callable[[], object]) -> dict[str, Entry]:
        entries = {name: Entry(name, make) for name, make in makers.items()}
        monkeypatch.setattr(cifm_backends.metadata, "entry_points", lambda group: list(entries.values()))
        forget()
        return entries

    yield pretend
    monkeypatch.undo()
    forget()


def test_the_order_is_ours_then_the_alphabet(register: Callable[..., dict[str, Entry]]) -> None:
    register(zeta=TorchBackend, torch=TorchBackend, alpha=TorchBackend, fused=TorchBackend)
    assert list(available()) == ["fused", "torch", "alpha", "zeta"]


def test_auto_takes_the_first_that_runs_and_imports_no_other(register: Callable[..., dict[str, Entry]]) -> None:
    entries = register(fused=broken, dgl=OnCuda, torch=TorchBackend, zeta=broken)
    assert isinstance(select("auto", "cpu"), TorchBackend)
    assert [name for name, entry in entries.items() if entry.loaded] == ["fused", "dgl", "torch"]
    assert isinstance(select("auto", "cuda"), OnCuda)


def test_a_broken_backend_is_one_line(register: Callable[..., dict[str, Entry]]) -> None:
    register(fused=broken, torch=TorchBackend)
    status = available()["fused"]
    assert status.backend is None
    assert status.problem == "FileNotFoundError: libthing.so is missing"
    with pytest.raises(BackendUnavailableError, match=r"fused does not load: .*libthing"):
        select("fused", "cpu")


@pytest.mark.parametrize(
    ("name", "device", "message"),
    [
        ("fusde", "cpu", "unknown backend fusde; installed: dgl, torch"),
        ("dgl", "cpu", "backend dgl does not run on cpu"),
    ],
)
def test_what_cannot_be_had_is_said(
    register: Callable[..., dict[str, Entry]], name: str, device: str, message: str
) -> None:
    register(dgl=OnCuda, torch=TorchBackend)
    with pytest.raises(BackendUnavailableError, match=message):
        select(name, device)


def test_no_backend_at_all(register: Callable[..., dict[str, Entry]]) -> None:
    register(fused=broken)
    with pytest.raises(BackendUnavailableError, match="no backend runs on cpu"):
        select("auto", "cpu")


def test_the_installed_default_on_the_cpu_is_fused() -> None:
    assert select("auto", "cpu").name == "fused"


def test_every_backend_tells_its_version() -> None:
    for status in available().values():
        assert status.problem or (status.backend and any(letter.isdigit() for letter in status.backend.version()))


def test_without_dgl_its_module_imports_and_its_backend_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dgl", None)  # as if it were not installed
    from cifm_backends.dgl import DglBackend

    with pytest.raises(ImportError, match=r"^DGL does not load \(.*\); pip install 'cifm\[dgl\]'.*$"):
        DglBackend()


@pytest.mark.dgl
def test_dgl_claims_cuda_only_where_its_build_has_it() -> None:
    backend = available()["dgl"].backend
    if backend is None:
        pytest.skip(available()["dgl"].problem)
    assert backend.supports("cpu")
    assert not backend.supports("mps")
    assert torch.cuda.is_available() or not backend.supports("cuda")


def test_a_backend_sees_one_precision_and_answers_in_those_that_came() -> None:
    seen: list[torch.dtype] = []

    class Spy(TorchBackend):
        @in_working_precision()
        def messages(self, graph: Graph, nodes: NodeTerms, edges: EdgeTerms, shift: torch.Tensor) -> Messages:
            seen.extend(t.dtype for t in (*nodes, edges.radial, edges.coordinate, shift, graph.displacement))
            assert not torch.is_autocast_enabled("cpu")
            return super().messages(graph, nodes, edges, shift)

    graph = Graph(torch.tensor([0, 1]), torch.tensor([0]), torch.tensor([0]), torch.zeros(1, 2, dtype=torch.float64))
    narrow = torch.ones(1, 4, dtype=torch.bfloat16)
    edges = EdgeTerms(torch.ones(4, 3), torch.ones(4), 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = Spy().messages(graph, NodeTerms(narrow, narrow, narrow, narrow), edges, torch.zeros(1, 2))
    assert set(seen) == {torch.float32}
    assert (found.pooled.dtype, found.shift.dtype) == (torch.bfloat16, torch.float32)


def test_the_radial_basis_by_hand() -> None:
    # u = 0.5: (1 - u)^2 = 0.25, times exp(-0), exp(-0.5), exp(-1); at the radius and beyond nothing is left
    found = radial_basis(torch.tensor([0.0, 0.5, 1.0, 2.0], dtype=torch.float64), 3)
    wanted = [[1, 1, 1], [0.25, 0.25 * 0.6065306597, 0.25 * 0.3678794412], [0, 0, 0], [0, 0, 0]]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-10)


def test_two_cells_by_hand() -> None:
    # 0 ---> 1, one radius / 2 apart: cell 1 hears cell 0, all features 1, one head of two features
    graph = Graph(torch.tensor([0, 0, 1]), torch.tensor([0]), torch.tensor([1]), torch.tensor([[0.5, 0.0]]).double())
    ones = torch.ones(2, 2, dtype=torch.float64)
    edges = EdgeTerms(torch.ones(2, 1, dtype=torch.float64), torch.ones(2, dtype=torch.float64), 1)
    # z = 2 / sqrt(2); Int = z / (1 + z) = 0.585786; rho = (1 - 0.25)^2 = 0.5625
    # msg = Int * silu(1 + 1 + 0.5625) = 0.585786 * 2.379048 = 1.393614; step = 0.5 * 2 msg / (1 + Int)
    found = select("auto", "cpu").messages(graph, NodeTerms(ones, ones, ones, ones), edges, 0 * ones)
    wanted = torch.tensor([[0.0, 0.0], [1.393614, 1.393614]], dtype=torch.float64)
    torch.testing.assert_close(found.pooled, wanted, rtol=0, atol=2e-6)
    torch.testing.assert_close(found.shift[1, 0].item(), 1.393614 / 1.585786, rtol=0, atol=2e-6)
