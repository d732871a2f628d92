"""Names as deep as the probability reaches, and their calibration."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cifm_cli.celltype.base import UNASSIGNED
from cifm_cli.celltype.naming import calibrate, naming_tree

TYPES = ("CD4 T cell", "CD8 T cell", "T cell", "B cell", "fibroblast", "own type")
TREE = naming_tree(TYPES)


def name(**probabilities: float) -> str:
    row = np.array([[probabilities.get(kind.split()[0], 0.0) for kind in TYPES]])
    return str(TREE.name(row, 0.5).labels[0])


def test_cells_are_named_as_deeply_as_the_probability_reaches() -> None:
    assert TREE.names == (
        "immune cell",
        "lymphoid cell",
        "T cell",
        "CD4 T cell",
        "CD8 T cell",
        "B cell",
        "stromal cell",
        "fibroblast",
        "own type",
        UNASSIGNED,
    )
    assert name(CD4=0.8, CD8=0.2) == "CD4 T cell"
    assert name(CD4=0.45, CD8=0.35, B=0.2) == "T cell"
    assert name(CD4=0.3, B=0.4, fibroblast=0.3) == "lymphoid cell"
    assert name(B=0.4, fibroblast=0.3, own=0.3) == UNASSIGNED
    assert name(own=0.9) == "own type"
    assert name() == UNASSIGNED
    # The rest is the probability of no known type.
    assert name(B=0.35) == "B cell"
    assert name(B=0.25) == UNASSIGNED


def rows() -> st.SearchStrategy[np.ndarray]:
    return arrays(np.float64, (4, len(TYPES)), elements=st.floats(0, 1)).map(
        lambda values: values / np.maximum(values.sum(axis=1, keepdims=True), 1.0)
    )


@given(rows())
def test_probabilities_sum_to_one_and_contain_the_score(probabilities: np.ndarray) -> None:
    found = TREE.name(probabilities, 0.5)
    assert found.log_probabilities is not None
    columns = np.exp(found.log_probabilities.astype(np.float64))
    assert np.allclose(columns.sum(axis=1), 1, atol=1e-5)
    is_named = found.codes < len(found.names) - 1
    assert np.allclose(columns[np.arange(4), found.codes][is_named], found.scores[is_named], atol=1e-5)
    assert (found.scores[probabilities.sum(axis=1) == 0] == 0).all()


@given(arrays(np.float64, 5, elements=st.floats(0, 1)))
def test_calibration_keeps_the_order(probabilities: np.ndarray) -> None:
    ordered = np.sort(probabilities)
    calibrated = calibrate(ordered)
    assert (np.diff(calibrated) >= 0).all()
    assert ((calibrated > 0) & (calibrated < 1)).all()
