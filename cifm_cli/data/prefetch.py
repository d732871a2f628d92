"""Making the next things, such as tiles, in threads while the caller works on this one."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Item = TypeVar("Item")
Made = TypeVar("Made")


def made_ahead(make: Callable[[Item], Made], items: Iterable[Item], workers: int = 1, ahead: int = 1) -> Iterator[Made]:
    """`map`, but some things are made before they are asked for.

    Args:
        make: Makes something of one item alone.
        items: What to make things of; asked for here, one after the other.
        workers: Threads; how many changes nothing but the time.
        ahead: How many are made, or being made, beyond the one that the caller has; memory grows with it.

    Yields:
        What was made, in the order of the items.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="ahead") as makers:
        waiting: deque[Future[Made]] = deque()
        try:
            # In the caller's thread: what yields the items need not know of threads.
            for item in items:
                waiting.append(makers.submit(make, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # The caller may break off: what has not begun by then is not made.
            makers.shutdown(wait=True, cancel_futures=True)
