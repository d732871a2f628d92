"""Data-parallel training: the few operations between processes that the loop needs.

Each process holds the whole network and makes its own tiles of every step. Gradients are summed over all processes, so
that all of them take the same step. Only the first process writes files and logs. A process that trains alone is the
first of one, and none of the operations does anything.
"""

from __future__ import annotations

import logging
import math
import os
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from torch import distributed

from cifm_cli.errors import CifmError
from cifm_cli.processes import LostContactError
from cifm_cli.training.rendezvous import Rank, find_address, find_rank, meet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

# How long a process waits for another one that is alive: the others wait while the first fits the head before the first
# step, which takes long on a large corpus. A process that has ended is noticed at once.
TIMEOUT = timedelta(hours=1)


def check_even_split(tiles_per_step: int, num_processes: int) -> None:
    """Check that every process gets the same number of tiles of a step.

    Raises:
        CifmError: It does not.
    """
    if tiles_per_step % num_processes:
        fitting = num_processes * math.ceil(tiles_per_step / num_processes)
        raise CifmError(
            f"train.tiles_per_step = {tiles_per_step} can't be shared out evenly over {num_processes} processes",
            f"for instance --set train.tiles_per_step={fitting}",
        )


@contextmanager
def join_processes(*, alone: bool = False) -> Iterator[Processes]:
    """Connect to the other processes of this training, if there are any.

    Within the block, processes other than the first log errors only.

    Args:
        alone: Whether this is a single process, whatever the environment says.

    Yields:
        The operations between the processes.

    Raises:
        CifmError: The variables of the environment contradict each other, or the other processes do not appear.
        LostContactError: The other processes cannot be reached.
    """
    this = Rank() if alone else find_rank(os.environ)
    if this.size == 1:
        yield Processes()
        return
    store = meet(this, find_address(os.environ))
    # Flags and losses are tensors on the CPU, also where the gradients are on a GPU.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with _translating_errors():
        distributed.init_process_group(backend, store=store, timeout=TIMEOUT, world_size=this.size, rank=this.rank)
    logger = logging.getLogger("cifm_cli")
    level = logger.level
    try:
        if this.rank > 0:
            logger.setLevel(logging.ERROR)
        yield Processes(this.rank, this.size, this.local_rank)
    finally:
        logger.setLevel(level)
        distributed.destroy_process_group()


@dataclass(frozen=True)
class Processes(Rank):
    """Operations between the processes that train together."""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and logs."""
        return self.rank == 0

    def own_indices(self, number: int) -> range:
        """The indices below `number` that are the work of this process; each index belongs to one process."""
        return range(self.rank, number, self.size)

    def own_device(self, device: torch.device) -> torch.device:
        """The device of this process.

        Args:
            device: A device, or only its kind: with several processes, each gets the GPU of its local rank then.

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
        torch.cuda.set_device(self.local_rank)  # NCCL uses the current device
        return torch.device("cuda", self.local_rank)

    def sum_gradients(self, network: nn.Module, value: float) -> float:
        """Sum the gradients of a network, and a number, over all processes.

        Args:
            network: Its gradients are replaced by their sums. A weight that no process used keeps None.
            value: The number, such as a loss.

        Returns:
            Sum of the numbers.
        """
        if self.size == 1:
            return value
        weights = [weight for weight in network.parameters() if weight.requires_grad]
        # None is not the same as a gradient of zero, with which momentum and weight decay would still move the weight.
        used = torch.tensor([weight.grad is not None for weight in weights], dtype=torch.float32)
        # One tensor for all gradients: a single reduction has less latency than one for each weight.
        flat = torch.cat([_flat_gradient(weight) for weight in weights])
        with _translating_errors():
            distributed.all_reduce(used)
            distributed.all_reduce(flat)
        gradients = flat.split([weight.numel() for weight in weights])
        for weight, gradient, times_used in zip(weights, gradients, used.tolist(), strict=True):
            weight.grad = gradient.view_as(weight) if times_used else None
        return self.sum(value)

    def sum(self, value: float) -> float:
        """Sum of a number over all processes."""
        return self._reduce(value, distributed.ReduceOp.SUM) if self.size > 1 else value

    def max(self, value: float) -> float:
        """Maximum of a number over all processes."""
        return self._reduce(value, distributed.ReduceOp.MAX) if self.size > 1 else value

    def copy_from_first(self, network: nn.Module) -> None:
        """Overwrite the weights and buffers of every process with those of the first."""
        if self.size == 1:
            return
        with _translating_errors():
            # The tensors of a state dictionary share memory with the network, so they are overwritten in place.
            for tensor in network.state_dict().values():
                distributed.broadcast(tensor, src=0)

    def send_from_first(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of the first process, by name; those of the others are ignored."""
        if self.size == 1:
            return tensors
        sent = [tensors if self.is_first else None]
        with _translating_errors():
            distributed.broadcast_object_list(sent, src=0, device=torch.device("cpu"))
        return sent[0] or {}

    def _reduce(self, value: float, operation: distributed.ReduceOp.RedOpType) -> float:
        # In float64, which holds a number of Python without rounding.
        tensor = torch.tensor(value, dtype=torch.float64)
        with _translating_errors():
            distributed.all_reduce(tensor, op=operation)
        return tensor.item()


def _flat_gradient(weight: nn.Parameter) -> Tensor:
    """(n,) gradient of a weight; zeros where it has none."""
    return torch.zeros_like(weight).flatten() if weight.grad is None else weight.grad.flatten()


@contextmanager
def _translating_errors() -> Iterator[None]:
    """Turn torch's errors about a broken connection into one that the user understands."""
    try:
        yield
    # torch raises RuntimeError for a closed connection and for a timeout.
    except RuntimeError as error:
        raise LostContactError(
            "lost contact with another training process",
            "its own error above is the reason; the last saved state is complete: continue with --resume",
        ) from error
