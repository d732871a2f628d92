"""Pairs of nearby cells and distances to the nearest one, compared with all distances."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cifm_cli.data.pairs import distance_to_nearest, pairs_within


@given(
    num_queries=st.integers(0, 20),
    num_cells=st.integers(0, 200),
    cutoff=st.sampled_from([0.5, 3.0, 100.0]),
    seed=st.integers(0, 1000),
)
def test_pairs_are_those_of_all_distances_in_order(num_queries: int, num_cells: int, cutoff: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    # Whole numbers, so that some distances equal the cutoff.
    query, cells = (generator.integers(0, 12, (number, 2)).astype(float) for number in (num_queries, num_cells))
    squared = ((query[:, None] - cells) ** 2).sum(-1)
    rows, columns = np.nonzero(squared <= cutoff**2)
    indptr, found, distance = pairs_within(query, cells, cutoff)
    assert np.array_equal(np.repeat(np.arange(num_queries), np.diff(indptr)), rows)
    assert np.array_equal(found, columns)
    assert np.array_equal(distance, squared[rows, columns])


@given(
    num_queries=st.integers(0, 20),
    num_cells=st.integers(0, 200),
    cutoff=st.sampled_from([0.5, 3.0, 100.0]),
    seed=st.integers(0, 1000),
)
def test_the_nearest_cell_is_that_of_all_distances(num_queries: int, num_cells: int, cutoff: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    query, cells = (generator.integers(0, 12, (number, 2)).astype(float) for number in (num_queries, num_cells))
    distance = np.sqrt(((query[:, None] - cells) ** 2).sum(-1)).min(axis=1, initial=np.inf)
    expected = np.where(distance <= cutoff, distance, np.inf)
    assert np.array_equal(distance_to_nearest(query, cells, cutoff), expected)
