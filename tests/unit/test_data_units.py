"""Where cells lie: Hilbert order, regional split, unit check."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cifm_cli import keys
from cifm_cli.data.prepare.order import hilbert_distance, hilbert_order
from cifm_cli.data.prepare.splits import regional_split
from cifm_cli.data.slide import radius_notes, slide_from_arrays
from cifm_cli.data.units import check_units, isolation_note, to_micrometres
from cifm_cli.errors import CifmError


def grid(columns: int, rows: int, pitch_um: float) -> np.ndarray:
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    return np.stack([x.ravel(), y.ravel()], axis=1) * pitch_um


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_hilbert_curve_visits_every_place_once_in_unit_steps(bits: int) -> None:
    side = 2**bits
    places = grid(side, side, 1).astype(np.uint32)
    distance = hilbert_distance(places[:, 0], places[:, 1], bits)
    assert sorted(distance) == list(range(side**2))
    path = places[np.argsort(distance)].astype(int)
    assert (np.abs(np.diff(path, axis=0)).sum(axis=1) == 1).all()


def test_hilbert_curve_of_order_one() -> None:
    #  1 - 2
    #  |   |
    #  0   3
    order = hilbert_order(np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]))
    assert order.tolist() == [3, 2, 1, 0]


def test_hilbert_order_keeps_the_order_of_cells_at_one_place() -> None:
    assert hilbert_order(np.zeros((4, 2))).tolist() == [0, 1, 2, 3]
    assert hilbert_order(np.empty((0, 2))).tolist() == []


def test_hilbert_order_beats_row_order_for_tiles() -> None:
    xy = grid(64, 64, 8.0)
    inside = (xy < 16 * 8.0).all(axis=1)  # a tile of a sixteenth of the slide

    def num_ranges(mask: np.ndarray) -> int:
        return int((np.diff(np.concatenate([[0], mask.astype(int)])) == 1).sum())

    assert num_ranges(inside) == 16
    assert num_ranges(inside[hilbert_order(xy)]) <= 2


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


def test_units_of_a_square_grid() -> None:
    check = check_units(grid(50, 50, 8.0), platform_um=20.0, given_um=None)
    assert check.spacing_um == 8.0
    # 20 um reach 2.5 pitches: 20 neighbours inside the grid, fewer at its border
    assert 18.5 < check.mean_degree < 20.0
    assert check.radius_from == "platform"
    assert check.few_neighbours_note() is None


def test_units_of_three_cells_by_hand() -> None:
    # o-10-o----30----o   within 20 um: two cells see each other, one sees none
    check = check_units(np.array([[0.0, 0], [10, 0], [40, 0]]), platform_um=20.0, given_um=None)
    assert check.mean_degree == pytest.approx(2 / 3)
    assert check.spacing_um == 10.0
    assert check.few_neighbours_note() is not None


def test_radius_from_the_spacing_covers_two_rings() -> None:
    check = check_units(grid(30, 30, 100.0), platform_um=None, given_um=None)
    assert check.radius_um == 250.0
    assert 17 < check.mean_degree < 20


@pytest.mark.parametrize(("radius_um", "is_told"), [(199.0, True), (200.0, False)])
def test_a_radius_below_the_spacing_leaves_cells_alone(radius_um: float, is_told: bool) -> None:
    """Spots of the first spatial arrays, 200 um apart: 199 um join none of them, 200 um all."""
    note = isolation_note(grid(30, 30, 200.0), radius_um)
    assert (note is not None) == is_told
    if note:
        assert "within 199 um" in note
        assert "200 um away" in note
        assert note.endswith("--set data.radius_um=500")


def test_most_cells_alone_and_few_of_them() -> None:
    # o5o   o   o   o   and   o5o   o5o   o, 50 um between groups: two of five have a neighbour within 20 um, or four
    assert isolation_note(np.array([[0.0, 0], [5, 0], [55, 0], [105, 0], [155, 0]]), 20.0)
    assert isolation_note(np.array([[0.0, 0], [5, 0], [55, 0], [60, 0], [110, 0]]), 20.0) is None


def test_radius_notes_name_the_difference_and_a_radius_that_is_too_small() -> None:
    xy_um = grid(5, 5, 200.0)
    slide = slide_from_arrays("arrays", xy_um, csr_matrix(np.ones((25, 1), np.float32)), ("ENSG1",), 500.0)
    differs, too_small = radius_notes(slide, 150.0)
    assert differs == "slide arrays: prepared for a radius of 500 um, used with 150 um"
    assert "slide arrays: most cells have no neighbour within 150 um" in too_small
    assert len(radius_notes(slide, 300.0)) == 1
    assert radius_notes(slide, 500.0) == radius_notes(slide, None) == []


def test_with_radius_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    slide = slide_from_arrays("arrays", grid(5, 5, 200.0), csr_matrix(np.ones((25, 1), np.float32)), ("ENSG1",), 500.0)
    assert slide.with_radius(150.0).radius_um == 150.0
    assert slide.with_radius(300.0).with_radius(None).radius_um == 300.0
    assert capsys.readouterr().err == ""


def test_radius_asked_for_wins() -> None:
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
def test_coordinates_that_are_no_micrometres_are_refused(pitch: float, platform_um: float | None, words: str) -> None:
    with pytest.raises(CifmError) as caught:
        check_units(grid(40, 40, pitch), platform_um, None)
    assert words in caught.value.hint
    assert f"{pitch:.4g}" in caught.value.message


def test_nonsense_is_refused() -> None:
    with pytest.raises(CifmError, match="not a length"):
        check_units(grid(3, 3, 8.0), 20.0, -1.0)
    with pytest.raises(CifmError, match="not a scale"):
        to_micrometres(grid(3, 3, 8.0), 0.0, "somewhere")
    with pytest.raises(CifmError, match=r"1e.300 um is outside any tissue"):
        check_units(np.array([[0.0, 0.0], [1e300, 0.0]]), 20.0, None)
    with pytest.raises(CifmError, match="no graph"):
        check_units(np.zeros((1, 2)), 20.0, None)


def test_scale_is_applied_and_told() -> None:
    xy_um, words = to_micrometres(np.array([[100.0, 200.0]]), 0.2125, "obsm['spatial']")
    assert xy_um.tolist() == [[21.25, 42.5]]
    assert words == "obsm['spatial'] x 0.2125 um, as asked"
