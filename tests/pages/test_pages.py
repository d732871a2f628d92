"""Pages in a browser, at the widths of a laptop and of a telephone; skipped where no Chromium is found."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from pages.browser import (
    SCHEMES,
    WIDTHS,
    Browser,
    cut_tables,
    faults,
    find_chromium,
    print_faults,
    start_browser,
)

from cifm_cli.report import matrix_plots, plots
from cifm_cli.report.html import Image, Section, Table, draw_image, write_report

PROVENANCE = {"cifm": "1", "created": "today"}
pytestmark = [pytest.mark.figures, pytest.mark.skipif(find_chromium() is None, reason="no Chromium")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A running browser."""
    program = find_chromium()
    assert program is not None
    with start_browser(program) as running:
        yield running


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("<div style='width: 2000px'>x</div>", "wider than the window"),
        ("<img alt='map' src='data:image/png;base64,AAAA'>", "image 'map' is not shown"),
        ("<script>undefined_name()</script>", "Uncaught"),
    ],
)
def test_faults_are_found(browser: Browser, tmp_path: Path, body: str, fault: str) -> None:
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><html><body>{body}</body></html>")
    assert fault in "; ".join(faults(browser, page, WIDTHS[0]))


@pytest.mark.parametrize("width", WIDTHS)
def test_wide_tables_and_figures_fit(browser: Browser, tmp_path: Path, width: int) -> None:
    names = [f"a long name of a column, number {i}" for i in range(30)]
    figure = Image(matrix_plots.heat_map(np.eye(30), names, names, "values", label="%"), "values")
    section = Section("Heading", "Text. " * 50, Table(names, [names] * 3), [figure, figure])
    page = tmp_path / "page.html"
    write_report(
        page, "Title", [section], {"cifm": "1", "created": "today", "inputs": "x" * 500}, answer="Answer. " * 30
    )
    assert faults(browser, page, width) == []


def test_tables_of_twelve_columns_are_not_cut_on_a_laptop_or_on_paper(browser: Browser, tmp_path: Path) -> None:
    names = ["predictor", *(f"measure {i} per cell, centred ↑" for i in range(11))]
    scores = [["neighbourhood_average, gated", *["-0.1234"] * 11]] * 3
    columns = ["gene", "cells", "distance", "log2 change", "95 % interval", "shuffled control", "another label there"]
    columns += ["network", "mean shift", "explained by other surroundings", "cells in the band", "support", "remark"]
    effect = ["CXCL10", "endothelial cell", "15-30 µm", "+1.71", "+1.46 to +1.96", "±0.20", "+0.13 (endothelial cell)"]
    effect += ["+0.52", "+1.99", "14%", "1,046", "1,046", "perhaps transcripts of the edited cells"]
    page = tmp_path / "page.html"
    sections = [Section("Scores", "", Table(names, scores)), Section("Effects", "", Table(columns, [effect] * 3))]
    write_report(page, "Title", sections, PROVENANCE, answer="Answer.")
    assert faults(browser, page, WIDTHS[0]) == []
    assert cut_tables(browser) == []
    assert print_faults(browser, page) == []
    faults(browser, page, 800)
    assert "'Scores' is cut" in "".join(cut_tables(browser))


def write_page(path: Path, columns: list[str], rows: list[list[str]], images: Sequence[Image] = ()) -> None:
    write_report(path, "Title", [Section("Heading", "", Table(columns, rows), images)], PROVENANCE, answer="Answer.")


def first_column(browser: Browser) -> str:
    return str(browser.evaluate("[...document.querySelectorAll('tbody th')].map(cell => cell.textContent).join('')"))


def test_tables_are_sorted_by_their_numbers(browser: Browser, tmp_path: Path) -> None:
    rows = [["a", "10 %"], ["b", "-"], ["c", "1,000 %"], ["d", "9.5 [8, 12] %"], ["e", "-3 %"]]
    write_page(tmp_path / "page.html", ["name", "number"], rows)
    assert faults(browser, tmp_path / "page.html", WIDTHS[0]) == []
    assert first_column(browser) == "abcde"
    for order, direction in (("edacb", "ascending"), ("cadeb", "descending"), ("edacb", "ascending")):
        browser.evaluate("document.querySelectorAll('thead button')[1].click()")
        assert first_column(browser) == order
        assert browser.evaluate("document.querySelectorAll('thead th')[1].ariaSort") == direction
    browser.evaluate("document.querySelectorAll('thead button')[0].click()")
    assert first_column(browser) == "abcde"
    assert browser.evaluate("document.querySelectorAll('thead th')[1].ariaSort") is None


def test_figures_follow_the_scheme_of_the_page(browser: Browser, tmp_path: Path) -> None:
    image = draw_image(lambda: plots.bars(["a"], [1.0], [None], "t"), "caption")
    write_page(tmp_path / "page.html", ["name"], [["a"]], [image])
    shown = {}
    for scheme in ("light", "dark"):
        assert faults(browser, tmp_path / "page.html", WIDTHS[0], scheme) == []
        shown[scheme] = browser.evaluate("document.images[0].currentSrc")
    assert shown == {"light": image.data_uri, "dark": image.dark_uri}


def test_wide_figures_are_scrolled_on_a_telephone_and_fit_a_laptop(browser: Browser, tmp_path: Path) -> None:
    names = [f"column {i}" for i in range(12)]
    images = [draw_image(lambda: matrix_plots.heat_map(np.eye(12), names, names, "values"), "caption")]
    write_page(tmp_path / "page.html", ["name"], [["a"]], images)
    frame = "document.querySelector('.drawing')"
    for width, is_scrolled in zip(WIDTHS, (False, True), strict=True):
        assert faults(browser, tmp_path / "page.html", width) == []
        assert browser.evaluate(f"{frame}.scrollWidth > {frame}.clientWidth + 100") == is_scrolled
        assert browser.evaluate("document.images[0].clientWidth >= 570")


def test_wide_tables_are_scrolled_with_the_keyboard_and_printed_whole(browser: Browser, tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", ["name", *(f"column {i}" for i in range(30))], [["a"] * 31] * 3)
    assert faults(browser, tmp_path / "page.html", WIDTHS[1]) == []
    browser.evaluate("document.querySelector('.table').focus()")
    assert browser.evaluate("document.activeElement.className") == "table"
    overflow = "getComputedStyle(document.querySelector('.table')).overflowX"
    assert browser.evaluate(overflow) == "auto"
    browser.call("Emulation.setEmulatedMedia", media="print")
    try:
        assert browser.evaluate(overflow) == "visible"
    finally:
        browser.call("Emulation.setEmulatedMedia", media="")


@pytest.mark.skipif("CIFM_TEST_PAGES" not in os.environ, reason="CIFM_TEST_PAGES names no folder of pages")
def test_pages_of_a_folder(browser: Browser) -> None:
    pages = sorted(Path(os.environ["CIFM_TEST_PAGES"]).rglob("*.html"))
    assert pages
    found = {
        str(page): [fault for width in WIDTHS for scheme in SCHEMES for fault in faults(browser, page, width, scheme)]
        for page in pages
    }
    assert not {page: each for page, each in found.items() if each}
