"""Checks of the content of a slide before it is evaluated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from cifm_cli import keys
from cifm_cli.data.counts_source import MemoryCounts
from cifm_cli.data.slide import Slide, open_slide, slide_from_arrays
from cifm_cli.evaluation import content
from cifm_cli.evaluation.content import has_same_place, is_repeated, neighbour_similarity, read_content
from cifm_cli.evaluation.content_checks import check_slide


def warnings(slide: Slide) -> list[str]:
    found, _ = check_slide(slide, slide.region(keys.TEST), seed=0)
    return found.warnings


def with_values(slide: Slide, change: object) -> Slide:
    """The slide with other values; total counts are unchanged."""
    matrix = slide.source.matrix.copy()
    matrix.data = np.asarray(change(matrix.data), dtype=np.float32)
    return replace(slide, source=MemoryCounts(matrix))


def test_a_slide_of_raw_counts_gives_no_warning(slide: Slide) -> None:
    assert warnings(slide) == []


def test_logarithms_give_a_warning(slide: Slide) -> None:
    (warning,) = warnings(with_values(slide, lambda values: np.log1p(values / 2)))
    assert warning.startswith("slide tissue: 784 cells have values that are not whole numbers")


def test_scaled_values_give_warnings(slide: Slide) -> None:
    scaled, above = warnings(with_values(slide, lambda values: values * 10))
    assert "counts is 1: they look scaled or rounded" in scaled
    assert "the values of 784 cells sum to more than their total_counts" in above


def test_cells_of_one_depth_give_a_warning(slide: Slide) -> None:
    counts = slide.counts(np.arange(slide.num_cells)).toarray()
    normalised = np.round(counts / counts.sum(axis=1, keepdims=True) * 1_000)
    same = slide_from_arrays(
        "same", slide.xy_um, csr_matrix(normalised), slide.gene_ids, slide.radius_um, split=slide.split
    )
    assert any("of the cells have the same sum of counts" in warning for warning in warnings(same))


def test_a_selection_of_genes_is_no_change(slide: Slide) -> None:
    half = slide.source.matrix[:, ::2]
    selected = replace(
        slide, source=MemoryCounts(half), gene_ids=slide.gene_ids[::2], symbols=slide.symbols[::2]
    )  # total counts are those of all genes
    assert warnings(selected) == []


def test_content_is_read_in_blocks(slide: Slide, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = with_values(slide, lambda values: values + 0.5 * (np.arange(len(values)) % 3 == 0))
    whole = read_content(changed)
    monkeypatch.setattr(content, "BLOCK_CELLS", 91)
    blocks = read_content(changed)
    assert whole.num_fractional > 0
    for name, value in vars(whole).items():
        assert np.array_equal(value, getattr(blocks, name)), name
    assert whole.expressed == pytest.approx(slide.source.matrix.getnnz(axis=0) / slide.num_cells)


@given(st.lists(st.integers(0, 12), max_size=30))
def test_repeated_cells_are_those_whose_checksum_occurs_twice(values: list[int]) -> None:
    expected = [value > 0 and values.count(value) > 1 for value in values]
    assert is_repeated(np.array(values, dtype=np.uint64)).tolist() == expected


def test_cells_at_one_place() -> None:
    #  a . b      c is 0.1 um from d, other cells are 10 um apart
    #  . . .
    #  c d . e
    xy_um = np.array([[0, 20], [20, 20], [0, 0], [0.1, 0], [30, 0], [0, 10], [20, 10], [30, 10], [10, 20]])
    same, limit_um = has_same_place(xy_um, np.arange(len(xy_um)))
    assert np.flatnonzero(same).tolist() == [2, 3]
    assert limit_um == pytest.approx(0.5)
    assert has_same_place(np.repeat(xy_um, 2, axis=0), np.arange(4))[0].all()
    assert not has_same_place(xy_um[:1], np.arange(1))[0].any()


def test_neighbours_are_similar_where_they_are(slide: Slide) -> None:
    num_cells, score = neighbour_similarity(slide, 0)
    assert num_cells == slide.num_cells
    assert score > 8
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(slide.num_cells)
        assert abs(neighbour_similarity(replace(slide, xy_um=slide.xy_um[order]), seed)[1]) < 4
    few = slide.subset(np.arange(4))
    assert neighbour_similarity(few, 0) == (0, 0.0)


def test_cells_at_one_place_do_not_count_as_similar_to_themselves() -> None:
    generator = np.random.default_rng(0)
    counts = csr_matrix(generator.poisson(1.0, (600, 50)).astype(np.float32))
    places = np.repeat(generator.uniform(0, 500, (60, 2)), 10, axis=0)
    unrelated = slide_from_arrays("unrelated", places, counts, tuple(map(str, range(50))), 20.0)
    assert abs(neighbour_similarity(unrelated, 0)[1]) < 4


@pytest.mark.data
@pytest.mark.parametrize("section", ["A1", "D1"])
def test_real_sections_give_no_warning(
    shared_data: Path, section: str, tmp_path: Path, cifm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cifm("prepare", shared_data / "her2_breast_st" / f"{section}.h5ad").code == 0
    prepared = open_slide(tmp_path / "prepared" / f"{section}.h5ad")
    assert warnings(prepared) == []
    generator = np.random.default_rng(0)
    shuffled = replace(prepared, xy_um=generator.permutation(prepared.xy_um))
    (warning,) = warnings(shuffled)
    assert "is not similar to that of their neighbours" in warning
