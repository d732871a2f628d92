"""Copies of tiles to a GPU: their content, their order, and what is in flight at a time. There is no GPU here."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest
import torch
from builders import mask_cells

from cifm_backends.base import Graph
from cifm_cli.data.slide import slide_from_arrays
from cifm_cli.model.masking import MaskedTile
from cifm_cli.provenance import numpy_generator
from cifm_cli.recipe import parse
from cifm_cli.training.device_transfer import CudaCopies, copy_ahead, map_tensors, prefetch_on_device

CPU, META = torch.device("cpu"), torch.device("meta")


def masked_tile() -> MaskedTile:
    """A tile of the objective `residual`, which has all optional parts."""
    generator = numpy_generator(0, "transfer")
    xy_um, counts = generator.uniform(0, 60, (30, 2)), generator.poisson(1.5, (30, 8))
    slide = slide_from_arrays("tissue", xy_um, counts, tuple(f"ENSG{g:011d}" for g in range(8)), 20.0)
    recipe = parse({"model": {"width": 8, "heads": 2}, "objective": {"name": "residual"}}, "recipe")
    return mask_cells(slide, np.array([3, 5]), recipe)


def leaves(value: Any, path: str = "") -> dict[str, torch.Tensor]:
    """The tensors of a structure by their place in it."""
    if isinstance(value, torch.Tensor):
        return {path: value}
    if is_dataclass(value):
        parts = [(field.name, getattr(value, field.name)) for field in fields(value)]
    elif isinstance(value, list | tuple):
        parts = list(enumerate(value))
    else:
        return {}
    return {place: leaf for name, part in parts for place, leaf in leaves(part, f"{path}/{name}").items()}


def test_every_tensor_of_a_tile_is_copied_as_the_tile_itself_copies_them() -> None:
    """The device `meta` has no memory: a tensor that was left behind is still on the CPU."""
    tile = masked_tile()
    wanted, found = leaves(tile.to(META)), leaves(map_tensors(tile, lambda tensor: tensor.to(META)))
    assert len(wanted) > 30
    assert {path: (t.shape, t.dtype, t.device) for path, t in found.items()} == {
        path: (t.shape, t.dtype, META) for path, t in wanted.items()
    }


def test_a_copy_of_a_graph_has_nothing_that_was_derived_from_the_original() -> None:
    row = torch.tensor([0])
    graph = Graph(torch.tensor([0, 1]), row, row, torch.zeros(1, 2))
    graph.cache["fused targets"] = "of the CPU"
    assert map_tensors([graph], torch.clone)[0].cache == {}
    assert graph.cache == {"fused targets": "of the CPU"}


def test_structures_keep_their_types() -> None:
    value = {"a": (torch.ones(2), 7), "b": [None, torch.zeros(1)], "c": torch.ones(3).max(0)}
    found = map_tensors(value, lambda tensor: tensor + 1)
    assert found["a"][0].tolist() == [2, 2]
    assert found["a"][1] == 7
    assert found["b"][0] is None
    assert found["b"][1].tolist() == [1]
    assert found["c"].values.item() == 2  # a named tuple of torch, which takes one argument


class Recorded:
    """Copies of numbers instead of batches, with a record of the order of operations."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def start(self, batch: int) -> tuple[int, str]:
        self.events.append(f"start {batch}")
        return 10 * batch, f"event {batch}"

    def finish(self, batch: int, event: str) -> None:
        assert event == f"event {batch // 10}"
        self.events.append(f"finish {batch // 10}")


def test_copies_are_started_ahead_and_arrive_in_order() -> None:
    copies = Recorded()
    found = []
    for batch in copy_ahead((number for number in range(4)), copies, ahead=2):
        copies.events.append(f"use {batch // 10}")
        found.append(batch)
    assert found == [0, 10, 20, 30]
    started = ["start 0", "start 1", "start 2", "finish 0", "use 0", "start 3", "finish 1", "use 1"]
    assert copies.events == [*started, "finish 2", "use 2", "finish 3", "use 3"]


def test_no_batches_give_no_copies() -> None:
    assert list(copy_ahead((number for number in ()), Recorded())) == []


def test_batches_are_no_longer_made_when_the_caller_stops() -> None:
    closed = []

    def batches() -> Iterator[int]:
        try:
            yield from range(100)
        finally:
            closed.append(True)

    copies, source = Recorded(), batches()  # with a name, as Python itself closes a generator that nobody refers to
    copied = copy_ahead(source, copies, ahead=1)
    assert next(copied) == 0
    copied.close()
    assert closed == [True]
    assert copies.events == ["start 0", "start 1", "finish 0"]


class FakeCuda:
    """The streams of `torch.cuda`, without a GPU: what happens is recorded in `events`."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self.pinned_by: set[str] = set()
        self.stack = ["compute"]
        patch.setattr(torch.cuda, "Stream", lambda _device: self)
        patch.setattr(torch.cuda, "stream", self.stream)
        patch.setattr(torch.cuda, "device", self.device)
        patch.setattr(torch.cuda, "current_stream", lambda _device: self)
        patch.setattr(torch.Tensor, "pin_memory", self.pin)
        patch.setattr(torch.Tensor, "record_stream", lambda tensor, _stream: self.events.append(f"keep {int(tensor)}"))

        def to(tensor: torch.Tensor, device: torch.device, *, non_blocking: bool) -> torch.Tensor:
            return self.copy(tensor, device, non_blocking)

        patch.setattr(torch.Tensor, "to", to)

    @contextmanager
    def stream(self, _stream: FakeCuda) -> Iterator[None]:
        self.stack.append("copy")
        yield
        self.stack.pop()

    @contextmanager
    def device(self, _device: torch.device) -> Iterator[None]:
        yield

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        self.pinned_by.add(threading.current_thread().name)
        return tensor + 100  # marks pinned tensors

    def copy(self, tensor: torch.Tensor, device: torch.device, non_blocking: bool) -> torch.Tensor:
        assert (device.type, non_blocking, self.stack[-1]) == ("cuda", True, "copy")
        self.events.append(f"copy {int(tensor)}")
        return tensor + 1000  # marks copies

    def record_event(self) -> str:
        self.events.append("record")
        return "event"

    def wait_event(self, event: str) -> None:
        assert (event, self.stack[-1]) == ("event", "compute")
        self.events.append("wait")


def test_on_a_gpu_batches_are_pinned_in_threads_copied_in_a_stream_and_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = FakeCuda(monkeypatch)
    batches = prefetch_on_device(lambda n: [torch.tensor(n)], range(3), torch.device("cuda", 0), workers=1, ahead=1)
    assert [int(batch[0]) for batch in batches] == [1100, 1101, 1102]
    assert threading.current_thread().name not in cuda.pinned_by
    # Two batches are copied ahead of the first one.
    assert cuda.events == [
        *("copy 100", "record", "copy 101", "record", "copy 102", "record"),
        *("wait", "keep 1100", "wait", "keep 1101", "wait", "keep 1102"),
    ]


def test_copies_of_a_gpu_pass_on_what_are_no_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch)
    assert CudaCopies(torch.device("cuda", 0)).pin([None, 3]) == [None, 3]


def test_on_the_cpu_batches_are_passed_on() -> None:
    made = [torch.tensor(number) for number in range(3)]
    found = list(prefetch_on_device(lambda number: made[number], range(3), CPU, workers=1, ahead=1))
    assert all(a is b for a, b in zip(found, made, strict=True))
