"""Cells that are dropped, and the reason."""

from __future__ import annotations

import numpy as np

from cifm_cli.data.prepare.filters import reasons_to_drop


def test_cell_is_dropped_for_the_first_reason_that_applies() -> None:
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
        "at another depth": [],
        "outside the crop": [],
        "void (no counts)": [3],
    }
