"""Figures and HTML reports: well-formed, self-contained, escaped."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from page_laws import broken_laws
from PIL import Image as Picture

from cifm_cli.report import canvas, matrix_plots, palette, plots
from cifm_cli.report.html import Image, Section, Table, draw_image, write_report

pytestmark = pytest.mark.figures

XY_UM = np.random.default_rng(0).uniform(0, [3_000, 1_000], (500, 2))
PROVENANCE = {"cifm": "0", "created": "today"}


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Picture.open(io.BytesIO(png)).convert("RGB"))


def test_every_plot_is_an_image() -> None:
    figures = [
        plots.tissue_map(XY_UM, XY_UM[:, 0], "numbers", label="x"),
        plots.tissue_map(XY_UM, np.where(XY_UM[:, 0] > 500, "a", "b"), "names"),
        plots.bars(["a", "b"], [0.2, 0.9], [(0.1, 0.3), None], "bars", reference=0.5),
        plots.curves([0, 1, 2], {"a": [1, 2, np.nan], "b": [0, 1, 2]}, "curves", bands={"b": ([0, 0, 1], [1, 2, 3])}),
        matrix_plots.heat_map(np.array([[1.0, -2.0], [np.nan, 0.0]]), ["r", "s"], ["c", "d"], "matrix", centred=True),
        matrix_plots.heat_map(np.zeros((2, 2)), ["r", "s"], ["c", "d"], "nothing", centred=True),
    ]
    for png in figures:
        image = pixels(png)
        assert min(image.shape[:2]) > 100
        assert image.std() > 1, "an empty image"


def test_the_same_data_give_the_same_bytes() -> None:
    first, second = (plots.tissue_map(XY_UM, XY_UM[:, 1], "t") for _ in range(2))
    assert first == second


def test_y_points_down_as_in_the_slide_image() -> None:
    """One orange cell at small y and blue cells at large y: the orange cell is in the upper half."""
    xy_um = np.array([[500.0, 0.0], *([x, 1_000.0] for x in np.linspace(0, 1_000, 50))])
    image = pixels(plots.tissue_map(xy_um, np.array(["b", *["a"] * 50]), "", order=["a", "b"]))
    tissue = image[:, : int(0.8 * image.shape[1])]  # without the legend
    orange = np.argwhere((np.abs(tissue - np.array([0xE6, 0x9F, 0x00])) < 12).all(axis=2))
    assert len(orange)
    assert orange[:, 0].mean() < image.shape[0] / 2


def test_labels_of_a_map_are_inside_of_the_image() -> None:
    # The ticks of the narrow axes are longer than those that a layout of the full width would have.
    xy_um = np.random.default_rng(0).uniform([4_640, 400], [5_840, 1_600], (500, 2))
    image = pixels(plots.tissue_map(xy_um, np.full(500, "1 (16,074 cells)"), "t"))
    inked = np.flatnonzero((image.min(axis=2) < 200).any(axis=0))
    assert min(inked[0], image.shape[1] - 1 - inked[-1]) >= 3


def test_the_legend_of_a_flat_tissue_is_inside_of_the_image() -> None:
    """The figure of a slide that is much wider than high is too low for a column of thirteen names."""
    names = np.array([f"type {number:02d}" for number in range(14)])[np.arange(500) % 14]
    image = pixels(plots.tissue_map(XY_UM * [1, 0.6], names, "t"))
    inked = np.flatnonzero((image[:, int(0.7 * image.shape[1]) :].min(axis=2) < 200).any(axis=1))
    assert min(inked[0], image.shape[0] - 1 - inked[-1]) >= 3


def test_maps_of_one_tissue_have_the_same_size() -> None:
    maps = [plots.tissue_map(XY_UM, np.full(500, name), "t", order=["a", "b"]) for name in ("a", "b")]
    assert pixels(maps[0]).shape == pixels(maps[1]).shape


def test_colours_are_distinct_and_stable() -> None:
    names = [str(i) for i in range(28)]
    colours = palette.assign_colours(names)
    assert len(set(colours.values())) == 28
    assert all(re.fullmatch("#[0-9a-fA-F]{6}", colour) for colour in colours.values())
    assert {name: colours[name] for name in names[:9]} == palette.assign_colours(names[:9])


def test_numbers_are_sorted_by_size_and_before_words() -> None:
    assert palette.sort_names(["10", "b", "2", "a", "2"]) == ["2", "10", "a", "b"]


class Page(HTMLParser):
    """Tags and attributes of an HTML page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.fixture
def page(tmp_path: Path) -> str:
    markup = "<script>alert('x')</script>"
    table = Table([markup, "n"], [["row & co", "1"], [markup, "2"]], best=[(1, 1)])
    png = plots.bars(["a"], [1.0], [None], "t")
    section = Section(
        markup, f"first {markup}\n\nsecond", table, [Image(png, 'a "quoted" caption'), Image(b"GIF89a", "gif")]
    )
    write_report(tmp_path / "r.html", markup, [section], {**PROVENANCE, "inputs": markup}, answer=f"{markup}.")
    return (tmp_path / "r.html").read_text(encoding="utf8")


def test_a_page_loads_no_external_resource(page: str) -> None:
    assert "http://" not in page
    assert "https://" not in page
    tags = Page(page).tags
    assert not {"link", "iframe", "object"} & {tag for tag, _ in tags}
    assert [attributes for tag, attributes in tags if tag == "script"] == [{}], "its own script, and no other"
    sources = [attributes[name] for _, attributes in tags for name in ("src", "href") if name in attributes]
    assert [source.split(",")[0] for source in sources] == ["data:image/png;base64", "data:image/gif;base64"]
    assert "url(" not in page


def test_every_text_is_escaped(page: str) -> None:
    assert page.count("<script") == 1
    assert (
        page.count("&lt;script&gt;") == 10
    )  # title, h1, answer, h2, text, name and caption of table, column, cell, provenance
    assert "row &amp; co" in page
    assert any(attributes.get("alt") == 'a "quoted" caption' for _, attributes in Page(page).tags)


def test_paragraphs_and_the_best_cell(page: str) -> None:
    assert page.count("<p>") == 2
    assert page.count('class="best"') == 1


@pytest.mark.parametrize(
    ("part", "replacement", "law"),
    [
        ("<h1>", "<h1>second</h1><h1>", "2 headings h1"),
        ('<p class="answer">', "<p>", "not the answer"),
        (' alt="gif"', "", "without alternative text"),
        (' scope="col"', "", "without scope"),
        ("<caption", "<b", "without caption"),
        ('tabindex="0"', "", "with the keyboard"),
        ('src="data:image/gif', 'src="https://example.org/gif', "loads https://example.org"),
        ("<footer>", '<footer><a href="#nowhere">x</a>', "which does not exist"),
    ],
)
def test_broken_laws_of_pages_are_found(page: str, part: str, replacement: str, law: str) -> None:
    assert broken_laws(page) == []
    assert part in page
    assert law in "; ".join(broken_laws(page.replace(part, replacement)))


def test_a_figure_is_drawn_for_light_and_for_dark_pages(tmp_path: Path) -> None:
    names = np.where(XY_UM[:, 0] > 500, "a", "b")
    image = draw_image(lambda: plots.tissue_map(XY_UM, names, "names"), "caption")
    assert image.dark is not None
    light, dark = pixels(image.content), pixels(image.dark)
    assert light.shape == dark.shape
    assert light[:3].mean() > 250
    assert dark[:3].mean() < 40
    blue = np.array([0x00, 0x72, 0xB2])
    assert [int((np.abs(each - blue) < 3).all(axis=2).sum()) > 100 for each in (light, dark)] == [True, True]


def test_dark_colours_and_greys_are_changed_on_a_dark_page_only() -> None:
    assert [canvas.on_ground(colour) for colour in (*palette.CATEGORY_COLOURS, palette.OTHERS)] == [
        *palette.CATEGORY_COLOURS,
        palette.OTHERS,
    ]
    with canvas.dark_theme():
        shown = [canvas.on_ground(colour) for colour in (*palette.CATEGORY_COLOURS, palette.OTHERS, palette.UNKNOWN)]
    assert len(set(shown)) == len(shown)
    assert shown[: len(palette.COLOURS)] == list(palette.COLOURS)


def test_pages_write_micrometres_where_terminals_write_um(tmp_path: Path) -> None:
    section = Section("within 20 um", "um", Table(["3 um", "a"], [["4 um", "umbra 5 umx"]]))
    write_report(tmp_path / "r.html", "t", [section], PROVENANCE, answer="6 um.")
    text = (tmp_path / "r.html").read_text(encoding="utf8")
    for number in (20, 3, 4, 6):
        assert f"{number} µm" in text
    assert "umbra 5 umx" in text


def test_remarks_after_the_fifth_are_folded(tmp_path: Path) -> None:
    write_report(tmp_path / "r.html", "t", [], PROVENANCE, answer="a.", remarks=[f"remark {i}" for i in range(7)])
    text = (tmp_path / "r.html").read_text(encoding="utf8")
    assert text.index("remark 4") < text.index("2 more remarks") < text.index("remark 5")
