"""Discovery and selection of backends, the precision that they receive, and messages computed by hand."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

import pytest
import torch

import cifm_backends
from cifm_backends import BackendUnavailableError, available, select
from cifm_backends.base import EdgeTerms, Graph, Messages, NodeTerms, in_working_precision
from cifm_backends.dgl import DglBackend
from cifm_backends.torch_reference import TorchBackend, radial_basis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Entry:
    """An entry point that counts the backends created, or raises when it is loaded."""

    def __init__(self, name: str, backend_class: type[TorchBackend] | Exception) -> None:
        self.name, self.backend_class, self.num_created = name, backend_class, 0

    def load(self) -> Callable[[], object]:
        if isinstance(self.backend_class, Exception):
            raise self.backend_class
        backend_class = self.backend_class

        class Counted(backend_class):
            def __init__(counted) -> None:
                self.num_created += 1
                super().__init__()

        return Counted


class CudaBackend(TorchBackend):
    priority = 20

    def supports(self, device: str) -> bool:
        return device == "cuda"


class BrokenBackend(TorchBackend):
    """Its class imports, but it cannot be created, like that of DGL on a machine without DGL."""

    priority = 30

    def __init__(self) -> None:
        raise FileNotFoundError("libthing.so is missing\nand further lines")


def with_priority(value: int) -> type[TorchBackend]:
    return type("Prioritised", (TorchBackend,), {"priority": value})


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, Entry]]]:
    """Replace the installed backends: `register(fused=BrokenBackend, torch=TorchBackend)`."""

    def clear_caches() -> None:
        for cached in ("_entry_points", "_names_by_priority", "_backend_class", "_status"):
            getattr(cifm_backends, cached).cache_clear()

    def replace(**backends: type[TorchBackend] | Exception) -> dict[str, Entry]:
        entries = {name: Entry(name, backend) for name, backend in backends.items()}
        monkeypatch.setattr(cifm_backends.metadata, "entry_points", lambda group: list(entries.values()))
        clear_caches()
        return entries

    yield replace
    monkeypatch.undo()
    clear_caches()


def test_backends_are_ordered_by_priority_then_by_name(register: Callable[..., dict[str, Entry]]) -> None:
    register(zeta=with_priority(0), torch=TorchBackend, alpha=with_priority(0), fast=with_priority(99))
    assert list(available()) == ["fast", "torch", "alpha", "zeta"]


def test_the_installed_backends_keep_their_order() -> None:
    ours = [name for name in available() if name in {"torch", "fused", "dgl", "triton"}]
    assert ours == ["fused", "triton", "dgl", "torch"]


def test_auto_takes_the_first_that_runs_and_creates_no_other(register: Callable[..., dict[str, Entry]]) -> None:
    entries = register(fused=BrokenBackend, dgl=CudaBackend, torch=TorchBackend, zeta=with_priority(0))
    assert select("auto", "cpu").priority == TorchBackend.priority
    assert [name for name, entry in entries.items() if entry.num_created] == ["fused", "dgl", "torch"]
    assert isinstance(select("auto", "cuda"), CudaBackend)


@pytest.mark.parametrize("backend", [BrokenBackend, FileNotFoundError("libthing.so is missing\nand further lines")])
def test_the_problem_of_a_broken_backend_is_one_line(
    register: Callable[..., dict[str, Entry]], backend: type[TorchBackend] | Exception
) -> None:
    register(fused=backend, torch=TorchBackend)
    status = available()["fused"]
    assert status.backend is None
    assert status.problem == "FileNotFoundError: libthing.so is missing"
    assert isinstance(select("auto", "cpu"), TorchBackend)
    with pytest.raises(BackendUnavailableError, match=r"fused is not available: .*libthing"):
        select("fused", "cpu")


def test_a_reason_that_a_backend_gives_is_shown_as_it_is(register: Callable[..., dict[str, Entry]]) -> None:
    class Missing(TorchBackend):
        def __init__(self) -> None:
            raise BackendUnavailableError("needs a thing")

    register(thing=Missing)
    assert available()["thing"].problem == "needs a thing"


@pytest.mark.parametrize(
    ("name", "device", "message"),
    [
        ("fusde", "cpu", "unknown backend fusde; installed: dgl, torch"),
        ("dgl", "cpu", "backend dgl does not run on cpu"),
    ],
)
def test_the_error_names_the_problem(
    register: Callable[..., dict[str, Entry]], name: str, device: str, message: str
) -> None:
    register(dgl=CudaBackend, torch=TorchBackend)
    with pytest.raises(BackendUnavailableError, match=message):
        select(name, device)


def test_no_backend_at_all(register: Callable[..., dict[str, Entry]]) -> None:
    register(fused=BrokenBackend)
    with pytest.raises(BackendUnavailableError, match="no backend runs on cpu"):
        select("auto", "cpu")


def test_the_installed_default_on_the_cpu_is_fused() -> None:
    assert select("auto", "cpu").name == "fused"


def test_every_backend_has_a_version() -> None:
    for status in available().values():
        assert status.problem or (status.backend and any(letter.isdigit() for letter in status.backend.version()))


@pytest.mark.parametrize(("name", "backend_class"), [("dgl", "DglBackend"), ("triton", "TritonBackend")])
def test_without_its_library_a_module_imports_and_the_reason_names_the_package(
    monkeypatch: pytest.MonkeyPatch, name: str, backend_class: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    backend = getattr(import_module(f"cifm_backends.{name}"), backend_class)
    with pytest.raises(BackendUnavailableError, match=rf"^not installed; optional.*: pip install 'cifm\[{name}\]'"):
        backend()


def test_the_reason_of_a_dgl_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise FileNotFoundError(f"libgraphbolt_pytorch_2.13.so of {name}\nand further lines")

    monkeypatch.setattr("cifm_backends.dgl.import_module", fail)
    with pytest.raises(
        BackendUnavailableError, match=r"^installed, but does not load \(libgraph[^\n]*pip install[^\n]*$"
    ):
        DglBackend()


@pytest.mark.dgl
def test_dgl_supports_cuda_only_if_its_build_does() -> None:
    backend = available()["dgl"].backend
    if backend is None:
        pytest.skip(available()["dgl"].problem)
    assert backend.supports("cpu")
    assert not backend.supports("mps")
    assert torch.cuda.is_available() or not backend.supports("cuda")


def test_a_backend_receives_one_precision_and_its_results_have_the_given_ones() -> None:
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
    # 0 ---> 1, one radius / 2 apart: cell 1 receives from cell 0, all features 1, one head of two features
    graph = Graph(torch.tensor([0, 0, 1]), torch.tensor([0]), torch.tensor([1]), torch.tensor([[0.5, 0.0]]).double())
    ones = torch.ones(2, 2, dtype=torch.float64)
    edges = EdgeTerms(torch.ones(2, 1, dtype=torch.float64), torch.ones(2, dtype=torch.float64), 1)
    # z = 2 / sqrt(2); Int = z / (1 + z) = 0.585786; rho = (1 - 0.25)^2 = 0.5625
    # msg = Int * silu(1 + 1 + 0.5625) = 0.585786 * 2.379048 = 1.393614; step = 0.5 * 2 msg / (1 + Int)
    found = select("auto", "cpu").messages(graph, NodeTerms(ones, ones, ones, ones), edges, 0 * ones)
    wanted = torch.tensor([[0.0, 0.0], [1.393614, 1.393614]], dtype=torch.float64)
    torch.testing.assert_close(found.pooled, wanted, rtol=0, atol=2e-6)
    torch.testing.assert_close(found.shift[1, 0].item(), 1.393614 / 1.585786, rtol=0, atol=2e-6)
