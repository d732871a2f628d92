"""Prepared slides with invalid numbers are refused with file and cell, wherever they are read."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from cifm_cli import keys
from cifm_cli.data.slide import open_slide
from cifm_cli.errors import CifmError

ROW = 17


@pytest.fixture
def damaged(prepared_synthetic: Path, tmp_path: Path) -> Path:
    """A prepared slide that a test may change."""
    return Path(shutil.copy(prepared_synthetic, tmp_path / "damaged.h5ad"))


def write(path: Path, slot: str, place: object, value: float) -> str:
    """Overwrite one number, and return the name of cell `ROW`."""
    with h5py.File(path, "r+") as file:
        file[slot][place] = value
        return str(file["obs/_index"].asstr()[ROW])


@pytest.mark.parametrize(
    ("slot", "column", "value", "message"),
    [
        (f"obsm/{keys.SPATIAL}", (1,), np.nan, "nan) um"),
        (f"obsm/{keys.SPATIAL}", (0,), np.inf, "has the coordinates (inf, "),
        (f"obs/{keys.TOTAL_COUNTS}", (), np.nan, "has nan counts"),
        (f"obs/{keys.TOTAL_COUNTS}", (), -3, "has -3 counts"),
    ],
)
def test_cell_with_invalid_coordinates_or_total_is_named(
    damaged: Path, slot: str, column: tuple, value: float, message: str
) -> None:
    name = write(damaged, slot, (ROW, *column), value)
    with pytest.raises(CifmError, match=re.escape(f"{damaged}: cell {name!r} (row {ROW}) ")) as error:
        open_slide(damaged)
    assert message in error.value.message
    assert "cifm prepare" in error.value.hint


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_invalid_count_is_refused_when_it_is_read(damaged: Path, value: float) -> None:
    with h5py.File(damaged) as file:
        start, stop = file["X/indptr"][ROW : ROW + 2]
    name = write(damaged, "X/data", stop - 1, value)
    assert start < stop
    message = re.escape(f"{damaged}: cell {name!r} (row {ROW}) has a count of {value:g}")
    with pytest.raises(CifmError, match=message):
        open_slide(damaged)  # in memory
    slide = open_slide(damaged, hold=False)
    slide.counts(np.arange(ROW))
    slide.counts(np.arange(ROW + 1, slide.num_cells))
    with pytest.raises(CifmError, match=message):
        slide.counts(np.arange(ROW - 5, ROW + 5))


def replace(file: h5py.File, slot: str, values: np.ndarray) -> None:
    """Replace an array of a file."""
    del file[slot]
    file[slot] = values


STRUCTURES = {
    "more columns than genes": (
        lambda file: replace(file, "X/indices", file["X/indices"][:] + 500),
        "X/indices must be",
    ),
    "negative columns": (lambda file: replace(file, "X/indices", file["X/indices"][:] - 500), "X/indices must be"),
    "fewer columns than counts": (lambda file: replace(file, "X/indices", file["X/indices"][:-3]), "the same length"),
    "columns as fractions": (lambda file: replace(file, "X/indices", file["X/indices"][:] * 1.0), "whole numbers"),
    "columns in two axes": (lambda file: replace(file, "X/indices", file["X/indices"][:][:, None]), "one axis"),
    "counts as text": (lambda file: replace(file, "X/data", np.full(len(file["X/data"]), b"1")), "must be numbers"),
    "row pointers beyond the end": (lambda file: replace(file, "X/indptr", file["X/indptr"][:] * 2), "must ascend"),
    "row pointers backwards": (lambda file: replace(file, "X/indptr", file["X/indptr"][:][::-1]), "must ascend"),
    "fewer rows than cells": (lambda file: replace(file, "X/indptr", file["X/indptr"][[0, -1]]), "a row for each cell"),
    "no rows": (lambda file: replace(file, "X/indptr", file["X/indptr"][:1]), "a row for each cell"),
    "another shape": (lambda file: file["X"].attrs.modify("shape", [3, 3]), "rows and"),
    "stored by columns": (lambda file: file["X"].attrs.modify("encoding-type", "csc_matrix"), "stored as csc_matrix"),
    "one coordinate": (lambda file: replace(file, "obsm/spatial", file["obsm/spatial"][:, :1]), "two numbers per cell"),
    "three coordinates": (lambda file: replace(file, "obsm/spatial", np.zeros((800, 3))), "two numbers per cell"),
    "coordinates of other cells": (
        lambda file: replace(file, "obsm/spatial", np.zeros((5, 2))),
        "two numbers per cell",
    ),
    "totals with missing values": (
        lambda file: (file.__delitem__("obs/total_counts"), file.create_group("obs/total_counts")),
        "obs/total_counts must be an array",
    ),
    "short totals": (lambda file: replace(file, "obs/total_counts", np.ones(5)), "one number per cell"),
}


@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize(("change", "message"), STRUCTURES.values(), ids=STRUCTURES)
def test_arrays_that_do_not_fit_together_are_refused(damaged: Path, change: object, message: str, hold: bool) -> None:
    with h5py.File(damaged, "r+") as file:
        change(file)
    with pytest.raises(CifmError, match=re.escape(message)) as error:
        open_slide(damaged, hold=hold).counts(np.arange(100))
    assert str(damaged) in error.value.message
