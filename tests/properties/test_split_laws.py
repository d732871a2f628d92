"""Laws of the split: regions are a gap apart, hold their fractions of the cells, and depend only on the seed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata.io import read_elem, write_elem
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from cifm_cli import keys
from cifm_cli.data.prepare.splits import SplitConfig, random_blocks, small_region_note, strips
from cifm_cli.data.slide import open_slide

TRAIN, VALIDATION, TEST, BUFFER = range(4)
GAP_UM = 30.0


def cells(seed: int, num_cells: int = 1_500) -> np.ndarray:
    """Cells on a rectangle of 2,000 by 1,000 um, on a lattice of 5 um so that many have an equal coordinate."""
    generator = np.random.default_rng(seed)
    return np.round(generator.uniform(0, (2000, 1000), (num_cells, 2)) / 5) * 5


@settings(max_examples=15)
@given(st.integers(0, 100), st.sampled_from(["strips", "blocks"]), st.integers(0, 5))
def test_cells_of_different_regions_are_at_least_a_gap_apart(tissue: int, kind: str, seed: int) -> None:
    xy_um = cells(tissue)
    regions = SplitConfig(kind, GAP_UM, seed).regions(xy_um, radius_um=20.0)
    for first in range(3):
        for second in range(first):
            assert cdist(xy_um[regions == first], xy_um[regions == second]).min() >= GAP_UM


@settings(max_examples=15)
@given(st.integers(0, 100))
def test_strips_span_the_width_and_hold_a_fifth_each(tissue: int) -> None:
    xy_um = cells(tissue)
    regions = strips(xy_um[:, 1], GAP_UM)
    parts = [xy_um[regions == region] for region in (TRAIN, VALIDATION, TEST)]
    assert all(np.ptp(part[:, 0]) > 1_900 for part in parts)
    for lower, upper in itertools.pairwise(parts):
        assert lower[:, 1].max() < upper[:, 1].min()
    for part in parts[1:]:  # a row of the lattice belongs to the upper strip as a whole
        assert 0.2 * len(xy_um) <= len(part) < 0.2 * len(xy_um) + 30


def test_strips_by_hand() -> None:
    # y   0 10 20 30 40 | 50 60 70 80 90    ten cells, a fifth is two; the gap is 15
    #     train           . v  v  . t  t    50 is 10 from 60 and 70 is 10 from 80: both are in the gap
    regions = strips(np.arange(0.0, 100.0, 10.0), 15.0)
    assert regions.tolist() == [TRAIN] * 4 + [BUFFER, VALIDATION, VALIDATION, BUFFER, TEST, TEST]


@settings(max_examples=15)
@given(st.integers(0, 100), st.integers(0, 5))
def test_random_blocks_fill_all_regions_and_keep_all_test_cells(tissue: int, seed: int) -> None:
    xy_um = cells(tissue)
    regions = random_blocks(xy_um, GAP_UM, seed)
    fraction = np.bincount(regions, minlength=4) / len(xy_um)
    assert fraction[TEST] == pytest.approx(0.2, abs=0.03)
    assert fraction[VALIDATION] == pytest.approx(0.14, abs=0.08)  # cells too near a test cell are in the buffer
    assert 0.2 < fraction[TRAIN] < 0.65


def test_random_blocks_depend_on_the_seed() -> None:
    xy_um = cells(0)
    first, again, other = (random_blocks(xy_um, GAP_UM, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_default_gap_is_six_radii() -> None:
    xy_um = cells(0)
    assert np.array_equal(SplitConfig("strips").regions(xy_um, 10.0), strips(xy_um[:, 1], 60.0))
    assert "60 um apart" in SplitConfig("strips").describe(10.0)


@pytest.mark.parametrize("kind", ["strips", "blocks"])
def test_tissue_too_small_to_split_gives_a_warning(kind: str) -> None:
    regions = SplitConfig(kind, 500.0).regions(np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]), 20.0)
    note = small_region_note(pd.Series(pd.Categorical.from_codes(regions, categories=keys.REGIONS)))
    assert note is not None
    assert "validation" in note
    assert keys.BUFFER not in note


@pytest.mark.parametrize(("num_test", "is_small"), [(7, True), (40, False)])
def test_a_region_with_hardly_any_cells_gives_a_warning(num_test: int, is_small: bool) -> None:
    regions = np.repeat([TRAIN, VALIDATION, TEST], [200, 60, num_test])
    note = small_region_note(pd.Series(pd.Categorical.from_codes(regions, categories=keys.REGIONS)))
    assert (note is not None) == is_small
    if note:
        assert note.startswith("only 7 cells in the region test: too few")


@pytest.mark.parametrize("kind", ["strips", "blocks"])
def test_prepare_stores_and_reports_the_split(cifm: Callable, xenium_download: Path, tmp_path: Path, kind: str) -> None:
    words = ("prepare", xenium_download, "--out", tmp_path, "--split", kind, "--split-gap-um", "15", "--seed", "4")
    assert cifm(*words).code == 0
    slide = open_slide(tmp_path / "tissue.h5ad")
    assert np.array_equal(slide.split, SplitConfig(kind, 15.0, 4).regions(slide.xy_um, slide.radius_um))
    assert 0 < len(slide.region(keys.BUFFER)) < slide.num_cells / 2
    assert "buffer" in cifm("inspect", tmp_path).out
    assert "regions 15 µm apart" in (tmp_path / "tissue.html").read_text(encoding="utf8")
    assert "up to date" in cifm(*words).err
    assert "with other options" in cifm(*words[:-1], "5").err


def test_slide_written_before_there_was_a_buffer_opens(
    cifm: Callable, prepared_synthetic: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old.h5ad"
    old.write_bytes(prepared_synthetic.read_bytes())
    with h5py.File(old, "r+") as file:
        column = read_elem(file["obs/split"])
        del file["obs/split"]
        write_elem(file["obs"], "split", column.remove_unused_categories())
    assert np.array_equal(open_slide(old).split, open_slide(prepared_synthetic).split)
    assert cifm("inspect", tmp_path).code == 0
