"""What a download says twice: counts of cells, order of genes, names of genes, places of cells."""

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
from cifm_cli.data.prepare.gene_id_checks import gene_id_notes
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
    places = np.stack(np.divmod(np.arange(CELLS), 8), axis=1) * 10.0
    return ad.AnnData(counts, obs=obs, var=var, obsm={"spatial": places})


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


def test_an_intact_download_gets_no_remark(slide: ad.AnnData, bundle: Path, tmp_path: Path) -> None:
    assert remarks(slide, tmp_path) == ([], [])
    assert prepare(bundle) == []


@pytest.mark.parametrize("column", ["transcript_counts", "control_probe_counts"])
def test_a_bundle_whose_cells_declare_other_sums_is_refused_by_name(bundle: Path, column: str) -> None:
    name = change_sum(bundle, slice(7, 10), column)
    with pytest.raises(CifmError, match=f"3 of 800 cells contradict .* cell '{name}' has .* in {column}"):
        prepare(bundle)


def test_sums_that_most_cells_contradict_are_a_warning(bundle: Path) -> None:
    change_sum(bundle, slice(0, 700))
    assert [warning[:45] for warning in prepare(bundle)] == ["transcript_counts is not the sum of the matri"]


def test_two_forms_of_the_cells_that_differ_in_few_are_refused_by_name(bundle: Path) -> None:
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


def test_a_changed_count_of_an_h5ad_is_a_warning_by_name(slide: ad.AnnData, tmp_path: Path) -> None:
    slide.obs.loc["cell-9", "total_counts"] += 2
    assert "1 of 60 cells: cell 'cell-9' has" in remarks(slide, tmp_path)[1][0]


def test_genes_out_of_order_in_few_cells_are_a_warning(slide: ad.AnnData, tmp_path: Path) -> None:
    remarks(slide, tmp_path)
    start = slide.X.indptr[3]
    with h5py.File(tmp_path / "slide.h5ad", "r+") as file:
        for name in ("indices", "data"):
            values = file["X"][name][:]
            values[[start, start + 1]] = values[[start + 1, start]]
            file["X"][name][:] = values
    warnings = prepare(tmp_path / "slide.h5ad")
    assert warnings == ["the genes of 1 cells, such as 'cell-3', are out of order: the file may be damaged there"]


def test_a_gene_that_stands_twice_in_a_cell_is_refused(slide: ad.AnnData, tmp_path: Path) -> None:
    remarks(slide, tmp_path)
    with h5py.File(tmp_path / "slide.h5ad", "r+") as file:
        file["X/indices"][1] = file["X/indices"][0]
    with pytest.raises(CifmError, match="1 entries have the same row and column as another"):
        prepare(tmp_path / "slide.h5ad")


def test_a_cell_far_from_all_others_is_a_warning_by_name(slide: ad.AnnData, tmp_path: Path) -> None:
    slide.obsm["spatial"][11] = [5e4, 20.0]
    assert any("1 cells, such as 'cell-11', lie more than" in text for text in remarks(slide, tmp_path)[1])


def features(change: dict[str, str] | None = None) -> pd.DataFrame:
    table = human_genes().iloc[:40]
    return table.assign(id=table["id"].replace(change or {}))


def test_ids_and_symbols_that_belong_together_say_nothing() -> None:
    assert gene_id_notes(features(), "here") == ()
    renamed = features().assign(symbol=lambda table: table["symbol"].where(table.index != 3, "NAME-OF-NO-GENE"))
    assert gene_id_notes(renamed, "here") == ()
    assert gene_id_notes(features().assign(symbol=""), "here") == ()


def test_an_id_with_the_symbol_of_another_gene_is_noted() -> None:
    one, other, *_ = features()["id"]
    (note,) = gene_id_notes(features({one: other, other: one}), "here")
    assert note.startswith(f"2 genes have the symbol of another gene ({other} is called")


def test_a_mistyped_id_is_noted() -> None:
    one = features()["id"][0]
    notes = gene_id_notes(features({one: one[:-1] + chr(ord(one[-1]) ^ 1)}), "here")
    assert notes[-1].startswith("1 genes have")


def test_an_id_of_no_gene_is_noted_where_the_others_are_known() -> None:
    one = features()["id"][0]
    (note,) = gene_id_notes(features({one: "ENSG00040170421"}).assign(symbol=""), "here")
    assert note.startswith("1 ids are not in the packaged table, such as ENSG00040170421")
    unknown = {gene: f"ENSG0009{number:07d}" for number, gene in enumerate(features()["id"])}
    assert gene_id_notes(features(unknown).assign(symbol=""), "here") == (), "the table is of other genes"


def test_ids_shifted_against_symbols_are_refused() -> None:
    shifted = features().assign(id=lambda table: np.roll(table["id"], 1))
    with pytest.raises(CifmError, match="of 40 genes do not belong together"):
        gene_id_notes(shifted, "here")
