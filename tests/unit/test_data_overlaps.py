"""Several sections on top of each other: recognised by how cells lie, not by the names of columns."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from builders import jittered_tissue
from hypothesis import given, settings
from hypothesis import strategies as st

from cifm_cli.data.prepare.overlaps import OverlapTest
from cifm_cli.data.prepare.section_columns import BARCODE_SUFFIX, find_sections, is_section_name
from cifm_cli.data.readers.anndata import ANNDATA
from cifm_cli.data.readers.base import ReadConfig

SEEDS = st.integers(0, 1_000)


def two_sections(seed: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Two tissues of 400 um, the second one moved to the right; and the section of each cell."""
    second = jittered_tissue(40, 40, seed + 1) + np.array([shift * 400.0, 0.0])
    return np.concatenate([jittered_tissue(40, 40, seed), second]), np.repeat([0, 1], 1600)


@settings(max_examples=20)
@given(SEEDS, st.floats(0.0, 0.85), st.floats(1e-3, 1e3), st.floats(0.0, 6.0), st.booleans())
def test_overlapping_sections_are_found_at_any_scale_and_angle(
    seed: int, shift: float, scale: float, angle: float, suspected: bool
) -> None:
    xy, codes = two_sections(seed, shift)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    overlap = OverlapTest(xy @ rotation * scale).find(codes, suspected=suspected)
    assert overlap is not None
    assert overlap.keeps_distance
    # Of the cells in the overlap, half of the edges join the sections.
    assert overlap.share == pytest.approx((1 - shift) / (2 - shift), abs=0.05)


@settings(max_examples=30)
@given(SEEDS, st.integers(2, 30), st.booleans(), st.floats(0.0, 1.0))
def test_cell_types_of_one_tissue_are_no_sections(seed: int, num_types: int, suspected: bool, mixing: float) -> None:
    """Types mixed at random, types in patches, and everything between; whatever the column is called."""
    rng = np.random.default_rng(seed)
    xy = jittered_tissue(50, 50, seed)
    patches = (xy[:, 0] // 60).astype(int) * 10 + (xy[:, 1] // 60).astype(int)
    codes = np.where(rng.random(len(xy)) < mixing, rng.integers(0, num_types, len(xy)), patches % num_types)
    codes = pd.factorize(codes)[0].astype(np.int64)
    assert OverlapTest(xy).find(codes, suspected=suspected) is None


@pytest.mark.parametrize("margin", [0.0, 2.0])
def test_stitched_fields_are_one_tissue(margin: float) -> None:
    """Fields of 250 um side by side; with a margin, cells in it are segmented in both fields."""
    whole, fields = jittered_tissue(100, 100, 0), []
    for column in range(4):
        for row in range(4):
            low = np.array([column, row]) * 250.0
            fields.append(whole[((whole >= low - margin) & (whole < low + 250.0)).all(axis=1)])
    codes = np.repeat(np.arange(16), [len(field) for field in fields])
    assert OverlapTest(np.concatenate(fields)).find(codes, suspected=True) is None


def test_fields_in_local_coordinates_overlap() -> None:
    xy = jittered_tissue(100, 100, 0)
    codes = pd.factorize((xy[:, 0] // 200).astype(int) * 10 + (xy[:, 1] // 200).astype(int))[0].astype(np.int64)
    overlap = OverlapTest(xy % 200).find(codes, suspected=False)
    assert overlap is not None
    assert overlap.share > 0.9
    assert OverlapTest(xy).find(codes, suspected=True) is None


@pytest.mark.parametrize("shift", [(0.0, 0.0), (37.0, 37.0), (50.0, 50.0), (20.0, 0.0)])
def test_sections_on_one_array_overlap_and_a_single_array_does_not(shift: tuple[float, float]) -> None:
    array = np.stack(np.meshgrid(np.arange(30) * 100.0, np.arange(30) * 100.0), axis=-1).reshape(-1, 2)
    both, codes = np.concatenate([array, array + shift]), np.repeat([0, 1], 900)
    assert OverlapTest(both).find(codes, suspected=True)
    assert OverlapTest(array).find(np.arange(900) % 3, suspected=True) is None


def test_copies_of_a_section_overlap() -> None:
    xy = jittered_tissue(30, 30, 0)
    for noise in (0.0, 0.5):
        moved = xy + np.random.default_rng(0).uniform(-noise, noise, xy.shape)
        assert OverlapTest(np.concatenate([xy, moved])).find(np.repeat([0, 1], 900), suspected=False)


def test_cells_that_keep_no_distance_are_decided_by_the_name() -> None:
    xy = np.random.default_rng(0).uniform(0, 1000, (4000, 2))
    codes = np.repeat([0, 1], 2000)
    assert OverlapTest(xy).find(codes, suspected=False) is None
    assert not OverlapTest(xy).find(codes, suspected=True).keeps_distance


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"library_id": "section"}, ("library_id",)),
        ({"colour": "section"}, ("colour",)),  # whatever its name
        ({"patient": "same", "section": "section"}, ("section",)),
        ({"leiden": "type", "batch": "section", "sample": "section"}, ("sample",)),
        ({"slide": "first_bit", "fov": "second_bit"}, ("slide", "fov")),  # fields are numbered within each slide
        ({"leiden": "type"}, (BARCODE_SUFFIX,)),
    ],
)
def test_column_is_named(columns: dict[str, str], expected: tuple[str, ...]) -> None:
    """Four sections, cell types, barcodes such as `AC-1-2` for the third section."""
    section = np.repeat(np.arange(4), 900)
    xy = np.concatenate([jittered_tissue(30, 30, seed) for seed in range(4)])
    values = {
        "section": pd.Categorical(section.astype(str)),
        "same": np.full(len(xy), "p1"),
        "type": np.random.default_rng(0).integers(0, 8, len(xy)),
        "first_bit": section // 2,
        "second_bit": section % 2,
    }
    obs = pd.DataFrame({name: values[kind] for name, kind in columns.items()})
    obs.index = [f"AC{number}-1-{label}" for number, label in enumerate(section)]
    found = find_sections(xy, obs)
    assert found is not None
    assert found.columns == expected
    assert found.num_groups == 4
    assert find_sections(xy[:900], obs[:900]) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("library_id", True),
        ("sampleID", True),
        ("orig.ident", True),
        ("FOV", True),
        ("leiden", False),
        ("region", False),
    ],
)
def test_names_of_sections(name: str, expected: bool) -> None:
    assert is_section_name(name) == expected


def test_labels_of_real_tissue_are_no_sections(shared_data) -> None:
    cosmx = ANNDATA.read(shared_data / "cosmx_lung" / "cosmx_nsclc_lung5rep3.h5ad", ReadConfig())
    assert find_sections(cosmx.xy_um, cosmx.obs) is None
    local = cosmx.xy_um.copy()
    for rows in cosmx.obs.groupby("fov", observed=True).indices.values():
        local[rows] -= local[rows].min(axis=0)
    assert find_sections(local, cosmx.obs).columns == ("fov",)


def test_real_sections_on_each_other_are_found(shared_data) -> None:
    slides = [
        ANNDATA.read(shared_data / "her2_breast_st" / f"{name}.h5ad", ReadConfig()) for name in ("A1", "A2", "B1")
    ]
    obs = pd.concat([slide.obs for slide in slides])
    found = find_sections(np.concatenate([slide.xy_um for slide in slides]), obs)
    assert found.columns == ("section",)
    assert found.overlap.share > 0.5
    assert all(find_sections(slide.xy_um, slide.obs) is None for slide in slides)
