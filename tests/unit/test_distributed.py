"""Ranks as torchrun, srun and `--devices` set them, and the operations of a single process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cifm_cli.errors import CifmError
from cifm_cli.recipe import Recipe
from cifm_cli.training import distributed
from cifm_cli.training.config import TrainConfig
from cifm_cli.training.distributed import Processes, Rank, check_even_split, find_rank, first_node, rendezvous_address
from cifm_cli.training.launch import launch

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
        ({}, Rank(), "tcp://127.0.0.1:20000"),
        (TORCHRUN, Rank(5, 8, 1), "tcp://node7:29500"),
        (SRUN, Rank(3, 4, 1), "tcp://gpu03:21236"),
        (SRUN | TORCHRUN, Rank(5, 8, 1), "tcp://node7:29500"),  # torchrun within srun
        (
            SBATCH,
            Rank(),
            "tcp://127.0.0.1:21234",
        ),  # the batch script itself is one process, whatever its job may start
    ],
)
def test_rank_and_rendezvous_address(environment: dict[str, str], rank: Rank, address: str) -> None:
    assert find_rank(environment) == rank
    assert rendezvous_address(environment) == address


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


def test_missing_processes_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**TORCHRUN, "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "TIMEOUT", distributed.timedelta(seconds=1))
    with pytest.raises(CifmError, match="lost contact"), distributed.join_processes():
        pytest.fail("there is no other process")


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
