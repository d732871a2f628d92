"""Counts that a download states twice, order of genes, coordinates of cells."""

from __future__ import annotations

import shutil
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.prepare.gene_symbols import packaged_symbols
from cifm_cli.data.prepare.pipeline import prepare_download
from cifm_cli.errors import CifmError

CELLS, GENES = 60, 15


def human_genes() -> pd.DataFrame:
    table = packaged_symbols()
    return table[table["id"].str.startswith("ENSG0")].drop_duplicates("symbol").iloc[1000:].reset_index(drop=True)


@pytest.fixture
def slide(tmp_path: Path) -> ad.AnnData:
    """Cells on a grid of 10 um, with the column of sums that scanpy writes."""
    table = human_genes().iloc[:GENES]
    counts = csr_matrix(np.random.default_rng(0).poisson(1.0, (CELLS, GENES)).astype(np.float32))
    obs = pd.DataFrame({"total_counts": counts.sum(axis=1).A1}, index=[f"cell-{row}" for row in range(CELLS)])
    var = pd.DataFrame({"symbol": table["symbol"].to_numpy()}, index=table["id"].to_numpy())
    positions = np.stack(np.divmod(np.arange(CELLS), 8), axis=1) * 10.0
    return ad.AnnData(counts, obs=obs, var=var, obsm={"spatial": positions})


def remarks(slide: ad.AnnData, tmp_path: Path) -> tuple[list[str], list[str]]:
    """Notes and warnings that an `.h5ad` gets."""
    slide.write_h5ad(tmp_path / "slide.h5ad")
    report = prepare_download(tmp_path / "slide.h5ad", PrepareConfig(out=tmp_path / "prepared", force=True)).report
    return [note for note in report["notes"] if "symbol of another" in note], report["warnings"]


@pytest.fixture
def bundle(xenium_download: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(xenium_download, tmp_path / "tissue"))


def prepare(bundle: Path) -> list[str]:
    result = prepare_download(bundle, PrepareConfig(out=bundle.parent / "prepared", force=True))
    return list(result.report["warnings"])


def change_sum(bundle: Path, rows: slice, column: str = "transcript_counts") -> str:
    table = pd.read_parquet(bundle / "cells.parquet")
    table.loc[table.index[rows], column] += 1
    table.to_parquet(bundle / "cells.parquet", index=False)
    return str(table["cell_id"].iloc[rows].iloc[0])


def test_intact_download_has_no_warnings(slide: ad.AnnData, bundle: Path, tmp_path: Path) -> None:
    assert remarks(slide, tmp_path) == ([], [])
    assert prepare(bundle) == []


@pytest.mark.parametrize("column", ["transcript_counts", "control_probe_counts"])
def test_bundle_with_wrong_sums_of_few_cells_is_refused(bundle: Path, column: str) -> None:
    name = change_sum(bundle, slice(7, 10), column)
    with pytest.raises(CifmError, match=f"3 of 800 cells contradict .* cell '{name}' has .* in {column}"):
        prepare(bundle)


def test_wrong_sums_of_most_cells_give_a_warning(bundle: Path) -> None:
    change_sum(bundle, slice(0, 700))
    assert [warning[:45] for warning in prepare(bundle)] == ["transcript_counts is not the sum of the matri"]


def test_parquet_and_csv_that_differ_in_few_cells_are_refused(bundle: Path) -> None:
    table = pd.read_parquet(bundle / "cells.parquet")
    table.loc[5, "x_centroid"] += 8.0
    table.to_parquet(bundle / "cells.parquet", index=False)
    with pytest.raises(CifmError, match=f"different coordinates for 1 of 800 cells, such as '{table['cell_id'][5]}'"):
        prepare(bundle)
    table["x_centroid"] += 8.0
    table.to_parquet(bundle / "cells.parquet", index=False)
    assert "different coordinates for 800 of 800 cells" in prepare(bundle)[0]
    (bundle / "cells.csv.gz").write_bytes(b"\x1f\x8b broken")
    assert prepare(bundle)[0].endswith("cells.parquet was not compared with it")


def test_wrong_sum_in_an_h5ad_gives_a_warning(slide: ad.AnnData, tmp_path: Path) -> None:
    slide.obs.loc["cell-9", "total_counts"] += 2
    assert "1 of 60 cells: cell 'cell-9' has" in remarks(slide, tmp_path)[1][0]


def test_genes_out_of_order_in_few_cells_give_a_warning(slide: ad.AnnData, tmp_path: Path) -> None:
    remarks(slide, tmp_path)
    start = slide.X.indptr[3]
    with h5py.File(tmp_path / "slide.h5ad", "r+") as file:
        for name in ("indices", "data"):
            values = file["X"][name][:]
            values[[start, start + 1]] = values[[start + 1, start]]
            file["X"][name][:] = values
    warnings = prepare(tmp_path / "slide.h5ad")
    assert warnings == ["the genes of 1 cells, such as 'cell-3', are out of order: the file may be damaged there"]


def test_gene_that_occurs_twice_in_a_cell_is_refused(slide: ad.AnnData, tmp_path: Path) -> None:
    remarks(slide, tmp_path)
    with h5py.File(tmp_path / "slide.h5ad", "r+") as file:
        file["X/indices"][1] = file["X/indices"][0]
    with pytest.raises(CifmError, match="1 entries have the same row and column as another"):
        prepare(tmp_path / "slide.h5ad")


def test_isolated_cell_gives_a_warning(slide: ad.AnnData, tmp_path: Path) -> None:
    slide.obsm["spatial"][11] = [5e4, 20.0]
    assert any("1 cells, such as 'cell-11', lie more than" in text for text in remarks(slide, tmp_path)[1])
