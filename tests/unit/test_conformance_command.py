"""`python -m cifm_backends.conformance`: what it says of backends with mistakes, and its exit codes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cifm_backends.base import Backend, Messages
from cifm_backends.conformance import check
from cifm_backends.conformance_command import main as check_backend
from cifm_backends.torch_reference import TorchBackend


class Doubled(TorchBackend):
    """A backend with a mistake: its messages are too large by a factor of 2."""

    def messages(self, *inputs) -> Messages:
        messages = super().messages(*inputs)
        return messages._replace(pooled=2 * messages.pooled)


class Raising(TorchBackend):
    """A backend that raises an error where it should compute."""

    def messages(self, *inputs) -> Messages:
        raise IndexError("row 7")


def select_always(backend: Backend) -> Callable[[str, str], Backend]:
    return lambda _name, _device: backend


@pytest.mark.parametrize(
    ("backend", "registered", "lines"),
    [
        (
            Doubled(),
            "torch",
            ["FAILED: pooled; one-way edges; float32: error 1.0e+00, allowed 1e-05", "more failures in"],
        ),
        (Raising(), "torch", ["FAILED: float32: raised IndexError"]),
        (TorchBackend(), "other", ["FAILED: its `name` is 'torch', but its entry point is called 'other'"]),
    ],
)
def test_failures_are_named_and_give_exit_code_1(
    backend: Backend, registered: str, lines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("cifm_backends.conformance_command.select", select_always(backend))
    assert check_backend(check, ["--backend", registered, "--dtype", "float32"]) == 1
    out, err = capsys.readouterr()
    assert [line for line in lines if line not in out] == []
    assert out.endswith("on cpu: FAILED\n")
    assert ("IndexError: row 7" in err) == isinstance(backend, Raising)


def test_an_unknown_backend_is_one_error_line(capsys: pytest.CaptureFixture) -> None:
    assert check_backend(check, ["--backend", "segmets"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(":")[0] for line in err.splitlines()] == ["error", "hint"]
    assert "unknown backend segmets" in err
