"""Ranks as torchrun, srun and `--devices` set them, and the operations of a single process."""

from __future__ import annotations

import re
import signal
import socket
import threading
from pathlib import Path

import pytest
import torch

from cifm_cli.errors import CifmError, StopRequested, raising_on_stop_signals
from cifm_cli.recipe import Recipe
from cifm_cli.training import rendezvous
from cifm_cli.training.config import TrainConfig
from cifm_cli.training.distributed import Processes, check_even_split, join_processes
from cifm_cli.training.launch import launch
from cifm_cli.training.rendezvous import Address, Rank, find_address, find_rank, first_node

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "node7", "MASTER_PORT": "29500"}
SRUN = {
    "SLURM_PROCID": "3",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
    "SLURM_JOB_ID": "41234",
    "SLURM_STEP_ID": "2",
}
SBATCH = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "41234"}


@pytest.mark.parametrize(
    ("environment", "rank", "address"),
    [
        ({}, Rank(), Address("127.0.0.1", 20000)),
        (TORCHRUN, Rank(5, 8, 1), Address("node7", 29500)),
        (SRUN, Rank(3, 4, 1), Address("gpu03", 21236)),
        (SRUN | TORCHRUN, Rank(5, 8, 1), Address("node7", 29500)),  # torchrun within srun
        (
            SBATCH,
            Rank(),
            Address("127.0.0.1", 21234),
        ),  # the batch script itself is one process, whatever its job may start
    ],
)
def test_rank_and_rendezvous_address(environment: dict[str, str], rank: Rank, address: Address) -> None:
    assert find_rank(environment) == rank
    assert find_address(environment) == address


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("tux", "tux"),
        ("tux1,tux2", "tux1"),
        ("tux[1-4]", "tux1"),
        ("gpu[007,9-12],cpu3", "gpu007"),
        ("a-1[05]", "a-105"),
        ("b[3,5]", "b3"),
    ],
)
def test_the_first_of_a_list_of_nodes(nodes: str, first: str) -> None:
    assert first_node(nodes) == first


def test_every_index_belongs_to_one_process() -> None:
    indices = [Processes(rank, 3).own_indices(9) for rank in range(3)]
    assert sorted(index for own in indices for index in own) == list(range(9))
    assert {len(own) for own in indices} == {3}
    for tiles in (1, 4):
        with pytest.raises(CifmError, match="can't be shared out evenly over 3 processes") as caught:
            check_even_split(tiles, 3)
        assert f"tiles_per_step={3 if tiles == 1 else 6}" in caught.value.hint


def test_a_single_process_exchanges_nothing() -> None:
    layer = torch.nn.Linear(2, 1)
    assert Processes().sum_gradients(layer, 3.5) == 3.5
    assert layer.weight.grad is None
    assert (Processes().sum(2.0), Processes().max(2.0)) == (2.0, 2.0)
    assert Processes().own_device(torch.device("cuda")) == torch.device("cuda")


def as_rank(patch: pytest.MonkeyPatch, rank: int, port: int) -> None:
    """Set the variables of one of two processes of torchrun, and a short time to wait."""
    variables = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in variables.items():
        patch.setenv(name, str(value))
    patch.setattr(rendezvous, "_timeout", lambda: 0.5)
    patch.setattr(rendezvous, "_TELL_AFTER_S", 0.1)


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize("rank", [0, 1])
def test_missing_processes_are_told_and_then_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, free_port: int, rank: int
) -> None:
    as_rank(monkeypatch, rank, free_port)
    caplog.set_level("INFO", "cifm_cli")
    with pytest.raises(CifmError, match="1 of 2 processes did not appear") as caught, join_processes():
        pytest.fail("there is no other process")
    assert "--single-process" in caught.value.hint
    assert "waiting for 1 of 2 processes" in caplog.text


def test_a_signal_ends_the_wait(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    as_rank(monkeypatch, 0, free_port)
    monkeypatch.setattr(rendezvous, "_timeout", lambda: 60.0)
    threading.Timer(0.3, signal.raise_signal, [signal.SIGTERM]).start()
    with pytest.raises(StopRequested), raising_on_stop_signals(), join_processes():
        pytest.fail("there is no other process")


def test_a_port_that_is_taken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("", 0)) as server:
        port = int(server.getsockname()[1])
        as_rank(monkeypatch, 0, port)
        with pytest.raises(CifmError, match=f"port {port} of this machine is taken") as caught, join_processes():
            pytest.fail("there is no other process")
    assert "MASTER_PORT" in caught.value.hint


def test_a_single_process_ignores_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SRUN.items():
        monkeypatch.setenv(name, value)
    with join_processes(alone=True) as processes:
        assert processes.size == 1


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"RANK": "", "WORLD_SIZE": ""}, Rank()),
        ({"RANK": "", "WORLD_SIZE": "1"}, Rank()),
        ({"RANK": "0"}, Rank()),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": ""}, Rank()),
        ({"LOCAL_RANK": "3"}, Rank()),
        ({"SLURM_STEP_NUM_TASKS": ""}, Rank()),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK='x' is not a number"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK='-1' is not a number"),
        ({"RANK": "0", "WORLD_SIZE": "1" * 5000}, "is not a number"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 is not below WORLD_SIZE=2"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "RANK=0 is not below WORLD_SIZE=0"),
        ({"RANK": "1"}, "RANK=1 is set without WORLD_SIZE"),
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE=4 is set without RANK"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, "is set without SLURM_PROCID, SLURM_LOCALID"),
        ({"SLURM_STEP_NUM_TASKS": "4(x2)"}, "is not a number"),
    ],
)
def test_incomplete_variables(environment: dict[str, str], expected: Rank | str) -> None:
    if isinstance(expected, Rank):
        assert find_rank(environment) == expected
        return
    with pytest.raises(CifmError, match=re.escape(expected)):
        find_rank(environment)


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1"])
def test_a_port_that_is_none(port: str) -> None:
    with pytest.raises(CifmError, match="MASTER_PORT"):
        find_address({"MASTER_PORT": port})


@pytest.mark.parametrize(
    ("environment", "devices", "nodes", "message", "hint"),
    [
        ({}, None, 2, "--nodes 2: this is one process on one machine", "srun"),
        ({}, 3, 1, "can't be shared out evenly over 3 processes", "tiles_per_step=3"),
        (SRUN, 3, 1, "makes 3 processes, 4 were started", "one task for each device"),
        (TORCHRUN, 2, 2, "makes 4 processes, 8 were started", "one task for each device"),
    ],
)
def test_a_number_of_processes_that_does_not_match(
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    devices: int | None,
    nodes: int,
    message: str,
    hint: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config = TrainConfig(recipe=Recipe(), slides=[], folder=Path("none"), devices=devices, nodes=nodes)
    with pytest.raises(CifmError, match=message) as caught:
        launch(config)
    assert hint in caught.value.hint
