"""Computing results ahead in threads, such as the next tiles while the network runs on the current one."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int = 1, ahead: int = 1
) -> Iterator[Result]:
    """Map a function over items like `map`, but compute some results before they are requested.

    Args:
        function: Computes the result of an item; called in threads, so it must not depend on the other calls.
        items: The items; the iterable is consumed in the thread of the caller.
        workers: Number of threads.
        ahead: Number of results that are computed beyond the one that the caller has; memory grows with it.

    Yields:
        Results in the order of the items.
    """
    # Threads instead of processes: the work is done by NumPy, SciPy and HDF5, and results need no copy.
    with ThreadPoolExecutor(workers, thread_name_prefix="prefetch") as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                # The caller has one result while `ahead` more are computed.
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # If the caller stops early, results that have not been started are not computed.
            pool.shutdown(wait=True, cancel_futures=True)
