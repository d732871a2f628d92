"""Comparison of types with labels, with scores written by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cifm_cli.celltype.base import UNASSIGNED, Annotation
from cifm_cli.celltype.check import check_types
from cifm_cli.errors import CifmError

NAMES = ("T cell", "CD8 T cell", "fibroblast", "beta cell", UNASSIGNED)


def annotation(*labels: str, score: float = 0.75) -> Annotation:
    codes = np.array([NAMES.index(label) for label in labels])
    return Annotation(NAMES, codes, np.full(len(codes), score, dtype=np.float32))


def test_scores_are_those_of_the_hand() -> None:
    labels = np.array(["CD8+ T", "CD8+ T", "T cells", "CAF", "CAF", "", "cluster 9"], dtype=object)
    called = annotation("T cell", "fibroblast", "CD8 T cell", "fibroblast", UNASSIGNED, "beta cell", "beta cell")
    checked = check_types(labels, called, "lung")
    facts = checked.facts
    assert facts["cells"] == 5
    assert facts["labels_without_type"] == ["cluster 9"]
    assert facts["meaning_of_labels"] == {"CAF": "fibroblast", "CD8+ T": "CD8 T cell", "T cells": "T cell"}
    # right lineage: T cell, CD8 T cell, fibroblast of 5
    assert facts["lineage_accuracy"] == pytest.approx(3 / 5)
    assert facts["balanced_lineage_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    # as deep as the label: CD8 T cell for `T cells`, fibroblast for `CAF`
    assert facts["type_accuracy"] == pytest.approx(2 / 5)
    # of the four named cells, `fibroblast` for a T cell is wrong
    assert facts["compatible"] == pytest.approx(3 / 4)
    assert facts["calibration"]["error"] == pytest.approx(0, abs=1e-6)
    assert facts["unassigned"] == pytest.approx(1 / 5)
    assert facts["impossible"] == {"tissue": "lung", "fraction": pytest.approx(2 / 7), "types": {"beta cell": 2}}
    assert checked.labels == ("CAF", "CD8+ T", "T cells")
    assert checked.confusion.sum() == 5


def test_labels_without_a_type_are_an_error() -> None:
    with pytest.raises(CifmError, match="no label names a cell type"):
        check_types(np.array(["cluster 1", ""], dtype=object), annotation("T cell", "T cell"))
