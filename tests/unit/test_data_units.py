"""Graph radius, conversion to micrometres, and the check of units."""

from __future__ import annotations

import numpy as np
import pytest

from cifm_cli.data.units import check_units, isolation_note, to_micrometres
from cifm_cli.errors import CifmError


def grid(columns: int, rows: int, pitch_um: float) -> np.ndarray:
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    return np.stack([x.ravel(), y.ravel()], axis=1) * pitch_um


def test_units_of_a_square_grid() -> None:
    check = check_units(grid(50, 50, 8.0), platform_um=20.0, given_um=None)
    assert check.spacing_um == 8.0
    # 20 um reach 2.5 pitches: 20 neighbours inside the grid, fewer at its border
    assert 18.5 < check.mean_degree < 20.0
    assert check.radius_from == "platform"
    assert check.few_neighbours_note() is None


def test_units_of_three_cells_by_hand() -> None:
    # o-10-o----30----o   within 20 um: two cells are neighbours, one has none
    check = check_units(np.array([[0.0, 0], [10, 0], [40, 0]]), platform_um=20.0, given_um=None)
    assert check.mean_degree == pytest.approx(2 / 3)
    assert check.spacing_um == 10.0
    assert check.few_neighbours_note() is not None


def test_radius_from_the_spacing_covers_two_rings() -> None:
    check = check_units(grid(30, 30, 100.0), platform_um=None, given_um=None)
    assert check.radius_um == 250.0
    assert 17 < check.mean_degree < 20


@pytest.mark.parametrize(("radius_um", "is_noted"), [(199.0, True), (200.0, False)])
def test_radius_below_the_spacing_isolates_cells(radius_um: float, is_noted: bool) -> None:
    """Spots of the first spatial arrays, 200 um apart: a radius of 199 um connects none of them, 200 um all."""
    note = isolation_note(grid(30, 30, 200.0), radius_um)
    assert (note is not None) == is_noted
    if note:
        assert "within 199 um" in note
        assert "200 um away" in note
        assert note.endswith("--set data.radius_um=500")


def test_isolation_note_needs_most_cells_isolated() -> None:
    # o5o   o   o   o   and   o5o   o5o   o, 50 um between groups: two of five have a neighbour within 20 um, or four
    assert isolation_note(np.array([[0.0, 0], [5, 0], [55, 0], [105, 0], [155, 0]]), 20.0)
    assert isolation_note(np.array([[0.0, 0], [5, 0], [55, 0], [60, 0], [110, 0]]), 20.0) is None


def test_given_radius_takes_precedence() -> None:
    check = check_units(grid(10, 10, 50.0), platform_um=20.0, given_um=60.0)
    assert (check.radius_um, check.radius_from) == (60.0, "given")


@pytest.mark.parametrize(
    ("pitch", "platform_um", "words"),
    [
        (8.0 / 0.2125, 20.0, "pixels"),
        (0.008, 20.0, "millimetres"),
        (8_000.0, 20.0, "nanometres"),
        (8_000.0, None, "nanometres"),
        (0.008, None, "millimetres"),
        (0.0, None, "one place"),
    ],
)
def test_coordinates_that_are_not_micrometres_are_refused(pitch: float, platform_um: float | None, words: str) -> None:
    with pytest.raises(CifmError) as caught:
        check_units(grid(40, 40, pitch), platform_um, None)
    assert words in caught.value.hint
    assert f"{pitch:.4g}" in caught.value.message


def test_invalid_options_and_coordinates_are_refused() -> None:
    with pytest.raises(CifmError, match="not a length"):
        check_units(grid(3, 3, 8.0), 20.0, -1.0)
    with pytest.raises(CifmError, match="not a scale"):
        to_micrometres(grid(3, 3, 8.0), 0.0, "somewhere")
    with pytest.raises(CifmError, match=r"1e.300 um is outside any tissue"):
        check_units(np.array([[0.0, 0.0], [1e300, 0.0]]), 20.0, None)
    with pytest.raises(CifmError, match="too few cells are left"):
        check_units(np.zeros((1, 2)), 20.0, None)


def test_scale_is_applied_and_described() -> None:
    xy_um, words = to_micrometres(np.array([[100.0, 200.0]]), 0.2125, "obsm['spatial']")
    assert xy_um.tolist() == [[21.25, 42.5]]
    assert words == "obsm['spatial'] x 0.2125 um, as asked"
