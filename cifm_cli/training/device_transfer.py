"""Copies of tiles to a GPU while it works on earlier ones, from page-locked memory and on a stream of their own.

On a CPU nothing is copied. The functions know nothing of what a tile contains: they go through its dataclasses and tuples.
"""

from __future__ import annotations

from collections import deque
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Item = TypeVar("Item")
Value = TypeVar("Value")

AHEAD = 2  # items on the GPU beyond the one that is used; its memory grows with it


def pinning(make: Callable[[Item], Value], device: torch.device) -> Callable[[Item], Value]:
    """Let a function return its tensors in page-locked memory, from which a GPU copies without the processor.

    Args:
        make: Makes an item, in a thread.
        device: Where the item is used.

    Returns:
        The function itself for a CPU.
    """
    if device.type != "cuda":
        return make
    # In the threads that make the items, because the copy into page-locked memory takes time.
    return lambda item: map_tensors(make(item), Tensor.pin_memory)


def copy_ahead(items: Iterable[Value], device: torch.device, ahead: int = AHEAD) -> Iterator[Value]:
    """Copy items to a GPU before they are requested.

    Args:
        items: Dataclasses, tuples or lists of tensors, best in page-locked memory.
        device: Where they are used. For a CPU they are passed on as they are.
        ahead: Number of items that are on the GPU beyond the one that the caller has.

    Yields:
        The items on the device, in the same order.
    """
    if device.type != "cuda":  # other devices have no streams
        yield from (item if device.type == "cpu" else _to(item, device) for item in items)
        return
    stream: torch.cuda.Stream = torch.cuda.Stream(device)
    waiting: deque[_Copy] = deque()
    for item in items:
        waiting.append(_start(item, device, stream))
        if len(waiting) > ahead:
            yield _finish(waiting.popleft(), device)
    while waiting:
        yield _finish(waiting.popleft(), device)


def map_tensors(value: Value, function: Callable[[Tensor], Tensor]) -> Value:
    """Apply a function to every tensor of a value, once also where a tensor occurs in several places.

    Args:
        value: Dataclasses, tuples and lists of tensors and of other values, which are kept. Fields that take no part in
            comparisons, such as the cache of a graph, are left empty: they are derived from the tensors.
        function: Maps a tensor.

    Returns:
        A value with the same structure; objects that occur in several places still do.
    """
    known: dict[int, Any] = {}

    def change(part: Any) -> Any:  # noqa: ANN401 - any part of a value
        """Map a part that was not met before, and remember it."""
        if id(part) not in known:
            known[id(part)] = change_new(part)
        return known[id(part)]

    def change_new(part: Any) -> Any:  # noqa: ANN401
        """Map a part."""
        if isinstance(part, Tensor):
            return function(part)
        if is_dataclass(part) and not isinstance(part, type):
            return type(part)(**{each.name: change(getattr(part, each.name)) for each in fields(part) if each.compare})
        if isinstance(part, (tuple, list)):
            changed = [change(each) for each in part]
            # A named tuple takes its fields one by one.
            return type(part)(*changed) if hasattr(part, "_fields") else type(part)(changed)
        return part

    return cast("Value", change(value))


class _Copy(NamedTuple):
    """A copy that may still be under way."""

    source: Any  # kept until the copy is complete
    target: Any
    complete: torch.cuda.Event


def _start(item: Any, device: torch.device, stream: torch.cuda.Stream) -> _Copy:  # noqa: ANN401
    """Queue the copy of an item, without waiting for it."""
    with torch.cuda.stream(stream):
        target = _to(item, device)
    return _Copy(item, target, stream.record_event())


def _to(item: Value, device: torch.device) -> Value:
    return map_tensors(item, lambda tensor: tensor.to(device, non_blocking=True))


def _finish(copy: _Copy, device: torch.device) -> Any:  # noqa: ANN401
    """Let the stream of the network wait for a copy."""
    current = torch.cuda.current_stream(device)
    current.wait_event(copy.complete)

    def record(tensor: Tensor) -> Tensor:
        """Keep the memory of a tensor until the network has used it; it belongs to the stream of the copies."""
        tensor.record_stream(current)
        return tensor

    map_tensors(copy.target, record)
    return copy.target
