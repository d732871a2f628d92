"""Values that are not raw counts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from cifm_cli.data.count_checks import bad_count, check_counts
from cifm_cli.errors import CifmError

CELLS = pd.Index(["cell-a", "cell-b", "cell-c"])

GENES = pd.Series(["CD4", "CD8A"])


def check(values: list[list[float]]) -> None:
    check_counts(csr_matrix(np.array(values)), CELLS, GENES, "slide.h5: X", "")


def test_counts_of_any_number_type_are_accepted() -> None:
    for kind in (np.int32, np.uint8, np.int64, np.float32, np.float64):
        assert bad_count(np.array([1, 0, 1], dtype=kind)) is None
    assert bad_count(np.array([])) is None


def test_booleans_and_numbers_beyond_float32_are_not_counts() -> None:
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
def test_value_that_is_not_a_count_is_refused_with_cell_and_gene(values: list[list[float]], words: str) -> None:
    with pytest.raises(CifmError) as caught:
        check(values)
    assert words in caught.value.message
    assert caught.value.message.startswith("slide.h5: X: ")
