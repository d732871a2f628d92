"""Pages in a browser, at the widths of a laptop and of a telephone; skipped where no Chromium is found."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pages.browser import WIDTHS, Browser, faults, find_chromium, start_browser

from cifm_cli.report import matrix_plots
from cifm_cli.report.html import Image, Section, Table, write_report

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no Chromium")


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


@pytest.mark.skipif("CIFM_TEST_PAGES" not in os.environ, reason="CIFM_TEST_PAGES names no folder of pages")
def test_pages_of_a_folder(browser: Browser) -> None:
    pages = sorted(Path(os.environ["CIFM_TEST_PAGES"]).rglob("*.html"))
    assert pages
    found = {str(page): [fault for width in WIDTHS for fault in faults(browser, page, width)] for page in pages}
    assert not {page: each for page, each in found.items() if each}
