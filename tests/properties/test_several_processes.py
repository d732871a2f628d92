"""Two processes train as one does; after one of them is killed, the run can be resumed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cifm_cli.errors import CifmError, StopRequested
from cifm_cli.recipe import Recipe, parse, to_toml
from cifm_cli.training import loop
from cifm_cli.training.config import TrainConfig
from cifm_cli.training.launch import launch
from cifm_cli.training.state import list_states

STEPS = 12  # at least these are compared; the run is killed long before its end


def make_recipe() -> Recipe:
    return parse(
        {
            "data": {"tile_cells": 64},
            "model": {"width": 8, "heads": 2, "encoder_layers": 1, "decoder_layers": 1},
            "objective": {"scales": [1.0, 2.0], "cutoff": 3.0},
            "train": {"steps": 5_000, "validate_every": 5, "validation_tiles": 3, "warmup_steps": 2, "patience": 5_000}
            | {"tiles_per_step": 2, "learning_rate": 1e-2},
        },
        "test",
    )


def curve(folder: Path) -> dict[tuple[int, str], float]:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    values = [json.loads(line) for line in lines if line.endswith("\n")]
    return {(line["step"], name): line[name] for line in values for name in ("loss", "validation_loss") if name in line}


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send SIGTERM to this process before a step."""
    take = loop.train_step

    def take_and_stop(session: Any, *arguments: Any) -> float:
        if session.state.step + 1 == step:
            signal.raise_signal(signal.SIGTERM)
        return take(session, *arguments)

    monkeypatch.setattr(loop, "train_step", take_and_stop)


def kill_one(folder: Path) -> None:
    """Kill the second process once the run is well under way."""
    for _ in range(6_000):
        if (STEPS, "loss") in curve(folder):
            break
        time.sleep(0.02)
    second = next(child for child in multiprocessing.active_children() if child.name == "training process 1")
    os.kill(second.pid, signal.SIGKILL)


def test_two_processes_train_as_one_and_a_killed_run_can_be_resumed(
    prepared_small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    settings: dict[str, Any] = {"recipe": make_recipe(), "slides": [prepared_small], "backend": "torch"}
    with ThreadPoolExecutor(1) as killer:
        killed = killer.submit(kill_one, two)
        with pytest.raises(CifmError, match=r"training process 1 was killed \(SIGKILL\)") as caught:
            launch(TrainConfig(**settings, folder=two, devices=2))
        killed.result()
    assert "--resume" in caught.value.hint
    assert multiprocessing.active_children() == []
    reached = int(list_states(two)[0].stem.partition("-")[2])
    with_two = curve(two)

    stop_at(monkeypatch, max(reached, STEPS) + 2)
    for config in (TrainConfig(**settings, folder=one), TrainConfig(**settings, folder=two, resume=True)):
        with pytest.raises(StopRequested):  # the second one continues in one process, from the last state of two
            loop.train(config)
    with_one, resumed = curve(one), curve(two)
    shared = with_one.keys() & with_two.keys()
    assert {(step, "loss") for step in range(1, STEPS + 1)} | {
        (0, "validation_loss"),
        (10, "validation_loss"),
    } <= shared
    assert {key: with_two[key] for key in shared} == pytest.approx({key: with_one[key] for key in shared}, rel=1e-4)
    assert resumed == pytest.approx(with_one, rel=1e-4)


@pytest.mark.slow
@pytest.mark.extended
def test_torchrun_trains_as_one_process_does(
    prepared_small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe()
    # Without the linear correction: the test above fits it in two processes.
    changes = {
        "train": recipe.train.model_copy(update={"steps": 3, "max_minutes": 1e6}),
        "objective": recipe.objective.model_copy(update={"linear_rank": 0}),
    }
    short = recipe.model_copy(update=changes)
    path, run = tmp_path / "short.toml", tmp_path / "two"
    path.write_text(to_toml(short))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    words = ["train", path, "--data", prepared_small, "--out", run, "--backend", "torch", "--device", "cpu"]
    ended = subprocess.run(
        [*torchrun, "-m", "cifm_cli", *map(str, words)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "2 processes of 1 threads" in ended.stderr
    monkeypatch.chdir(tmp_path)
    loop.train(TrainConfig(recipe=short, slides=[prepared_small], folder=tmp_path / "one", backend="torch"))
    one, two = curve(tmp_path / "one"), curve(run)
    assert {(step, "loss") for step in (1, 2, 3)} <= two.keys()
    assert two == pytest.approx(one, rel=1e-4)
