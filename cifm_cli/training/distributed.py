"""The processes that train one model together: who we are, and the little that we tell each other.

Each process holds the whole network and makes its share of every step's tiles. Gradients are summed over all of them, so
that all take the same step; the first alone writes and speaks. A process that trains alone is the first of one.
"""

from __future__ import annotations

import math
import os
import re
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import distributed

from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

# How long a process waits for one that lives but says nothing: longer than the first needs for what is fitted before the
# first step, on any corpus. The dead are noticed at once.
TIMEOUT = timedelta(hours=1)


class LostContactError(CifmError):
    """Another process of this training is gone; it knows why, we don't."""


@dataclass(frozen=True)
class Place:
    """Where a process stands among those that train together.

    Args:
        rank: Number among all of them.
        size: How many there are.
        local_rank: Number among those on this machine, which is its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0


def find_place(environment: Mapping[str, str]) -> Place:
    """Read one's place from what torchrun, srun or `cifm train --devices` left in the environment.

    Args:
        environment: `os.environ`.

    Returns:
        The place; the only one where nobody said anything.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return Place(*(int(environment.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    # The number of tasks of the step, not of the job: a script that sbatch runs without srun is one process.
    if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
        return Place(*(int(environment[name]) for name in names))
    return Place()


def check_shares(tiles_per_step: int, num_processes: int) -> None:
    """Refuse tiles that can't be shared out evenly.

    Raises:
        CifmError: Some process would have fewer than another, or none.
    """
    if tiles_per_step % num_processes:
        fitting = num_processes * math.ceil(tiles_per_step / num_processes)
        raise CifmError(
            f"train.tiles_per_step = {tiles_per_step} can't be shared out evenly over {num_processes} processes",
            f"for instance --set train.tiles_per_step={fitting}",
        )


def find_meeting_point(environment: Mapping[str, str]) -> str:
    """Address at which the first process waits for the others.

    Args:
        environment: `os.environ`; MASTER_ADDR and MASTER_PORT win over what SLURM says.

    Returns:
        `tcp://host:port`.
    """
    nodes = environment.get("SLURM_STEP_NODELIST", "127.0.0.1")
    number = int(environment.get("SLURM_JOB_ID", "0")) + int(environment.get("SLURM_STEP_ID", "0"))
    port = environment.get("MASTER_PORT", str(20_000 + number % 20_000))
    return f"tcp://{environment.get('MASTER_ADDR', first_node(nodes))}:{port}"


def first_node(nodes: str) -> str:
    """The first name of a SLURM node list, such as `gpu03` of `gpu[03-05,09],cpu1`."""
    name, bracket, numbers = re.split(r",(?![^\[]*\])", nodes)[0].partition("[")
    return name + re.split(r"[-,\]]", numbers)[0] if bracket else name


@contextmanager
def join() -> Iterator[Processes]:
    """Meet the other processes of this training, if there are any; only the first is heard while the block runs.

    Yields:
        All of them, seen from here.

    Raises:
        LostContactError: The others did not come, or one went away.
    """
    place = find_place(os.environ)
    if place.size == 1:
        yield Processes()
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with _contact():
        distributed.init_process_group(
            backend, find_meeting_point(os.environ), TIMEOUT, world_size=place.size, rank=place.rank
        )
    with ExitStack() as stack:
        stack.callback(distributed.destroy_process_group)
        if place.rank:
            stack.enter_context(redirect_stderr(stack.enter_context(Path(os.devnull).open("w", encoding="utf8"))))
        yield Processes(place.rank, place.size, place.local_rank)


@dataclass(frozen=True)
class Processes(Place):
    """What the processes do together; nothing where there is one."""

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def share(self, number: int) -> range:
        """This process's part of `number` things; every process has its own, none is left."""
        return range(self.rank, number, self.size)

    def device(self, device: torch.device) -> torch.device:
        """The device of this process, where the user named only its kind.

        Raises:
            CifmError: There are fewer GPUs here than processes.
        """
        if self.size == 1 or device.type != "cuda" or device.index is not None:
            return device
        if self.local_rank >= torch.cuda.device_count():
            raise CifmError(
                f"process {self.rank} has no GPU of its own: {torch.cuda.device_count()} are here",
                "start one process for each GPU; with SLURM ask for GPUs by node, not by task",
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    def sum_gradients(self, network: nn.Module, value: float) -> float:
        """Sum the gradients, and a number beside them, over all processes.

        Args:
            network: Its gradients become the sums; a weight that no process used keeps none.
            value: The number, such as a loss.

        Returns:
            Sum of the numbers.
        """
        if self.size == 1:
            return value
        weights = [weight for weight in network.parameters() if weight.requires_grad]
        # A gradient of zero is not none: moments and weight decay would move a weight that no tile had to do with.
        used = torch.tensor([weight.grad is not None for weight in weights], dtype=torch.float32)
        flat = torch.cat([_gradient(weight) for weight in weights])
        with _contact():
            distributed.all_reduce(used)
            distributed.all_reduce(flat)
        for weight, part, times in zip(weights, flat.split([w.numel() for w in weights]), used.tolist(), strict=True):
            weight.grad = part.view_as(weight) if times else None
        return self.sum(value)

    def sum(self, value: float) -> float:
        """Sum of a number over all processes."""
        return self._reduce(value, distributed.ReduceOp.SUM) if self.size > 1 else value

    def largest(self, value: float) -> float:
        """Largest of a number over all processes."""
        return self._reduce(value, distributed.ReduceOp.MAX) if self.size > 1 else value

    def copy_first(self, network: nn.Module) -> None:
        """Give every process the weights and buffers of the first."""
        if self.size == 1:
            return
        with _contact():
            for tensor in network.state_dict().values():
                distributed.broadcast(tensor, src=0)

    def _reduce(self, value: float, how: distributed.ReduceOp.RedOpType) -> float:
        tensor = torch.tensor(value, dtype=torch.float64)
        with _contact():
            distributed.all_reduce(tensor, op=how)
        return tensor.item()


def _gradient(weight: nn.Parameter) -> Tensor:
    return torch.zeros_like(weight).flatten() if weight.grad is None else weight.grad.flatten()


@contextmanager
def _contact() -> Iterator[None]:
    """Say what torch's many messages about a broken connection come to."""
    try:
        yield
    except RuntimeError as error:
        raise LostContactError(
            "lost contact with another training process",
            "what it said above is the reason; the last state is whole: go on with --resume",
        ) from error
