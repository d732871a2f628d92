"""Things that have nothing to do with each other, such as the members of a network, on threads of a CPU."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Barrier
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Item = TypeVar("Item")
Made = TypeVar("Made")


def side_by_side(task: Callable[[Item], Made], items: Sequence[Item], device: torch.device) -> list[Made]:
    """`map`, on as many threads as there are items and cores: small products gain little from several cores each.

    Args:
        task: What to do with an item alone.
        items: Any number.
        device: Where the work is done; on a GPU it is one after the other.

    Returns:
        The answers, in the order of the items.
    """
    num_threads = torch.get_num_threads()
    workers = min(len(items), num_threads) if device.type == "cpu" else 1
    if workers < 2:
        return [task(item) for item in items]
    return list(_threads(workers, num_threads // workers, os.getpid()).map(task, items))


@lru_cache(maxsize=1)
def _threads(workers: int, threads_of_each: int, process: int) -> ThreadPoolExecutor:
    """Threads of this process that sleep between calls; torch uses but a share of the cores in each."""
    own = torch.get_num_threads()
    pool = ThreadPoolExecutor(
        workers,
        thread_name_prefix=f"cifm-members-{process}",
        initializer=_use,
        initargs=(threads_of_each,),
    )
    everyone = Barrier(workers)
    list(pool.map(lambda _: everyone.wait(), range(workers)))  # by now each has been told how many threads it has
    torch.set_num_threads(own)  # torch would hand the last number set to threads that start later
    return pool


def _use(num_threads: int) -> None:
    """Set this thread's number; torch forgets it again unless the thread has asked for it once."""
    torch.set_num_threads(num_threads)
    torch.get_num_threads()
