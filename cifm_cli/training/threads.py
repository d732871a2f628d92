"""Independent computations, such as those of the members of a network, on threads of a CPU."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import lru_cache
from threading import Barrier
from typing import TYPE_CHECKING, TypeVar

import torch

from cifm_cli.processor_time import one_thread, using_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from cifm_cli.model.ensemble import Ensemble

Item = TypeVar("Item")
Result = TypeVar("Result")

# Weights of a member whose parts of a step run in parallel. A larger one uses all cores for each tile, and less memory.
MAX_WEIGHTS = 10_000_000


def map_threads(
    function: Callable[[Item], Result], items: Sequence[Item], device: torch.device, spare: int = 0
) -> list[Result]:
    """`map`, on as many threads as there are items and cores: small matrix products gain little from several cores.

    Args:
        function: Called with each item; calls must not depend on each other.
        items: Any number of items.
        device: Where the computation runs. On a GPU the calls are made one after the other.
        spare: Number of cores that are left to other threads where there are enough.

    Returns:
        The results, in the order of the items.
    """
    if device.type != "cpu":  # one thread suffices for a GPU, which runs operations after they are queued
        return [function(item) for item in items]
    num_cores = torch.get_num_threads()
    num_threads = max(1, min(len(items), num_cores))
    cores_per_thread = max(1, (num_cores - spare) // num_threads)
    if num_threads == 1:
        with using_threads(cores_per_thread):
            return [function(item) for item in items]
    return list(_make_pool(num_threads, cores_per_thread, os.getpid()).map(function, items))


def is_small(network: Ensemble, device: torch.device) -> bool:
    """Whether a network is on a CPU and so small that its products gain little from several cores.

    Args:
        network: The network.
        device: Where it is trained.
    """
    return device.type == "cpu" and sum(weight.numel() for weight in network.first.parameters()) <= MAX_WEIGHTS


def between_parts(*, shares_cores: bool) -> AbstractContextManager[None]:
    """Use one thread of torch for what runs before and after the parts of a step, which is short.

    The other threads would wait busily for more work, on the cores that other parts or the next tile need.

    Args:
        shares_cores: Whether the parts of a step leave cores to others.

    Returns:
        The context manager.
    """
    return one_thread() if shares_cores else nullcontext()


@lru_cache(maxsize=4)  # members and matrices may need pools of different sizes
def _make_pool(num_threads: int, cores_per_thread: int, process: int) -> ThreadPoolExecutor:
    """Threads that are kept between calls, each of which uses some of the cores for torch.

    `process` is part of the cache's key: threads do not survive a fork.
    """
    num_cores = torch.get_num_threads()
    pool = ThreadPoolExecutor(
        num_threads,
        thread_name_prefix=f"cifm-members-{process}",
        initializer=_set_cores,
        initargs=(cores_per_thread,),
    )
    # The executor starts a thread only when no other is idle: the barrier makes it start all of them now.
    all_started = Barrier(num_threads)
    list(pool.map(lambda _: all_started.wait(), range(num_threads)))
    torch.set_num_threads(num_cores)  # threads that start later would inherit the number that was set last
    return pool


def _set_cores(number: int) -> None:
    """Set the number of cores that torch uses in this thread."""
    torch.set_num_threads(number)
    torch.get_num_threads()  # torch drops the number again unless the thread has read it once
