"""Processor time of short computations in one thread of torch."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager


@contextmanager
def using_threads(number: int) -> Iterator[None]:
    """Let torch use a number of threads within the block.

    Args:
        number: At least one.

    Yields:
        Nothing.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread() -> AbstractContextManager[None]:
    """Let torch use one thread within a block."""
    return using_threads(1)


def measure_seconds(function: Callable[[int], object], sizes: Iterable[int]) -> list[float]:
    """Measure calls with different sizes. Call it within `one_thread`.

    Args:
        function: What is measured, such as a product with `size` rows.
        sizes: The sizes. The first call is not measured: it loads a library, or gets memory.

    Returns:
        Processor time of each other call, in seconds. Other programs on the machine change it less than the time of the clock.
    """
    first, *others = sizes
    function(first)
    seconds = []
    for size in others:
        started = time.thread_time()
        function(size)
        seconds.append(time.thread_time() - started)
    return seconds
