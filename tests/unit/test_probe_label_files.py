"""Labels from tables: how rows are joined with cells, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from embedded_tissue import make_slide

from cifm_cli import keys
from cifm_cli.embedding.label_files import LabelFile, parse_label_file
from cifm_cli.embedding.labels import label_paths, read_labels
from cifm_cli.errors import CifmError


@pytest.fixture(autouse=True)
def _working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def slides_of(*samples: str):
    """Slides s0, s1, ... of four cells each, called w, x, y and z."""
    slides = [make_slide(f"s{i}", sample=sample, side=2) for i, sample in enumerate(samples)]
    for slide in slides:
        slide.obs.index = list("wxyz")
    return slides


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.csv:type", LabelFile("a.csv", "type")),
        ("C:/a.b/c.TSV.gz:x:y", LabelFile("C:/a.b/c.TSV.gz", "x:y")),
        ("types/{slide}.csv:t", LabelFile("types/{slide}.csv", "t")),
        ("type", None),
        ("a.csv", None),
        ("a.csv:", None),
        ("a.parquet:type", None),
    ],
)
def test_a_table_and_a_column(text: str, expected: LabelFile | None) -> None:
    assert parse_label_file(text) == expected


@pytest.mark.parametrize(
    "table",
    [
        "barcode,type\nz,b\nw,a\nother,c\nx,\n",
        "type;cell_id\nb;z\na;w\nNA;y\n",
        "name\ttype\tx\nz\tb\t1\nw\ta\t2\n",
        "type,Barcode,name\nb,z,w\na,w,x\n",
    ],
)
def test_rows_are_joined_by_barcode(table: str) -> None:
    Path("a.csv").write_text(table)
    assert read_labels(slides_of("p"), "a.csv:type").tolist() == ["a", None, None, "b"]


@pytest.mark.parametrize("column", ["slide", "sample"])
def test_a_column_of_slides_or_samples(column: str) -> None:
    names = {"slide": ("s0", "s1"), "sample": ("p", "q")}[column]
    Path("a.csv").write_text(f"{column},barcode,type\n{names[0]},w,a\n{names[1]},w,b\n{names[1]},z,c\nelsewhere,x,d\n")
    assert read_labels(slides_of("p", "q"), "a.csv:type").tolist() == ["a", None, None, None, "b", None, None, "c"]


def test_a_table_for_each_slide() -> None:
    Path("s0.csv").write_text("barcode,type\nw,a\n")
    Path("s1.csv").write_text("barcode,type\nw,b\n")
    slides = slides_of("p", "q")
    assert read_labels(slides, "{slide}.csv:type").tolist() == ["a", None, None, None, "b", None, None, None]
    assert label_paths("{slide}.csv:type", slides) == [Path("s0.csv"), Path("s1.csv")]


def test_a_column_of_obs_comes_first() -> None:
    (slide,) = slides_of("p")
    slide.obs["a.csv:type"] = list("abab")
    assert read_labels([slide], "a.csv:type").tolist() == list("abab")
    assert label_paths("a.csv:type", [slide]) == []


@pytest.mark.parametrize(
    ("table", "samples", "message"),
    [
        ("barcode,kind\nw,a\n", ("p",), "a.csv: no column 'type', but barcode, kind"),
        ("type\na\n", ("p",), "a.csv: no column of barcodes beside type"),
        ("barcode,type\nw,a\nw,a\n", ("p",), "barcode w occurs twice, in lines 2 and 3"),
        ("barcode,type\nw,a\n", ("p", "q"), "barcode w is that of a cell in several slides"),
        ("sample,barcode,type\np,w,a\n", ("p", "p"), "barcode w is that of a cell in several slides"),
        ("barcode,type\nw-1,a\n", ("p",), "no barcode is that of a cell, such as 'w'; the table has 'w-1'"),
        ("slide,barcode,type\ns7,w,a\n", ("p", "q"), "no barcode is that of a cell"),
        ("barcode,type\nw,a\nx,a\n", ("p",), "label a.csv:type: one class"),
        ("barcode,type\n", ("p",), "no barcode is that of a cell"),
        ("", ("p",), "a.csv"),
        (None, ("p",), "a.csv"),
    ],
)
def test_tables_that_cannot_be_joined(table: str | None, samples: tuple[str, ...], message: str) -> None:
    if table is not None:
        Path("a.csv").write_text(table)
    with pytest.raises(CifmError, match=message):
        read_labels(slides_of(*samples), "a.csv:type")


def test_barcodes_of_one_slide_need_no_column_of_slides() -> None:
    slides = slides_of("p", "q")
    slides[1].obs.index = list("efgh")
    Path("a.csv").write_text("barcode,type\nw,a\ne,b\n")
    assert read_labels(slides, "a.csv:type").tolist() == ["a", None, None, None, "b", None, None, None]
    assert slides[0].facts[keys.SAMPLE] == "p"
