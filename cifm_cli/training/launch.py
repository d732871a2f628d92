"""Training in one process or several, which are started here or by torchrun or srun."""

from __future__ import annotations

import os
import socket
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

import torch

from cifm_cli.errors import CifmError
from cifm_cli.processes import Member, run_group
from cifm_cli.report.terminal import showing_logs, shows_logs
from cifm_cli.training import loop
from cifm_cli.training.distributed import check_even_split
from cifm_cli.training.rendezvous import find_address, find_rank

if TYPE_CHECKING:
    from cifm_cli.training.config import TrainConfig, TrainResult

_HINT = (
    "the last saved state is complete: continue with --resume; a process that was killed may have used up the memory"
)


def launch(config: TrainConfig) -> TrainResult | None:
    """Train a model in `config.devices` processes on each of `config.nodes` machines.

    The processes of this machine are started here, unless torchrun or srun has started one for each device.

    Args:
        config: Settings of the run.

    Returns:
        The result of the run; None in every process but the first of all machines.

    Raises:
        CifmError: The number of processes does not match `config`, or one of them failed.
        BackendUnavailableError: The backend is not available here.
    """
    if config.single_process:
        if config.nodes > 1 or (config.devices or 1) > 1:
            raise CifmError("--single-process: a single process has one device and one machine", "leave it out")
        return loop.train(config)
    this, num_local = find_rank(os.environ), config.devices or 1
    requested = num_local * config.nodes
    one_task_per_machine = this.size > 1 and this.size == config.nodes and "RANK" not in os.environ  # by srun
    if num_local > 1 and ((this.size == 1 and config.nodes == 1) or one_task_per_machine):
        return _train_in_group(config, num_local, node=this.rank)
    # 1 means that the user gave neither option.
    if this.size > 1 and requested not in (this.size, 1):
        raise CifmError(
            f"--devices {num_local} on --nodes {config.nodes} makes {requested} processes, {this.size} were started",
            "start one task for each device, or leave --devices and --nodes away",
        )
    if this.size == 1 and config.nodes > 1:
        raise CifmError(
            f"--nodes {config.nodes}: this is one process on one machine",
            "start it on every machine: srun cifm train ..., or torchrun --nnodes N ... -m cifm_cli train ...",
        )
    result = loop.train(config)
    return result if this.rank == 0 else None


def _train_in_group(config: TrainConfig, num_local: int, node: int) -> TrainResult | None:
    """Start the processes of this machine, divide its threads among them, and wait for them."""
    size = num_local * config.nodes
    # Checked before any process is started, so that the error is reported once.
    check_even_split(config.load_recipe().train.tiles_per_step, size)
    # Otherwise torch prints a C++ stack when another process ends. The children read it when they import torch.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    host, port = find_address(os.environ)
    # Several machines must agree on the port; on one machine, a free one is passed to all processes.
    address = {"MASTER_ADDR": host, "MASTER_PORT": str(port if config.nodes > 1 else _free_port())}
    members = []
    for number in range(num_local):
        rank = node * num_local + number
        numbers = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": number}
        environment = {name: str(value) for name, value in numbers.items()} | address
        members.append(Member(f"training process {rank}", environment))
    results = run_group(
        partial(_train_member, config, show=shows_logs()),
        members,
        hint=_HINT,
        num_threads=max(1, torch.get_num_threads() // num_local),
    )
    return results[0] if node == 0 else None


def _train_member(config: TrainConfig, *, show: bool) -> TrainResult:
    """Train in a process of the group. The first one writes to the terminal, if the parent does."""
    with showing_logs() if show and os.environ["RANK"] == "0" else nullcontext():
        return loop.train(config)


def _free_port() -> int:
    """A port of this machine that no process listens on."""
    with socket.socket() as probe:
        # Port 0 lets the system choose one.
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
