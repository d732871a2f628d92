"""The order of cells along a Hilbert curve."""

from __future__ import annotations

import numpy as np
import pytest

from cifm_cli.data.prepare.order import hilbert_distance, hilbert_order


def grid(columns: int, rows: int, pitch_um: float) -> np.ndarray:
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    return np.stack([x.ravel(), y.ravel()], axis=1) * pitch_um


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_hilbert_curve_visits_each_point_once_in_unit_steps(bits: int) -> None:
    side = 2**bits
    positions = grid(side, side, 1).astype(np.uint32)
    distance = hilbert_distance(positions[:, 0], positions[:, 1], bits)
    assert sorted(distance) == list(range(side**2))
    path = positions[np.argsort(distance)].astype(int)
    assert (np.abs(np.diff(path, axis=0)).sum(axis=1) == 1).all()


def test_hilbert_curve_of_order_one() -> None:
    #  1 - 2
    #  |   |
    #  0   3
    order = hilbert_order(np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]))
    assert order.tolist() == [3, 2, 1, 0]


def test_hilbert_order_is_stable_for_equal_coordinates() -> None:
    assert hilbert_order(np.zeros((4, 2))).tolist() == [0, 1, 2, 3]
    assert hilbert_order(np.empty((0, 2))).tolist() == []


def test_hilbert_order_needs_fewer_row_ranges_for_a_tile() -> None:
    xy = grid(64, 64, 8.0)
    inside = (xy < 16 * 8.0).all(axis=1)  # a tile of a sixteenth of the slide

    def num_ranges(mask: np.ndarray) -> int:
        return int((np.diff(np.concatenate([[0], mask.astype(int)])) == 1).sum())

    assert num_ranges(inside) == 16
    assert num_ranges(inside[hilbert_order(xy)]) <= 2
