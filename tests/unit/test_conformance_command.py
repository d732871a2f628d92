"""`python -m cifm_backends.conformance`: its lines and exit codes, with backends that pass, fail and raise."""

from __future__ import annotations

import pytest

from cifm_backends.base import Messages
from cifm_backends.conformance.__main__ import main
from cifm_backends.torch_reference import TorchBackend

ONE_CASE = ["--backend", "torch", "--dtype", "float32", "--case", "self loops"]


def test_a_line_for_each_case_and_precision(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--backend", "torch", "--case", "self loops", "--case", "no cells"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("backend torch (torch ")
    assert lines[0].endswith(") on cpu")
    order = [(dtype, case) for dtype in ("float64", "float32", "bfloat16") for case in ("self loops", "no cells")]
    for line, (dtype, case) in zip(lines[1:-1], order, strict=True):
        assert line.startswith(f"passed: {case}; {dtype}: largest error ")
    assert lines[-1].endswith(" checks passed")


def test_small_graphs_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--backend", "torch", "--dtype", "float64", "--small"]) == 0
    cases = [line.split(": ")[1].partition(";")[0] for line in capsys.readouterr().out.splitlines()[1:-1]]
    assert cases == ["no cells, small", "no edges, small", "five edges", "two cells at one position"]


def test_a_wrong_backend_fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    right = TorchBackend.messages

    def double(*inputs: object) -> Messages:
        return Messages(*(2 * value for value in right(*inputs)))

    monkeypatch.setattr(TorchBackend, "messages", double)
    assert main(ONE_CASE) == 1
    out = capsys.readouterr().out
    assert "FAILED: pooled; self loops; float32: error" in out
    assert "passed" not in out
    assert out.splitlines()[-1].endswith(" checks failed")


def test_a_backend_that_raises_fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Messages:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(TorchBackend, "messages", fail)
    assert main(ONE_CASE) == 1
    assert "FAILED: self loops; float32: RuntimeError: no such kernel\n1 of 1 checks failed" in capsys.readouterr().out


def test_a_backend_that_is_not_available_and_a_case_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--backend", "trch"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown backend trch; installed: ")
    assert main(["--backend", "fused", "--device", "meta"]) == 2
    assert capsys.readouterr().err == "error: backend fused does not run on meta\n"
    with pytest.raises(SystemExit) as caught:
        main(["--backend", "torch", "--case", "no such case"])
    assert caught.value.code == 2
