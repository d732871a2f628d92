"""Copying tiles to a GPU while it works on earlier ones.

The threads that make tiles place them in pinned memory, from which a GPU reads without waiting for the processor. The
copies are queued in a CUDA stream of their own, a few batches ahead of the batch that the network works on. On other
devices, batches are passed on as they are.

Not verified on a GPU: the tests use a stand-in for CUDA.
"""

from __future__ import annotations

from collections import deque
from contextlib import closing
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import torch
from torch import Tensor

from cifm_backends.base import Graph
from cifm_cli.data.prefetch import prefetch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

Item = TypeVar("Item")
Batch = TypeVar("Batch")

BATCHES_AHEAD = 2  # batches on the GPU beyond the one that the network works on; their tiles occupy its memory


class Copies(Protocol):
    """Copies of batches to a device that run while the device computes."""

    def pin(self, batch: Batch) -> Batch:
        """Place the tensors of a batch where the device can read them; called in any thread."""
        ...

    def start(self, batch: Batch) -> tuple[Batch, Any]:
        """Start to copy a batch. Returns the copy, which must not be used yet, and an event for `finish`."""
        ...

    def finish(self, batch: Batch, event: Any) -> None:  # noqa: ANN401 - an event of the device
        """Make all computations that are queued from now on wait until the batch is there."""
        ...


class CudaCopies:
    """Copies to a GPU.

    Args:
        device: The GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def pin(self, batch: Batch) -> Batch:
        """See `Copies.pin`."""
        # A new thread would use the first GPU, and each process would occupy memory there.
        with torch.cuda.device(self._device):
            return map_tensors(batch, Tensor.pin_memory)

    def start(self, batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        """See `Copies.start`."""
        with torch.cuda.stream(self._stream):
            # PyTorch keeps pinned memory from being reused until the copies from it have run.
            copied = map_tensors(batch, lambda tensor: tensor.to(self._device, non_blocking=True))
            return copied, self._stream.record_event()

    def finish(self, batch: Batch, event: torch.cuda.Event) -> None:
        """See `Copies.finish`."""
        computing = torch.cuda.current_stream(self._device)
        computing.wait_event(event)

        def keep(tensor: Tensor) -> Tensor:
            """Mark memory as used by the computations, which may run after Python has released the tensor."""
            tensor.record_stream(computing)
            return tensor

        map_tensors(batch, keep)


def prefetch_on_device(
    function: Callable[[Item], Batch], items: Iterable[Item], device: torch.device, workers: int, ahead: int
) -> Iterator[Batch]:
    """Like `prefetch`, with results on the device if it is a GPU, and where `function` made them otherwise.

    Args:
        function: Makes a batch; called in threads.
        items: What the batches are made from.
        device: Device of the network.
        workers: Number of threads.
        ahead: Number of batches that are made ahead in the memory of the processor.

    Returns:
        Batches in the order of the items.
    """
    if device.type != "cuda":
        return prefetch(function, items, workers, ahead)
    copies = CudaCopies(device)
    pinned = prefetch(lambda item: copies.pin(function(item)), items, workers, ahead)
    return copy_ahead(cast("Generator[Batch, None, None]", pinned), copies)


def copy_ahead(
    batches: Generator[Batch, None, None], copies: Copies, ahead: int = BATCHES_AHEAD
) -> Generator[Batch, None, None]:
    """Copy batches to a device before they are requested.

    Args:
        batches: Pinned batches. The generator is closed when the caller stops.
        copies: Copies to the device.
        ahead: Number of copies that are started beyond the batch that the caller has.

    Yields:
        The copies, in the order of the batches.
    """
    waiting: deque[tuple[Batch, Any]] = deque()

    def take() -> Batch:
        """The oldest copy, ready for use."""
        batch, event = waiting.popleft()
        copies.finish(batch, event)
        return batch

    with closing(batches):
        for batch in batches:
            waiting.append(copies.start(batch))
            if len(waiting) > ahead:
                yield take()
        while waiting:
            yield take()


def map_tensors(value: Batch, function: Callable[[Tensor], Tensor]) -> Batch:
    """Replace every tensor in a structure of dataclasses, lists, tuples and dictionaries; other values stay the same.

    Args:
        value: The structure.
        function: Takes and returns a tensor.

    Returns:
        A structure of the same types.
    """
    return cast("Batch", _map_tensors(value, function))


def _map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:  # noqa: ANN401 - any structure
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Graph):  # what backends have derived from it belongs to the old tensors
        indptr, sources, targets = map(function, (value.indptr, value.sources, value.targets))
        return Graph(indptr, sources, targets, function(value.displacement))
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        return replace(value, **{name: _map_tensors(part, function) for name, part in parts.items()})
    if isinstance(value, dict):
        return {key: _map_tensors(part, function) for key, part in value.items()}
    if isinstance(value, tuple | list):
        mapped = [_map_tensors(part, function) for part in value]
        return type(value)(*mapped) if hasattr(value, "_fields") else type(value)(mapped)
    return value
