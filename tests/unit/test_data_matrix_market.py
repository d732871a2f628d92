"""Matrix Market files as 10x, R and SciPy write them, and damaged ones."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from scipy.io import mmwrite
from scipy.sparse import random

from cifm_cli.data.readers.matrix_market import read_matrix_market

HEADER = "%%MatrixMarket matrix coordinate integer general\n"


def read(text: str) -> list[list[float]]:
    rows: list[list[float]] = read_matrix_market(BytesIO(text.encode())).toarray().tolist()
    return rows


@pytest.mark.parametrize("between", ["", "%metadata_json: {}\n%\n", "\n% text\n"])
def test_counts_are_transposed(between: str) -> None:
    assert read(f"{HEADER}{between}3 2 3\n1 1 5\n3 1 7\n2\t2  9\n") == [[5, 0, 7], [0, 9, 0]]


def test_matrix_without_entries() -> None:
    assert read("%%MatrixMarket matrix coordinate pattern symmetric\n2 2 0\n") == [[0, 0], [0, 0]]


def test_matrix_written_by_scipy() -> None:
    matrix, file = random(9, 7, 0.4, random_state=0).multiply(1e6).floor().tocoo(), BytesIO()
    mmwrite(file, matrix)
    file.seek(0)
    assert np.array_equal(read_matrix_market(file).toarray(), matrix.T.toarray())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "does not begin with"),
        ("{}", "does not begin with"),
        ("%%MatrixMarket matrix array real general\n1 1\n5\n", "does not begin with"),
        ("%%MatrixMarket matrix coordinate pattern general\n1 1 1\n1 1\n", "positions of counts without their values"),
        ("%%MatrixMarket matrix coordinate integer symmetric\n1 1 1\n1 1 1\n", "symmetric"),
        (HEADER, "not enough values"),
        (f"{HEADER}2 2 1\n", "No columns"),
        (f"{HEADER}2 2 2\n1 1 5\n", "1 lines of 3 numbers, 2 are declared"),
        (f"{HEADER}2 2 1\n1 1 5\n2 2 5\n", "2 lines of 3 numbers, 1 are declared"),
        (f"{HEADER}2 2 1\n1 1\n", "1 lines of 2"),
        (f"{HEADER}2 2 1\n0 1 5\n", "negative"),
        (f"{HEADER}2 2 1\n1 3 5\n", "exceeds"),
        (f"{HEADER}2 2 1\n1 1.5 5\n", "int"),
        (f"{HEADER}2 2 2\n1 1 5\n1 1 5\n", "1 entries have the same row and column as another"),
    ],
)
def test_damaged_matrix_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read(text)
