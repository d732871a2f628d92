"""Trainings that meet another one, early errors, and streams that are closed; random interruptions are in `tests/hostile`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import REPOSITORY

from cifm_cli.storage.lock import holding_lock

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Outcome

SHORT = ["--set", "train.steps=3", "--set", "model.width=8", "--set", "data.tile_cells=64", "--backend", "torch"]


def test_a_second_training_is_told_about_the_first(
    cifm: Callable[..., Outcome], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cifm_cli.storage.lock._MAX_ATTEMPTS", 2)
    folder = Path("runs/x")
    with holding_lock(folder / ".cifm-lock", folder, "training", hint="wait"):
        for words in ([], ["--resume"]):
            code, _, err = cifm("train", "demo", "--out", folder, *SHORT, *words)
            assert code == 1
            assert err.startswith(f"error: runs/x: another training writes to it (pid {os.getpid()} on host")
            assert "--out" in err
            assert [path.name for path in folder.iterdir()] == [".cifm-lock"]
    assert not Path("runs").exists()
    # What a killed run leaves is not in the way.
    folder.mkdir(parents=True)
    (folder / ".cifm-lock").write_text("{}")
    assert cifm("train", "demo", "--out", folder, *SHORT).code == 0
    assert not (folder / ".cifm-lock").exists()


def test_an_early_error_leaves_no_folder(cifm: Callable[..., Outcome], workspace: Path) -> None:
    assert cifm("train", "demo", "--out", "runs/x", "--resume", *SHORT).code == 1
    assert cifm("train", "demo", "--out", "runs/x", "--device", "nonsense").code == 1
    assert not Path("runs").exists()


def run_cifm(words: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "backends")])
    command = f"{sys.executable} -m cifm_cli {words}"
    return subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"PYTHONPATH": path} | variables,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("--help >&-", 0, ""),
        ("recipes list >&- 2>&-", 0, ""),
        ("recipes list | head -c 1", 0, ""),
        ("recipes show nonsense 2>&-", 1, ""),
        ("recipes list --json > /dev/full", 1, "error: cannot write stdout: no space"),
    ],
)
def test_streams_that_are_closed_full_or_unread(tmp_path: Path, words: str, code: int, message: str) -> None:
    if "/dev/full" in words and not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    done = run_cifm(words, tmp_path)
    assert (done.returncode, done.stderr.startswith(message)) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_a_terminal_with_ascii(tmp_path: Path, variables: dict[str, str]) -> None:
    for words, code in (("--help", 0), ("inspect naïve-µ.h5ad", 1)):
        done = run_cifm(words, tmp_path, **variables)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr


def test_a_signal_ends_the_wait_for_processes_that_do_not_come(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NODELIST": "localhost"}
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "backends")])
    with subprocess.Popen(
        [sys.executable, "-m", "cifm_cli", "train", "demo", "--set", "train.tiles_per_step=4", *SHORT],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path} | step,
    ) as process:
        assert process.stderr
        assert "waiting for 3 of 4 processes" in process.stderr.readline()
        process.terminate()
        started = time.monotonic()
        assert process.wait(timeout=30) == 143
        assert time.monotonic() - started < 10
