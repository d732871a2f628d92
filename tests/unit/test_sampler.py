"""The sampler covers every cell once or twice an epoch, visits slides or ranges equally often, and keeps no state."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifm_cli.recipe_sections import DataRecipe
from cifm_cli.training.sampler import Sampler

LENGTHS = (100, 16, 7, 64)  # with ranges of 16 cells: 7, 2, 1 and 5 ranges


def make_sampler(lengths=LENGTHS, sampling="slides", seed=0, size=16) -> Sampler:
    return Sampler(lengths, DataRecipe(tile_cells=size, sampling=sampling), seed)


@given(
    length=st.integers(2, 400),
    size=st.integers(16, 120),
    epoch=st.integers(0, 3),
    sampling=st.sampled_from(["slides", "cells"]),
)
def test_an_epoch_covers_every_cell_once_and_a_few_twice(length: int, size: int, epoch: int, sampling: str) -> None:
    sampler = make_sampler([length], sampling, size=size)
    number = sampler.num_ranges[0]
    seen = np.zeros(length, dtype=int)
    for core in (sampler.cell_range(epoch * number + turn) for turn in range(number)):
        assert core.stop - core.start == min(size, length)
        seen[core.start : core.stop] += 1
    assert seen.min() >= 1
    assert seen.max() <= 2
    assert (seen == 2).sum() <= size


def test_every_slide_is_visited_equally_often() -> None:
    sampler = make_sampler()
    visits = [sampler.cell_range(number).slide for number in range(4 * 9)]
    assert all(sorted(visits[start : start + 4]) == [0, 1, 2, 3] for start in range(0, 36, 4))
    assert len({tuple(visits[start : start + 4]) for start in range(0, 36, 4)}) > 1  # not always in the same order


def test_every_range_is_visited_equally_often() -> None:
    visits = Counter(make_sampler(sampling="cells").cell_range(number).slide for number in range(15 * 3))
    assert visits == {0: 21, 1: 6, 2: 3, 3: 15}


@pytest.mark.parametrize("sampling", ["slides", "cells"])
def test_a_tile_depends_on_seed_and_number_only(sampling: str) -> None:
    numbers = [*range(60), 10**9]
    forwards = [make_sampler(sampling=sampling).cell_range(number) for number in numbers]
    sampler = make_sampler(sampling=sampling)
    assert [sampler.cell_range(number) for number in reversed(numbers)] == forwards[::-1]
    assert [make_sampler(sampling=sampling, seed=1).cell_range(number) for number in numbers] != forwards


def test_epochs_differ_in_order_and_offset() -> None:
    sampler = make_sampler([1000])
    epochs = [[sampler.cell_range(epoch * 63 + turn).start for turn in range(63)] for epoch in range(3)]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert len({sorted(epoch)[1] for epoch in epochs}) > 1
