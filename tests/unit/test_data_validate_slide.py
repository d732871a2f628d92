"""Prepared slides whose numbers another program spoilt: refused with file and cell, wherever the counts are read."""

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
def spoilt(prepared_synthetic: Path, tmp_path: Path) -> Path:
    """A prepared slide of one's own."""
    return Path(shutil.copy(prepared_synthetic, tmp_path / "spoilt.h5ad"))


def write(path: Path, slot: str, place: object, value: float) -> str:
    """Overwrite one number; gives the name of cell `ROW`."""
    with h5py.File(path, "r+") as file:
        file[slot][place] = value
        return str(file["obs/_index"].asstr()[ROW])


@pytest.mark.parametrize(
    ("slot", "column", "value", "says"),
    [
        (f"obsm/{keys.SPATIAL}", (1,), np.nan, "nan) um"),
        (f"obsm/{keys.SPATIAL}", (0,), np.inf, "has the coordinates (inf, "),
        (f"obs/{keys.TOTAL_COUNTS}", (), np.nan, "has nan counts"),
        (f"obs/{keys.TOTAL_COUNTS}", (), -3, "has -3 counts"),
    ],
)
def test_a_cell_without_place_or_sum_is_named(spoilt: Path, slot: str, column: tuple, value: float, says: str) -> None:
    name = write(spoilt, slot, (ROW, *column), value)
    with pytest.raises(CifmError, match=re.escape(f"{spoilt}: cell {name!r} (row {ROW}) ")) as error:
        open_slide(spoilt)
    assert says in error.value.message
    assert "cifm prepare" in error.value.hint


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_a_count_that_is_none_is_found_where_it_is_read(spoilt: Path, value: float) -> None:
    with h5py.File(spoilt) as file:
        start, stop = file["X/indptr"][ROW : ROW + 2]
    name = write(spoilt, "X/data", stop - 1, value)
    assert start < stop
    message = re.escape(f"{spoilt}: cell {name!r} (row {ROW}) has a count of {value:g}")
    with pytest.raises(CifmError, match=message):
        open_slide(spoilt)  # in memory
    slide = open_slide(spoilt, hold=False)
    slide.counts(np.arange(ROW))
    slide.counts(np.arange(ROW + 1, slide.num_cells))
    with pytest.raises(CifmError, match=message):
        slide.counts(np.arange(ROW - 5, ROW + 5))
