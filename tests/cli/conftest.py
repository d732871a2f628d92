"""Fixtures of the tests of commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import pytest


@pytest.fixture
def fail(cifm: Callable[..., Any]) -> Callable[..., str]:
    """Run a command that must end in one error and one hint, with nothing on stdout; returns both lines."""

    def run(*words: object) -> str:
        code, out, err = cifm(*words)
        assert (code, out) == (1, ""), err
        lines = err.splitlines()[-2:]
        assert [line.split(":")[0] for line in lines] == ["error", "hint"], err
        return "\n".join(lines)

    return run


@pytest.fixture
def prepare(
    cifm: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[ad.AnnData, str]]:
    """Run `cifm prepare` without its report, whose plots take most of the time; returns the slide and stderr."""

    def run(*words: object) -> tuple[ad.AnnData, str]:
        monkeypatch.setattr("cifm_cli.data.prepare.pipeline.write_qc_report", lambda slide: slide.with_suffix(".html"))
        out = tmp_path / "prepared"
        code, _, err = cifm("prepare", *words, "--out", out, "--force")
        assert code == 0, err
        (path,) = out.glob("*.h5ad")
        return ad.read_h5ad(path), err

    return run


@pytest.fixture
def refuse(cifm: Callable[..., Any], tmp_path: Path) -> Callable[..., str]:
    """Run `cifm prepare` on an input that it refuses: one error, one hint, nothing written; returns both lines."""

    def run(*words: object) -> str:
        code, out, err = cifm("prepare", *words, "--out", tmp_path / "refused")
        assert (code, out) == (1, ""), err
        assert [line.split(":")[0] for line in err.splitlines() if line] == ["error", "hint"], err
        assert not (tmp_path / "refused").exists()
        return str(err)

    return run


@pytest.fixture(autouse=True, scope="module")
def quick_models(brief_adaptation: None) -> None:
    """Adapt with few cells to learn from in all tests of commands, which run in this process."""
