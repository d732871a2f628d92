"""The Triton kernels without a GPU: interpreted, their values; compiled, that they do and add nothing out of order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import torch

from cifm_backends import BackendUnavailableError
from cifm_backends.base import Graph, Messages
from cifm_backends.conformance.cases import draw_case, small_cases
from cifm_backends.torch_reference import TorchBackend
from cifm_backends.triton import TritonBackend, _bounds

if TYPE_CHECKING:
    from pathlib import Path

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.extended)])
def test_interpreted_kernels_pass_the_conformance_checks(dtype: str) -> None:
    pytest.importorskip("triton")
    # In a process of its own, because Triton reads the variable when it is imported.
    command = [sys.executable, "-m", "cifm_backends.conformance", "--backend", "triton", "--small", "--dtype", dtype]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = ended.stdout.splitlines()
    assert re.fullmatch(r"backend triton \(triton [\d.]+, interpreted\) on cpu", lines[0])
    assert any(line.startswith(f"passed: five edges; {dtype}: largest error") for line in lines)
    assert re.fullmatch(r"\d+ checks passed", lines[-1])


class NoGpu:
    """What the compiler asks the driver for."""

    def __init__(self, architecture: int) -> None:
        self.architecture = architecture

    def get_current_target(self) -> object:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.architecture, 32)

    def get_current_device(self) -> int:
        return self.architecture  # Triton keeps the compiled kernels of each device

    def get_current_stream(self, device: int) -> int:
        return device


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[TritonBackend, list[Any]]:
    """A backend whose launches compile for a GPU and run nothing, and the compiled kernels."""
    pytest.importorskip("triton")
    if INTERPRETED:
        pytest.skip("TRITON_INTERPRET is set")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(TritonBackend, "_check_values", lambda *_: None)
        backend = TritonBackend()
    kernels: list[Any] = []
    for name in ("forward_cells", "backward_receivers", "backward_senders"):
        kernel = getattr(backend._kernels, name)

        def compile_only(*arguments: Any, warmup: bool, run: Any = kernel.run, **options: Any) -> None:
            assert not warmup
            kernels.append(run(*arguments, warmup=True, **options))

        monkeypatch.setattr(kernel, "run", compile_only)
    return backend, kernels


@pytest.mark.parametrize(("dtype", "architecture"), [(torch.bfloat16, 80), (torch.float32, 90)], ids=str)
def test_kernels_compile_without_atomic_additions(
    compiling: tuple[TritonBackend, list[Any]], dtype: torch.dtype, architecture: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triton.runtime.driver import driver

    backend, kernels = compiling
    monkeypatch.setattr(driver, "_active", NoGpu(architecture), raising=True)
    run = draw_case(backend, small_cases()[2], dtype, "cpu")
    # The values are those of uninitialised memory.
    run.differentiate()
    assert [kernel.metadata.name for kernel in kernels] == ["forward_cells", "backward_receivers", "backward_senders"]
    for kernel in kernels:
        assert f".target sm_{architecture}" in kernel.asm["ptx"]
        assert len(kernel.asm["cubin"]) > 0
        # Sums in the order in which threads happen to finish would differ from run to run.
        assert not re.search(r"\b(atom|red)\.", kernel.asm["ptx"])


def test_senders_are_left_out_if_they_need_no_gradients(
    compiling: tuple[TritonBackend, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from triton.runtime.driver import driver

    backend, kernels = compiling
    monkeypatch.setattr(driver, "_active", NoGpu(80))
    draw_case(backend, small_cases()[2], torch.float32, "cpu").differentiate(("radial", "coordinate"))
    assert [kernel.metadata.name for kernel in kernels] == ["forward_cells", "backward_receivers"]
    # Graphs without cells launch nothing.
    draw_case(backend, small_cases()[0], torch.float32, "cpu").differentiate()
    assert len(kernels) == 2


class Doubled(TorchBackend):
    def messages(self, *inputs: Any) -> Messages:
        return Messages(*(2 * value for value in super().messages(*inputs)))


def test_a_gpu_that_computes_other_values_is_refused() -> None:
    TritonBackend._check_values(TorchBackend(), "cpu")
    with pytest.raises(BackendUnavailableError, match=r"wrong values on this GPU \(FAILED: pooled; five edges"):
        TritonBackend._check_values(Doubled(), "cpu")


@pytest.mark.parametrize("degrees", [[], [0], [0] * 40, [3] * 100, [400, *[1] * 99], [*[0] * 50, 7, *[0] * 49]])
def test_ranges_cover_all_cells_once_and_share_the_edges(degrees: list[int]) -> None:
    indptr = torch.tensor([0, *degrees]).cumsum(0)
    edges = torch.zeros(int(indptr[-1]), dtype=torch.int64)
    bounds = _bounds(Graph(indptr, edges, edges, torch.zeros(len(edges), 2))).tolist()
    assert (bounds[0], bounds[-1]) == (0, len(degrees))
    assert bounds == sorted(bounds)
    # A range has at most its share of edges and cells, and the last cell that it cuts.
    share = (len(degrees) + sum(degrees)) / max(1, len(bounds) - 1)
    work = [sum(degrees[first:last]) + last - first for first, last in pairwise(bounds)]
    assert max(work, default=0) <= share + max(degrees, default=0) + 1
