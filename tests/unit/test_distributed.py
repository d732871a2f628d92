"""Where a process stands, as torchrun, srun and `--devices` say it; and the one outcome of several processes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cifm_cli.errors import CifmError, StopRequested
from cifm_cli.recipe import Recipe
from cifm_cli.training import distributed as processes
from cifm_cli.training.distributed import Place, Processes, check_shares, find_meeting_point, find_place, first_node
from cifm_cli.training.launch import DONE, FAILED, LOST, STOPPED, Worker, _conclude, launch
from cifm_cli.training.session import Setup

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
    ("environment", "place", "meeting"),
    [
        ({}, Place(), "tcp://127.0.0.1:20000"),
        (TORCHRUN, Place(5, 8, 1), "tcp://node7:29500"),
        (SRUN, Place(3, 4, 1), "tcp://gpu03:21236"),
        (SRUN | TORCHRUN, Place(5, 8, 1), "tcp://node7:29500"),  # torchrun within srun
        (
            SBATCH,
            Place(),
            "tcp://127.0.0.1:21234",
        ),  # the batch script itself is one process, whatever its job may start
    ],
)
def test_place_and_meeting_point(environment: dict[str, str], place: Place, meeting: str) -> None:
    assert find_place(environment) == place
    assert find_meeting_point(environment) == meeting


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


def test_shares_are_even_and_leave_nothing() -> None:
    shares = [Processes(rank, 3).share(9) for rank in range(3)]
    assert sorted(number for share in shares for number in share) == list(range(9))
    assert {len(share) for share in shares} == {3}
    for tiles in (1, 4):
        with pytest.raises(CifmError, match="can't be shared out evenly over 3 processes") as caught:
            check_shares(tiles, 3)
        assert f"tiles_per_step={3 if tiles == 1 else 6}" in caught.value.hint


def test_alone_nothing_is_exchanged() -> None:
    layer = torch.nn.Linear(2, 1)
    assert Processes().sum_gradients(layer, 3.5) == 3.5
    assert layer.weight.grad is None
    assert (Processes().sum(2.0), Processes().largest(2.0)) == (2.0, 2.0)
    assert Processes().device(torch.device("cuda")) == torch.device("cuda")


def test_others_that_do_not_come_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**TORCHRUN, "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "TIMEOUT", processes.timedelta(seconds=1))
    with pytest.raises(CifmError, match="lost contact"), processes.join():
        pytest.fail("nobody else is there")


@pytest.mark.parametrize(
    ("environment", "devices", "nodes", "message", "hint"),
    [
        ({}, None, 2, "--nodes 2: this is one process on one machine", "srun"),
        ({}, 3, 1, "can't be shared out evenly over 3 processes", "tiles_per_step=3"),
        (SRUN, 3, 1, "makes 3 processes, and 4 were started", "one task for each device"),
        (TORCHRUN, 2, 2, "makes 4 processes, and 8 were started", "one task for each device"),
    ],
)
def test_processes_that_do_not_add_up(
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    devices: int | None,
    nodes: int,
    message: str,
    hint: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    setup = Setup(recipe=Recipe(), slides=[], folder=Path("none"), devices=devices, nodes=nodes)
    with pytest.raises(CifmError, match=message) as caught:
        launch(setup)
    assert hint in caught.value.hint


LOST_ONE = (LOST, "lost contact", "go on")


@pytest.mark.parametrize(
    ("ends", "raised", "message"),
    [
        ([(None, -9), (LOST_ONE, 0)], CifmError, "training process 0 was killed \\(SIGKILL\\)"),
        ([(LOST_ONE, 0), (None, 1)], CifmError, "training process 1 ended with the error above"),
        ([(LOST_ONE, 0), ((FAILED, "the disk is full", "free some"), 0)], CifmError, "the disk is full"),
        ([(LOST_ONE, 0), ((STOPPED, StopRequested), 0)], StopRequested, None),
        ([((STOPPED, KeyboardInterrupt), 0)] * 2, KeyboardInterrupt, None),
        ([(LOST_ONE, 0)] * 2, CifmError, "lost contact"),
    ],
)
def test_the_outcome_is_the_cause_not_what_followed(
    ends: list[tuple[tuple | None, int]], raised: type[BaseException], message: str | None
) -> None:
    workers = [
        Worker(rank, SimpleNamespace(exitcode=code), SimpleNamespace(), ended)
        for rank, (ended, code) in enumerate(ends)
    ]
    with pytest.raises(raised, match=message):
        _conclude(workers)


def test_the_outcome_of_a_good_end_is_the_first_ones_result() -> None:
    workers = [Worker(rank, SimpleNamespace(exitcode=0), SimpleNamespace(), (DONE, {"rank": rank})) for rank in (0, 1)]
    assert _conclude(workers) == {"rank": 0}
    assert _conclude(workers[1:]) is None  # another machine has the first
