"""Maps of a tissue in several states, their animation, and dots with intervals."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image as Picture

from cifm_cli.report import canvas, matrix_plots, palette, plots
from cifm_cli.report.cell_map import CellMap, Mark
from cifm_cli.report.dot_plots import DistancePanel, DistancePoint, Dots, draw_by_distance, draw_rows
from cifm_cli.report.html import Image

pytestmark = pytest.mark.figures

XY_UM = np.random.default_rng(0).uniform(0, [300, 200], (200, 2))
COLOURS = palette.colour_categories(["tumour", "stroma"])
NAMES = np.where(XY_UM[:, 0] > 150, "tumour", "stroma").astype(object)
MARKS = (Mark("injected: a type with quite a long name", XY_UM[:5], "triangle"), Mark("removed", XY_UM[5:9], "cross"))
TISSUE = CellMap(XY_UM, COLOURS, others="other types", unknown="unassigned", marks=MARKS)


def pixels(image: bytes) -> np.ndarray:
    return np.asarray(Picture.open(io.BytesIO(image)).convert("RGB")).astype(int)


def shows(image: np.ndarray, colour: str) -> int:
    """Number of pixels of exactly this colour."""
    return int((image == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=-1).sum())


def test_all_states_share_size_colours_and_frame() -> None:
    before = pixels(TISSUE.draw(NAMES, "before"))
    after = pixels(TISSUE.draw(np.where(NAMES == "stroma", "rare", NAMES), "after", with_marks=True))
    assert before.shape == after.shape
    for colour in COLOURS.values():
        assert shows(before, colour) > 500
    assert shows(after, palette.OTHERS) > 500
    assert shows(after, COLOURS["stroma"]) < 200  # the entry of the legend alone
    # The axis of the map is at the same place, and nothing is cut off at the right edge, where the legend ends.
    lines = [
        np.flatnonzero((image == (0x5C, 0x66, 0x70)).all(axis=-1).sum(axis=1) > 300).tolist()
        for image in (before, after)
    ]
    assert lines[0] == lines[1] != []
    assert (after[:, -3:] == 255).all()


def test_cells_that_are_not_emphasised_are_pale() -> None:
    image = pixels(TISSUE.draw(NAMES, "difference", emphasised=NAMES == "tumour"))
    assert shows(image, COLOURS["tumour"]) > 500
    assert shows(image, COLOURS["stroma"]) < 200


def test_an_animation_has_a_frame_per_state_in_the_colours_of_the_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = NAMES.copy()
    changed[:100] = "tumour"
    panels = {"treated": [NAMES, NAMES, changed], "control": [NAMES] * 3}
    titles = ["step 0", "step 1", "step 2"]
    content = TISSUE.animate(panels, titles, marked="treated")
    assert Image(content, "").suffix == "gif"
    picture = Picture.open(io.BytesIO(content))
    assert picture.n_frames == 3
    found = []
    for frame in range(3):
        picture.seek(frame)
        found.append(shows(np.asarray(picture.convert("RGB")).astype(int), COLOURS["tumour"]))
    assert found[0] == found[1] < found[2] - 100  # cells that have changed are in full colour
    monkeypatch.setattr("cifm_cli.report.cell_map._MAX_BYTES", len(content) - 1)
    assert Picture.open(io.BytesIO(TISSUE.animate(panels, titles, marked="treated"))).n_frames == 2


def test_an_animation_for_a_dark_page_has_its_ground_and_its_colours() -> None:
    changed = np.full_like(NAMES, "tumour")
    with canvas.dark_theme():
        content = TISSUE.animate({"treated": [NAMES, changed]}, ["step 0", "step 1"])
        ground, tumour = canvas.theme().paper, canvas.on_ground(COLOURS["tumour"])
    picture = Picture.open(io.BytesIO(content))
    picture.seek(1)
    frame = np.asarray(picture.convert("RGB")).astype(int)
    assert shows(frame, ground) > 0.3 * frame.shape[0] * frame.shape[1]
    assert (shows(frame, "#ffffff"), shows(frame, tumour) > 200) == (0, True)
    picture = Picture.open(io.BytesIO(TISSUE.animate({"treated": [NAMES, changed]}, ["step 0", "step 1"])))
    assert shows(np.asarray(picture.convert("RGB")).astype(int), "#ffffff") > 0.3 * frame.shape[0] * frame.shape[1]


def test_a_line_of_cells_has_a_map() -> None:
    line = CellMap(np.column_stack([np.arange(5.0), np.zeros(5)]), COLOURS)
    assert min(pixels(line.draw(NAMES[:5], "line")).shape[:2]) > 100


def nearest_colours(colours: Sequence[str], kind: str) -> float:
    """Smallest distance of two colours in CIELAB, after the simulation of colour blindness by Machado and others (2009)."""
    matrix = {
        "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
        "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
        "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
        "none": np.eye(3),
    }[kind]
    rgb = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colours]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(matrix).T, 0, 1)
    xyz = seen @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T
    f = np.cbrt(xyz / [0.9505, 1, 1.089])
    lab = np.column_stack([116 * f[:, 1], 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])])
    distance = np.linalg.norm(lab[:, None] - lab, axis=-1)[np.triu_indices(len(lab), 1)]
    return float(distance.min())


@pytest.mark.parametrize("ground", ["light", "dark"])
@pytest.mark.parametrize("kind", ["protanopia", "deuteranopia", "tritanopia", "none"])
def test_categories_and_clusters_can_be_told_apart(kind: str, ground: str) -> None:
    with canvas.dark_theme() if ground == "dark" else nullcontext():
        shown = [canvas.on_ground(colour) for colour in palette.CLUSTER_COLOURS]
    assert nearest_colours(shown[: len(palette.CATEGORY_COLOURS)], kind) > 15
    assert nearest_colours(shown[:24], kind) > (20 if kind == "none" else 10)
    assert nearest_colours(shown, kind) > (17 if kind == "none" else 3)


def test_twelve_categories_have_colours() -> None:
    assert palette.colour_categories([str(i) for i in range(20)]) == dict(
        zip(map(str, range(12)), palette.CATEGORY_COLOURS, strict=True)
    )


def test_all_colours_have_contrast_with_light_and_with_dark_pages() -> None:
    assert palette.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert palette.contrast("#0000ff", canvas.DARK.paper) < 2.1  # which cannot be seen as a dot
    tones = palette.assign_colours([str(i) for i in range(28)]).values()
    colours = (*palette.CLUSTER_COLOURS, *tones, "#0000ff", "#000000")
    light = {colour: palette.contrast(canvas.on_ground(colour), canvas.LIGHT.paper) for colour in colours[:36]}
    with canvas.dark_theme():
        dark = {colour: palette.contrast(canvas.on_ground(colour), canvas.DARK.paper) for colour in colours}
    # Colours are told apart by their lightness too, so that some of them have to be pale on white.
    assert min(light.values()) >= 1.5, min(light, key=lambda colour: light[colour])
    assert min(dark.values()) >= 3, min(dark, key=lambda colour: dark[colour])


def test_dots_show_intervals_squares_and_missing_values() -> None:
    dots = Dots("mean", [1.0, np.nan], [(0.5, 1.5), None], [[0.9, 1.1], []])
    others = Dots("others", [0.2, 0.3], is_open=True)
    image = pixels(
        draw_rows(["a", "b"], [dots, others], "rows", x_label="x", squares=[["#123456", "#654321"], ["#abcdef"]])
    )
    for colour in ("#123456", "#654321", "#abcdef"):
        assert shows(image, colour) > 20


def test_panels_over_distance_bear_infinite_intervals() -> None:
    points = [
        DistancePoint(0, 20, 1.0, (0.5, 1.5), True, 0.2, 0.1),
        DistancePoint(20, 40, 0.0, (-np.inf, np.inf), False),
    ]
    names = ("called", "not called", "mean shift", "shuffled")
    image = pixels(draw_by_distance([DistancePanel("G", points)] * 5, "effects", y_label="log2", names=names))
    assert shows(image, palette.COLOURS[0]) > 100


def test_text_of_figures_is_large_enough_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = []

    class Recorded(Figure):
        """A figure that is kept after it was drawn."""

        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            figures.append(self)

    monkeypatch.setattr(canvas, "Figure", Recorded)
    types = [f"a cell type of long name {i}" for i in range(20)]
    names = np.array(types, dtype=object)[np.arange(len(XY_UM)) % 20]
    plots.tissue_map(XY_UM * [10, 1], names, "title", unknown=types[0])
    TISSUE.draw(NAMES, "title", with_marks=True)
    matrix_plots.heat_map(np.eye(20), types, types, "title", label="%", colours=palette.colour_categories(types))
    matrix_plots.dots(np.eye(20), np.eye(20), types, types, "title", label="mean")
    plots.histogram(np.arange(9), [0, 3, 6, 9], "title", label="counts")
    plots.curves([0, 1], {"a": [0, 1], "b": [1, 0]}, "title", x_label="step", y_label="%")
    found = [text for figure in figures for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert len(figures) == 6
    small = {text.get_text(): text.get_fontsize() for text in found if text.get_fontsize() < canvas.SMALL_PT}
    assert small == {}


def test_a_long_legend_leaves_room_for_a_wide_map() -> None:
    wide = XY_UM * [10, 1]
    types = [f"a cell type of long name {i}" for i in range(12)]
    names = np.array(types)[np.arange(len(XY_UM)) % 12]
    (height, width, _), few = (
        pixels(plots.tissue_map(wide, names, "title")).shape,
        plots.tissue_map(wide, NAMES, "title"),
    )
    assert width == pixels(few).shape[1]
    assert height > 1.5 * pixels(few).shape[0]
    assert Image(few, "").is_wide  # it stands alone on a page, in full size
