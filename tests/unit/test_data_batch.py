"""Several downloads in one call: results and failures are returned, from this process and from worker processes."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import anndata as ad
import pytest

from cifm_cli.data.prepare.batch import PrepareFailure, PrepareTask, _attempt_numbered, failure_error, prepare_all
from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.prepare.existing import PrepareResult


@pytest.fixture
def folder(xenium_download: Path, tmp_path: Path) -> Path:
    """Two downloads, and one whose table of cells is damaged."""
    for name in ("a", "b", "broken"):
        shutil.copytree(xenium_download, tmp_path / name)
    (tmp_path / "broken" / "cells.parquet").write_bytes(b"PAR1")
    return tmp_path


@pytest.fixture
def config(tmp_path: Path) -> PrepareConfig:
    return PrepareConfig(out=tmp_path / "prepared", radius_um=25.0)


def results_of(tasks: Sequence[PrepareTask], num_jobs: int = 1) -> list[PrepareResult]:
    return [outcome for outcome in prepare_all(tasks, num_jobs) if isinstance(outcome, PrepareResult)]


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_failure_does_not_stop_the_other_downloads(
    folder: Path, config: PrepareConfig, num_jobs: int, capfd: pytest.CaptureFixture[str]
) -> None:
    tasks = [PrepareTask(folder / name, config) for name in ("broken", "a", "b")]
    failure, *results = prepare_all(tasks, num_jobs)
    assert isinstance(failure, PrepareFailure)
    assert failure.download.name == "broken"
    assert "damaged" in failure.message
    assert [result.name for result in results if isinstance(result, PrepareResult)] == ["a", "b"]
    assert sorted(path.name for path in config.out.iterdir()) == ["a.h5ad", "b.h5ad"]
    assert [result.up_to_date for result in results_of(tasks)] == [True, True]
    assert capfd.readouterr().err == "", "the library printed to stderr"


def test_processes_give_the_same_slides_and_notes(folder: Path, config: PrepareConfig, tmp_path: Path) -> None:
    other = replace(config, out=tmp_path / "other")
    in_process = results_of([PrepareTask(folder / name, config) for name in ("a", "b")])
    in_workers = results_of([PrepareTask(folder / name, other) for name in ("a", "b")], 2)
    assert [result.report for result in in_process] == [result.report for result in in_workers]
    for one, other_one in zip(in_process, in_workers, strict=True):
        assert (ad.read_h5ad(one.path).X != ad.read_h5ad(other_one.path).X).nnz == 0


def test_killed_process_fails_only_its_own_download(
    folder: Path, config: PrepareConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cifm_cli.data.prepare.batch._start_worker", _start_worker_killed_by_b)
    failure, result = prepare_all([PrepareTask(folder / name, config) for name in ("b", "a")], 2)
    assert isinstance(result, PrepareResult)
    assert result.name == "a"
    assert isinstance(failure, PrepareFailure)
    assert failure.download == folder / "b"
    assert "was killed (SIGKILL)" in failure.message
    assert "--jobs" in failure.hint


def _start_worker_killed_by_b(_number: int) -> Callable[[tuple[int, PrepareTask]], PrepareResult | PrepareFailure]:
    return _attempt_and_die_on_b


def _attempt_and_die_on_b(numbered: tuple[int, PrepareTask]) -> PrepareResult | PrepareFailure:
    if numbered[1].download.name == "b":
        os.kill(os.getpid(), signal.SIGKILL)
    return _attempt_numbered(numbered)


def test_one_failed_download_has_its_own_error_and_several_are_listed() -> None:
    failures = [PrepareFailure(Path(name), f"{name}: bad", f"repair {name}") for name in "xy"]
    assert failure_error(failures, 3).message == "2 of 3 downloads were not prepared: x, y"
    assert (failure_error(failures[:1], 1).message, failure_error(failures[:1], 1).hint) == ("x: bad", "repair x")
