"""Marker tables, and the search for a type by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from cifm_cli.celltype.markers import MIN_MARKERS, find_type, load_markers, measured_markers, normalise_name
from cifm_cli.errors import CifmError

NAMES = ("T cell", "plasma cell", "macrophage")


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf8")
    return path


def test_the_packaged_table_has_enough_markers_of_every_type() -> None:
    markers = load_markers()
    assert len(markers) >= 25
    assert len({normalise_name(name) for name in markers}) == len(markers)
    assert {name: genes for name, genes in markers.items() if len(genes) < 5} == {}
    assert {"T cell", "macrophage", "luminal epithelial cell", "acinar cell"} <= set(markers)
    assert all(gene == gene.strip() and gene for genes in markers.values() for gene in genes)


@pytest.mark.parametrize("typed", ["T cell", "tcell", "TCELL", "t-cell", "T cells", "t_cells"])
def test_case_space_and_punctuation_are_ignored(typed: str) -> None:
    assert find_type(typed, NAMES, {}) == "T cell"


def test_an_unknown_type_lists_the_known_ones() -> None:
    with pytest.raises(CifmError, match="no cell type 'plasmacel'") as error:
        find_type("plasmacel", NAMES, {})
    assert error.value.hint == "did you mean plasma cell? known here: T cell, plasma cell, macrophage"


def test_a_type_with_too_few_measured_markers_is_an_error() -> None:
    with pytest.raises(CifmError, match="beta cell: the slide measures 1 of its markers") as error:
        find_type("betacell", NAMES, {"beta cell": 1})
    assert "--markers" in error.value.hint


def test_types_with_too_few_measured_markers_are_left_out() -> None:
    measured, left_out = measured_markers({"a": ("G1", "G2", "G3"), "b": ("G1", "G9"), "c": ("G8",)}, ["g1", "G2", "X"])
    assert MIN_MARKERS == 2
    assert measured == {"a": ("G1", "G2")}
    assert left_out == {"b": 1, "c": 0}


def test_a_users_table_replaces_types_of_the_packaged_one(tmp_path: Path) -> None:
    own = write(
        tmp_path / "own.tsv", "symbol\tcell_type\tnote", "G1\tt cells\tx", "G2\tt cells\t", "G1\tt cells\t", "G3\todd\t"
    )
    markers = load_markers(own)
    assert markers["t cells"] == ("G1", "G2")
    assert markers["odd"] == ("G3",)
    assert "T cell" not in markers
    assert "macrophage" in markers


@pytest.mark.parametrize(
    ("content", "message"),
    [("type,gene\nT,CD3E\n", "no columns cell_type and symbol, but type, gene"), ("", "an empty table")],
)
def test_a_table_with_other_columns_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "own.tsv"
    path.write_text(content)
    with pytest.raises(CifmError, match=message):
        load_markers(path)


def test_a_table_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CifmError, match=r"marker table .*own\.tsv: no such file"):
        load_markers(tmp_path / "own.tsv")
    (tmp_path / "own.tsv").write_bytes(b"cell_type\tsymbol\nT\tCD\0\n")
    with pytest.raises(CifmError, match=r"own\.tsv: no text, it holds bytes of zero"):
        load_markers(tmp_path / "own.tsv")


@pytest.mark.parametrize(
    "content",
    [b"\xef\xbb\xbfcell_type;symbol\r\nM\xfcller;RLBP1;\r\n", "cell_type,symbol\nMüller,RLBP1".encode("utf-16")],
)
def test_a_table_in_another_encoding_is_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "own.csv").write_bytes(content)
    assert load_markers(tmp_path / "own.csv")["Müller"] == ("RLBP1",)
