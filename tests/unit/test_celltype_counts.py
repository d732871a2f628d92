"""Counts from log-normalised expression, and cells drawn from profiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_matrix

from cifm_cli.celltype.drawn_cells import draw_cells, is_profile_table, read_profile_table
from cifm_cli.celltype.fitting import TargetSlide
from cifm_cli.celltype.recovered_counts import recover_counts
from cifm_cli.data.slide import log_normalise
from cifm_cli.errors import CifmError


@given(arrays(np.int64, (5, 7), elements=st.integers(0, 40)), st.integers(0, 500))
def test_counts_are_recovered_from_expression(counts: np.ndarray, elsewhere: int) -> None:
    counts[:, 0] = 1  # the smallest value is that of one count
    totals = counts.sum(axis=1) + float(elsewhere)  # counts of genes that are not given
    expression = log_normalise(csr_matrix(counts.astype(np.float32)), totals, 1e4)
    assert np.array_equal(recover_counts(expression).toarray(), counts)


def test_a_mean_gets_the_depth_of_a_typical_cell() -> None:
    mean = csr_matrix(np.log1p(np.array([[3.3, 2.1, 0.77, 0.0], [0.0, 0.0, 0.0, 0.0]])))
    counts = recover_counts(mean, 50.0).toarray()
    assert counts.sum(axis=1) == pytest.approx([50.0, 0.0])
    assert counts[0] / counts[0].sum() == pytest.approx(np.array([3.3, 2.1, 0.77, 0.0]) / 6.17)


def table(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf8")
    return path


def test_cells_drawn_from_a_table_have_its_types_and_the_depth_of_the_slide(tmp_path: Path) -> None:
    profiles = read_profile_table(table(tmp_path / "p.csv", ",left,right\nG1,90,1\nG2,1,90\nG3,9,9\n"))
    assert is_profile_table(tmp_path / "p.csv")
    target = TargetSlide(("g1", "g2"), np.full(10, 60.0))
    cells = draw_cells(profiles, target, 400, 0)
    assert cells.symbols == ("G1", "G2")
    assert sorted(set(cells.labels)) == ["left", "right"]
    counts = cells.counts.toarray()
    assert counts.sum(axis=1).mean() == pytest.approx(60, rel=0.15)
    is_left = cells.labels == "left"
    assert (counts[is_left].argmax(axis=1) == 0).mean() > 0.95
    again = draw_cells(profiles, target, 400, 0)
    assert np.array_equal(again.counts.toarray(), counts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (",left\nG1,1\n", "two types are needed"),
        (",left,right\nG1,1,x\n", "no number"),
        (",left,right\nG1,1,-2\n", "negative or infinite"),
        (",left,right\nG1,1,inf\n", "negative or infinite"),
    ],
)
def test_damaged_tables_are_errors(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CifmError, match=message):
        read_profile_table(table(tmp_path / "p.csv", text))


def test_profiles_without_genes_of_the_slide_are_an_error(tmp_path: Path) -> None:
    profiles = read_profile_table(table(tmp_path / "p.csv", ",left,right\nG1,90,1\n"))
    with pytest.raises(CifmError, match="none of the genes"):
        draw_cells(profiles, TargetSlide(("Z1",), np.ones(3)), 100, 0)
