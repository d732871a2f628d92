"""Spatial blocks and paired bootstrap, on tissues whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from cifm_cli.provenance import numpy_generator
from cifm_cli.statistics.bootstrap import (
    MIN_BLOCKS,
    NUM_DRAWS,
    Bootstrap,
    p_value,
    paired_difference,
    spatial_bootstrap,
)


def two_blocks() -> Bootstrap:
    """Three draws of two blocks: each once, the first twice, the second twice.

    0 0 | 1
    """
    return Bootstrap(10.0, np.array([0, 0, 1]), np.array([[1.0, 1], [2, 0], [0, 2]]))


def test_a_block_comes_with_all_its_cells() -> None:
    assert two_blocks().mean(np.array([1.0, 3, 8])) == pytest.approx([4, 2, 8])


def test_a_ratio_is_of_sums_and_of_nothing_zero() -> None:
    found = two_blocks().ratio(np.array([1.0, 3, 8]), np.array([2.0, 2, 0]))
    assert found == pytest.approx([12 / 4, 8 / 8, 0])


def test_correlations_from_block_sums_are_those_of_the_cells_drawn() -> None:
    generator = numpy_generator(0)
    x, y = generator.normal(3, 1, (2, 5, 40)).astype(np.float32)
    y[0], x[1, :20] = 2.0, 7.0  # a gene constant everywhere, and one constant in the first block
    block = np.repeat([0, 1], 20)
    draws = Bootstrap(10.0, block, np.array([[1.0, 1], [2, 0], [1, 2]]))
    for found, cells in zip(
        draws.correlation(x, y), [np.arange(40), np.arange(20), np.r_[0:20, 20:40, 20:40]], strict=True
    ):
        with np.errstate(invalid="ignore", divide="ignore"):
            by_gene = [np.corrcoef(a[cells], b[cells])[0, 1] for a, b in zip(x, y, strict=True)]
        constant = [np.ptp(a[cells]) == 0 or np.ptp(b[cells]) == 0 for a, b in zip(x, y, strict=True)]
        assert found == pytest.approx(np.where(constant, 0, by_gene).mean(), abs=1e-6)


def test_blocks_are_squares_of_ten_radii() -> None:
    grid = np.stack(np.meshgrid(np.arange(100), np.arange(100)), axis=-1).reshape(-1, 2) * 20.0  # 1,980 um wide
    blocks = spatial_bootstrap(grid, 20.0, seed=0)
    assert (blocks.side_um, blocks.num_blocks, blocks.weights.shape) == (200.0, 100, (NUM_DRAWS, 100))
    assert (np.bincount(blocks.block) == 100).all()
    assert (blocks.weights.sum(axis=1) == 100).all()
    for block in range(100):
        assert np.ptp(grid[blocks.block == block], axis=0).max() < 200.0


def test_a_small_tissue_is_cut_finer() -> None:
    xy_um = numpy_generator(0).uniform(0, 300, (500, 2))
    assert 25 <= spatial_bootstrap(xy_um, 20.0, seed=0).num_blocks <= 49


@pytest.mark.parametrize(("num_cells", "width_um"), [(1, 0.0), (5, 4.0), (6, 60.0)])
def test_too_few_blocks_decide_nothing(num_cells: int, width_um: float) -> None:
    xy_um = np.c_[np.linspace(0, width_um, num_cells), np.zeros(num_cells)]
    blocks = spatial_bootstrap(xy_um, 20.0, seed=0)
    assert blocks.num_blocks < MIN_BLOCKS
    worse = 1 + numpy_generator(0).random(num_cells)
    for sign in (1, -1):
        model, baseline = blocks.mean(sign * (worse + 1)), blocks.mean(sign * worse)
        low, high = paired_difference(model, baseline)
        assert low <= 0 <= high
        assert low < high
        assert p_value(model, baseline) == 1
    values = numpy_generator(1).random((3, num_cells)).astype(np.float32)
    assert np.isfinite(blocks.correlation(values, values)).all()


def test_cells_in_a_row_are_cut_into_pieces_of_it() -> None:
    xy_um = np.c_[np.linspace(0, 1_000, 200), np.zeros(200)]
    blocks = spatial_bootstrap(xy_um, 20.0, seed=0)
    assert 30 <= blocks.num_blocks <= 50
    assert (np.bincount(blocks.block) > 1).all()
    worse = 1 + numpy_generator(0).random(200)
    assert p_value(blocks.mean(worse), blocks.mean(0 * worse)) < 0.01


def test_the_same_seed_draws_the_same() -> None:
    xy_um = numpy_generator(0).uniform(0, 2000, (500, 2))
    first, again, other = (spatial_bootstrap(xy_um, 20.0, seed).weights for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_pairing_removes_what_both_share() -> None:
    shared = numpy_generator(0).normal(0, 5, NUM_DRAWS)
    low, high = paired_difference(shared - 0.1, shared)
    assert (low, high) == pytest.approx((-0.1, -0.1))


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Cells of a block err alike; 95 % intervals of a mean of zero must nearly always hold zero."""
    generator = numpy_generator(1)
    blocks = Bootstrap(
        1.0, np.repeat(np.arange(60), 10), generator.multinomial(60, np.full(60, 1 / 60), 500).astype(float)
    )
    covered = 0
    for _ in range(200):
        values = np.repeat(generator.normal(size=60), 10)
        low, high = paired_difference(blocks.mean(values), np.zeros(500))
        covered += low <= 0 <= high
    assert 0.88 <= covered / 200 <= 0.99
