"""A matrix of counts and a table of cells, in the formats that MERFISH, CosMx, STARmap and others export."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.readers import count_table
from cifm_cli.data.readers.base import Download
from cifm_cli.data.readers.count_table import read_count_table
from cifm_cli.data.readers.counts import in_memory
from cifm_cli.data.readers.table import TABLE
from cifm_cli.errors import CifmError

GENES = ["CD4", "CD8A", "Blank-1"]
COUNTS = np.array([[1, 0, 0], [0, 2, 1], [3, 4, 0], [0, 0, 5]])
NAMES = ["110", "111", "203", "204"]
XY_UM = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
FOV, CELL = ["1", "1", "2", "2"], ["10", "11", "3", "4"]

Read = Callable[..., Download]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Write the two tables as given and read them."""

    def run(matrix: pd.DataFrame | Path, cells: pd.DataFrame, **options: object) -> Download:
        if isinstance(matrix, pd.DataFrame):
            matrix.to_csv(tmp_path / "counts.csv", index=False)
            matrix = tmp_path / "counts.csv"
        cells.to_csv(tmp_path / "cells.csv", index=False)
        return TABLE.read(matrix, PrepareConfig(cells=tmp_path / "cells.csv", **options))

    return run


def by_cell(**labels: list[str]) -> pd.DataFrame:
    return pd.concat([pd.DataFrame(labels), pd.DataFrame(COUNTS, columns=GENES)], axis=1)


def centres(x: str = "center_x", y: str = "center_y", scale: float = 1.0, **columns: list[str]) -> pd.DataFrame:
    table = pd.DataFrame({**columns, x: XY_UM[:, 0] / scale, y: XY_UM[:, 1] / scale, "volume": [1, 2, 3, 4]})
    return table.iloc[[3, 0, 2, 1]]  # not in the order of the matrix


def check(download: Download) -> None:
    assert in_memory(download.counts).toarray().tolist() == COUNTS.tolist()
    assert np.allclose(download.xy_um, XY_UM)
    assert download.genes["symbol"].tolist() == GENES
    assert download.obs["volume"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("column", ["X", "EntityID", "Unnamed: 0", "cell"])
def test_merscope(read: Read, column: str) -> None:
    download = read(by_cell(cell=NAMES), centres(**{column: NAMES}))
    check(download)
    assert download.obs.index.tolist() == NAMES
    assert download.units == "center_x, center_y of cells.csv: micrometres"


def test_cosmx_in_pixels_needs_their_size(read: Read) -> None:
    matrix = by_cell(fov=FOV, cell_ID=CELL)
    cells = centres("CenterX_global_px", "CenterY_global_px", 0.12, fov=FOV, cell_ID=CELL)
    with pytest.raises(CifmError, match="CenterX_global_px and CenterY_global_px are pixels") as caught:
        read(matrix, cells)
    assert "--microns-per-pixel" in caught.value.hint
    download = read(matrix, cells, microns_per_pixel=0.12)
    check(download)
    assert download.obs.index.tolist() == ["1_10", "1_11", "2_3", "2_4"]


def test_cosmx_in_millimetres(read: Read) -> None:
    cells = centres("CenterX_global_px", "CenterY_global_px", 0.12, fov=FOV, cell_ID=CELL)
    cells[["x_slide_mm", "y_slide_mm"]] = cells[["CenterX_global_px", "CenterY_global_px"]] * 0.12 / 1000
    download = read(by_cell(fov=FOV, cell_ID=CELL), cells)
    check(download)
    assert "x 1000 um: millimetres" in download.units


def test_cells_without_a_centre_have_no_position(read: Read) -> None:
    cells = centres(fov=FOV, cell_ID=CELL)
    download = read(by_cell(fov=FOV, cell_ID=["10", "11", "3", "0"]), cells)  # CosMx: 0 is outside all cells
    assert np.isnan(download.xy_um).all(axis=1).tolist() == [False, False, False, True]
    assert download.notes == ("1 cells of cells.csv are not in the matrix and were left out",)


def test_genes_as_rows_and_a_row_of_types(read: Read) -> None:
    matrix = pd.DataFrame(COUNTS.T, columns=[f"well05_{n}" for n in NAMES])
    matrix.insert(0, "GENE", GENES)
    cells = centres("X", "Y", NAME=[f"well05_{n}" for n in NAMES]).astype(object)
    types = pd.DataFrame([["TYPE", "numeric", "numeric", "numeric"]], columns=cells.columns)
    check(read(matrix, pd.concat([types, cells])))


def test_tabs_gzip_and_blocks(read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count_table, "_ROWS_AT_ONCE", 3)
    path = tmp_path / "counts.txt.gz"
    path.write_bytes(gzip.compress(by_cell(cell=["007", *NAMES[1:]]).to_csv(index=False, sep="\t").encode()))
    table = read_count_table(path)
    assert table.rows.tolist() == ["007", *NAMES[1:]]
    assert table.columns.tolist() == GENES
    assert table.counts.toarray().tolist() == COUNTS.tolist()
    assert table.transposed().counts.toarray().tolist() == COUNTS.T.tolist()


def test_counts_of_an_anndata_without_coordinates(read: Read, tmp_path: Path) -> None:
    obs, var = pd.DataFrame(index=NAMES), pd.DataFrame(index=GENES)
    ad.AnnData(X=np.log1p(COUNTS), obs=obs, var=var, layers={"counts": COUNTS}).write_h5ad(tmp_path / "counts.h5ad")
    download = read(tmp_path / "counts.h5ad", centres(name=NAMES))
    check(download)
    assert download.notes == ("X holds no raw counts; took layers/counts",)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (centres(name=["a", "b", "c", "d"]), "no column holds the names of the cells of the matrix"),
        (centres("left", "top", name=NAMES), "no columns of cell centres"),
        (centres(name=["110", "111", "110", "204"]), "'110' occurs twice"),
        (centres(name=NAMES).assign(center_x="west"), "column center_x holds text, such as .west."),
    ],
)
def test_cells_that_do_not_match_are_refused(read: Read, cells: pd.DataFrame, words: str) -> None:
    with pytest.raises(CifmError, match=words):
        read(by_cell(cell=NAMES), cells)


def test_text_among_the_counts_is_refused(read: Read) -> None:
    with pytest.raises(CifmError, match=r"column CD4 holds text, such as .many."):
        read(by_cell(cell=NAMES).assign(CD4="many"), centres(name=NAMES))


def test_missing_matrix_is_refused(read: Read, tmp_path: Path) -> None:
    with pytest.raises(CifmError, match="no such file"):
        read(tmp_path / "absent.csv", centres(name=NAMES))
