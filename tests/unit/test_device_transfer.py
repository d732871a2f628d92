"""Copies of tiles to a GPU, with a GPU that only records what is asked of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import torch
from builders import mask_cells

from cifm_backends.base import Graph
from cifm_cli.data.slide import Slide
from cifm_cli.model.example import Example
from cifm_cli.model.objective import Targets
from cifm_cli.model.precision import precision_note
from cifm_cli.recipe import Recipe
from cifm_cli.training.device_transfer import copy_ahead, map_tensors, pinning

GPU = torch.device("cuda")


class Pair(NamedTuple):
    graph: Graph
    other: Graph | None


def make_graph() -> Graph:
    graph = Graph(torch.tensor([0, 1]), torch.tensor([0]), torch.tensor([0]), torch.zeros(1, 2))
    graph.cache["derived"] = "from the tensors on the CPU"
    return graph


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace CUDA by functions that record their calls; a copy is marked by its attribute `copied`."""
    calls: list[str] = []

    class Stream:
        def __init__(self, device: torch.device) -> None:
            assert device == GPU
            self.num_events = 0

        def record_event(self) -> int:
            self.num_events += 1
            calls.append(f"event {self.num_events}")
            return self.num_events

    class Current:
        def wait_event(self, event: int) -> None:
            calls.append(f"wait {event}")

    @contextmanager
    def on_stream(stream: Stream) -> Iterator[None]:
        assert isinstance(stream, Stream)
        calls.append("[")
        yield
        calls.append("]")

    def to(tensor: torch.Tensor, device: torch.device, non_blocking: bool) -> torch.Tensor:
        assert (device, non_blocking) == (GPU, True)
        calls.append("copy")
        copied = tensor.clone()
        copied.copied = True
        return copied

    def record(tensor: torch.Tensor, stream: Current) -> None:
        assert tensor.copied
        assert isinstance(stream, Current)
        calls.append("record")

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", on_stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Current())
    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch.Tensor, "record_stream", record)
    return calls


def test_two_items_are_copied_before_the_first_is_used(log: list[str]) -> None:
    items = [[torch.tensor(float(number))] for number in range(4)]
    started = ["[", "copy", "]"]
    copies = copy_ahead(iter(items), GPU, ahead=2)
    assert float(next(copies)[0]) == 0
    # The network waits for its own item only, and the memory is kept until it has used it.
    assert log == [*started, "event 1", *started, "event 2", *started, "event 3", "wait 1", "record"]
    log.clear()
    assert float(next(copies)[0]) == 1
    assert log == [*started, "event 4", "wait 2", "record"]
    assert [float(item[0]) for item in copies] == [2, 3]
    assert log[-4:] == ["wait 3", "record", "wait 4", "record"]


def test_on_a_cpu_nothing_is_copied(log: list[str]) -> None:
    items = [[torch.zeros(1)], [torch.ones(1)]]
    for passed, item in zip(copy_ahead(items, torch.device("cpu")), items, strict=True):
        assert passed is item
    assert pinning(make_graph, torch.device("cpu")) is make_graph
    assert log == []


def test_tiles_are_made_in_page_locked_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)  # needs a GPU
    assert pinning(lambda number: [torch.tensor(number)], GPU)(3)[0] == 4


def test_a_copy_has_the_same_structure_and_nothing_derived() -> None:
    graph = make_graph()
    both = map_tensors((Pair(graph, graph), Pair(graph, None), "name", 3), torch.clone)
    copied = both[0].graph
    assert both[1:] == (Pair(copied, None), "name", 3)
    assert both[0].other is copied  # not a second copy of the same graph
    assert copied is not graph
    assert copied.cache == {}
    assert copied.cache is not graph.cache
    for name in ("indptr", "sources", "targets", "displacement"):
        assert torch.equal(getattr(copied, name), getattr(graph, name))
        assert getattr(copied, name) is not getattr(graph, name)


def test_every_tensor_of_a_training_tile_is_copied(slide: Slide) -> None:
    recipe = Recipe()
    tile = mask_cells(slide, torch.arange(5, 9).numpy(), recipe)
    example = Example(tile, Targets(torch.zeros(4, 3), torch.ones(4, 3)))
    meta = map_tensors(example, lambda tensor: tensor.to("meta"))
    devices: list[str] = []
    map_tensors(meta, lambda tensor: devices.append(tensor.device.type) or tensor)
    assert set(devices) == {"meta"}
    assert len(devices) > 20
    (copied,) = copy_ahead([example], torch.device("meta"))  # a device without streams
    assert {copied.tile.visible.device.type, copied.target.values.device.type} == {"meta"}


@pytest.mark.parametrize(
    ("precision", "device", "capability", "noted"),
    [
        ("bfloat16", "cuda", (7, 5), True),
        ("bfloat16", "cuda", (8, 0), False),
        ("bfloat16", "cuda", (12, 0), False),
        ("float32", "cuda", (7, 5), False),
        ("bfloat16", "cpu", (0, 0), False),
    ],
)
def test_a_gpu_without_bfloat16_is_noted(
    monkeypatch: pytest.MonkeyPatch, precision: str, device: str, capability: tuple[int, int], noted: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    note = precision_note(precision, torch.device(device))
    assert (note is not None) == noted
    if note:
        assert note == "Tesla T4 has no bfloat16 in hardware: --precision float32 may be faster"
