"""Counts that are none, and cells that do not enter."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from cifm_cli.data.count_checks import bad_count, check_counts
from cifm_cli.data.crop import parse_crop
from cifm_cli.data.prepare.filters import reasons_to_drop
from cifm_cli.errors import CifmError

CELLS = pd.Index(["cell-a", "cell-b", "cell-c"])
GENES = pd.Series(["CD4", "CD8A"])


def check(values: list[list[float]]) -> None:
    check_counts(csr_matrix(np.array(values)), CELLS, GENES, "slide.h5: X", "")


def test_counts_pass_in_any_type_of_number() -> None:
    for kind in (np.int32, np.uint8, np.int64, np.float32, np.float64):
        assert bad_count(np.array([1, 0, 1], dtype=kind)) is None
    assert bad_count(np.array([])) is None


def test_true_is_no_count_nor_is_what_float32_cannot_hold() -> None:
    assert bad_count(np.array([False, True])) == 0
    assert bad_count(np.array([5, 1 << 24, (1 << 24) + 1])) == 2


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([[1, 0], [0, -3], [2, 1]], "-3 in cell 'cell-b', gene 'CD8A' is not a count"),
        ([[1, 0], [0, 3], [np.nan, 1]], "nan in cell 'cell-c', gene 'CD4'"),
        ([[1, np.inf], [0, 3], [2, 1]], "inf in cell 'cell-a', gene 'CD8A'"),
        (
            [[0, 0], [0, 0.5], [2, 1]],
            "0.5 in cell 'cell-b', gene 'CD8A' is not a count; the matrix looks log-normalised",
        ),
        ([[0, 0], [0, 812.5], [2, 1]], "; the matrix looks normalised"),
        ([[-0.5, 0.25], [0, 1], [2, 1]], "; the matrix looks scaled"),
    ],
)
def test_a_value_that_is_no_count_is_refused_with_its_address(values: list[list[float]], words: str) -> None:
    with pytest.raises(CifmError) as caught:
        check(values)
    assert words in caught.value.message
    assert caught.value.message.startswith("slide.h5: X: ")


def test_a_cell_is_dropped_for_the_first_reason_that_holds() -> None:
    #   cell        0        1     2    3    4     5
    #   position    (0,0)    nan   in   in   in    (9,9)
    #   in tissue   yes      yes   no   yes  yes   no
    #   counts      5        0     0    0    7     1        crop (0,0)-(4,4)
    xy = np.array([[0, 0], [np.nan, 1], [1, 1], [2, 2], [4, 4], [9, 9]])
    masks = reasons_to_drop(
        xy, np.array([5.0, 0, 0, 0, 7, 1]), np.array([True, True, False, True, True, False]), (0.0, 0.0, 4.0, 4.0)
    )
    assert {reason: np.flatnonzero(mask).tolist() for reason, mask in masks.items()} == {
        "no position": [1],
        "not in tissue": [2, 5],
        "outside the crop": [],
        "void (no counts)": [3],
    }


def test_crop_is_four_numbers() -> None:
    assert parse_crop("0,-1.5,10,20") == (0.0, -1.5, 10.0, 20.0)
    for text in ("0,0,10", "a,b,c,d", "10,0,0,10", "0,0,0,0", ""):
        with pytest.raises(CifmError, match="not a rectangle"):
            parse_crop(text)
