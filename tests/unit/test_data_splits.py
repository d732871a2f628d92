"""The regional split of the paper; strips and blocks are tested in tests/properties."""

from __future__ import annotations

import numpy as np

from cifm_cli import keys
from cifm_cli.data.prepare.splits import regional_split


def test_regional_split_by_hand() -> None:
    # y 10 |  t . . . . . t v . . v      x from 0 to 10: train up to 6
    #      |                             y from 0 to 10: validation from 5
    #    5 |              v
    #  4.9 |              e
    #    0 |  t           e       e
    xy = np.array([[0, 10], [6, 10], [7, 10], [10, 10], [7, 5], [7, 4.9], [0, 0], [7, 0], [10, 0]], dtype=float)
    names = np.array(keys.REGIONS)[regional_split(xy)]
    train, validation, test, _ = keys.REGIONS
    assert names.tolist() == [train, train, validation, validation, validation, test, train, test, test]
