"""Regions of a run that have cells in common."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cifm_cli import keys
from cifm_cli.data.cell_sketch import CellSketch
from cifm_cli.training.seen_cells import duplicate_notes, find_shared

NONE = np.zeros(0, np.uint64)
GENES = np.full(3, 0.5, np.float16)


def sketch(slide: str, use: str, counts: object, places: object = NONE) -> CellSketch:
    return CellSketch(slide, use, np.unique(np.array(counts, np.uint64)), np.unique(np.array(places, np.uint64)), GENES)


@given(st.lists(st.sets(st.integers(1, 40), min_size=1), min_size=1, max_size=5))
def test_the_same_pairs_are_found_as_by_comparing_every_pair(regions: list[set[int]]) -> None:
    sketches = [sketch(str(number), keys.TRAIN, sorted(region)) for number, region in enumerate(regions)]
    expected = [
        (str(a), str(b), len(regions[a] & regions[b]) / len(regions[b]))
        for a, b in combinations(range(len(regions)), 2)
        if len(regions[a] & regions[b]) >= 3
    ]
    assert [(first.slide, second.slide, seen.fraction) for first, second, seen in find_shared(sketches)] == expected


def test_two_equal_cells_may_be_chance() -> None:
    assert not find_shared([sketch("a", keys.TRAIN, range(1, 9)), sketch("b", keys.TRAIN, range(7, 20))])
    many = range(1, 10_001)
    assert not find_shared([sketch("a", keys.TRAIN, many), sketch("b", keys.TRAIN, range(9_998, 20_000))])


def test_warnings_say_what_the_cells_are_used_for() -> None:
    cells = range(1, 101)
    (within,) = duplicate_notes([sketch("a", keys.TRAIN, cells), sketch("a", keys.VALIDATION, range(91, 111))])
    assert within == (
        "slide a: 50.0% of the validation cells of a are also train cells of a (with the same counts); the validation loss does "
        "not show how well the model predicts new cells"
    )
    places = range(1, 51)
    (between,) = duplicate_notes([sketch("a", keys.TRAIN, NONE, places), sketch("b", keys.TRAIN, NONE, places)])
    assert between == (
        "slides a and b: 100.0% of the train cells of b are also train cells of a (at the same places, with other counts or "
        "genes); they count twice"
    )
    assert not duplicate_notes([sketch("a", keys.VALIDATION, cells), sketch("b", keys.VALIDATION, cells)])
