"""`map_threads`: results in the order of the items, and the number of threads of other code is not changed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, get_ident

import pytest
import torch

from cifm_backends import fused_cpu
from cifm_cli.training.threads import map_threads

CPU = torch.device("cpu")


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
def test_cores_are_divided_among_the_items() -> None:
    def describe_thread(item: int) -> tuple[int, int, int]:
        return item, get_ident(), torch.get_num_threads()

    results = map_threads(describe_thread, range(8), CPU)
    assert [item for item, _, _ in results] == list(range(8))
    assert {number for _, _, number in results} == {1}
    results = map_threads(describe_thread, range(2), CPU)
    assert {number for _, _, number in results} == {2}
    assert torch.get_num_threads() == 4
    with ThreadPoolExecutor(1) as other:
        assert other.submit(torch.get_num_threads).result() == 4


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize(("num_items", "spare", "cores"), [(1, 1, 3), (2, 1, 1), (4, 1, 1), (2, 0, 2), (1, 9, 1)])
def test_cores_can_be_left_to_others(num_items: int, spare: int, cores: int) -> None:
    found = map_threads(lambda _: torch.get_num_threads(), range(num_items), CPU, spare)
    assert found == [cores] * num_items
    assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize(("items", "device"), [([1], CPU), ([1, 2], torch.device("meta"))])
def test_one_item_or_another_device_uses_no_threads(items: list[int], device: torch.device) -> None:
    assert map_threads(lambda _: get_ident(), items, device) == [get_ident()] * len(items)


@pytest.mark.usefixtures("four_threads")
def test_exceptions_are_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        map_threads(lambda item: 1 / item, [1, 0, 2], CPU)


@pytest.mark.usefixtures("four_threads")
def test_kernels_of_two_members_run_at_the_same_time() -> None:
    """Two members on four cores: four ranges of rows are computed at the same time, or the barrier breaks."""
    at_once = Barrier(4, timeout=20)

    def kernel(start: int, stop: int) -> None:
        assert (start, stop) in bounds
        at_once.wait()

    bounds = [(0, 1), (1, 2), (2, 3), (3, 4)]
    map_threads(lambda _: fused_cpu._run(kernel, bounds, (), [()] * 4), range(2), CPU)
