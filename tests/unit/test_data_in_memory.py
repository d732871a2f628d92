"""Slides from AnnData objects in memory, and AnnData objects from downloads."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from cifm_cli import keys
from cifm_cli.data.in_memory import slide_from_anndata
from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.prepare.pipeline import prepare_download, prepare_to_anndata
from cifm_cli.data.slide import open_slide
from cifm_cli.errors import CifmError

IDS = ["ENSG00000010610", "ENSG00000153563", "ENSG00000177455"]
SYMBOLS = ["CD4", "CD8A", "CD19"]
COUNTS = np.arange(12 * 3).reshape(12, 3) % 5 + (np.arange(12) == 0)[:, None]


def grid_of_cells(names: list[str] | None = None) -> ad.AnnData:
    """Twelve cells on a grid of 4 x 3, 10 um apart, in an order that is not the Hilbert order."""
    adata = ad.AnnData(
        X=csr_matrix(COUNTS.astype(np.float32)),
        obs=pd.DataFrame(index=[f"cell-{number}" for number in range(12)]),
        var=pd.DataFrame(index=pd.Index(names or IDS)),
    )
    adata.obsm[keys.SPATIAL] = np.stack([np.arange(12) % 4, np.arange(12) // 4], axis=1) * 10.0
    return adata


def assert_same(made: ad.AnnData, expected: ad.AnnData) -> None:
    assert made.X.dtype == expected.X.dtype
    assert (made.X != expected.X).nnz == 0
    pd.testing.assert_frame_equal(made.obs, expected.obs)
    pd.testing.assert_frame_equal(made.var, expected.var)
    assert set(made.obsm) == set(expected.obsm)
    np.testing.assert_array_equal(made.obsm[keys.SPATIAL], expected.obsm[keys.SPATIAL])
    assert made.uns == expected.uns


def test_prepare_to_anndata_equals_the_file_that_the_command_writes(xenium_download: Path, tmp_path: Path) -> None:
    config = PrepareConfig(out=tmp_path, condition="tumour")
    in_memory = prepare_to_anndata(xenium_download, config)
    from_file = ad.read_h5ad(prepare_download(xenium_download, config).path)
    for slide in (in_memory, from_file):
        del slide.uns[keys.CIFM][keys.PROVENANCE], slide.uns[keys.CIFM][keys.CONTENT]  # hold the time, and its checksum
    assert_same(in_memory, from_file)


def test_prepare_to_anndata_writes_no_file(xenium_download: Path, tmp_path: Path) -> None:
    prepare_to_anndata(xenium_download, PrepareConfig(out=tmp_path / "prepared"))
    assert list(tmp_path.iterdir()) == []


def test_slide_of_a_prepared_anndata_equals_the_slide_of_its_file(prepared_synthetic: Path) -> None:
    opened = open_slide(prepared_synthetic)
    slide, rows, notes = slide_from_anndata(ad.read_h5ad(prepared_synthetic), name="tissue")
    assert notes == ()
    assert rows.tolist() == list(range(opened.num_cells))
    assert (slide.gene_ids, slide.symbols) == (opened.gene_ids, opened.symbols)
    assert (slide.radius_um, slide.facts) == (opened.radius_um, opened.facts)
    for made, read in (
        (slide.xy_um, opened.xy_um),
        (slide.total_counts, opened.total_counts),
        (slide.split, opened.split),
    ):
        np.testing.assert_array_equal(made, read)
    assert (slide.counts(rows) != opened.counts(rows)).nnz == 0


def test_order_of_the_callers_cells_changes_only_rows(prepared_synthetic: Path) -> None:
    adata = ad.read_h5ad(prepared_synthetic)
    order = np.random.default_rng(0).permutation(adata.n_obs)
    first = slide_from_anndata(adata, name="tissue")
    shuffled = slide_from_anndata(adata[order].copy(), name="tissue")
    np.testing.assert_array_equal(first.slide.xy_um, shuffled.slide.xy_um)
    np.testing.assert_array_equal(order[shuffled.rows], first.rows)
    np.testing.assert_array_equal(shuffled.in_caller_order(shuffled.slide.xy_um), adata.obsm[keys.SPATIAL][order])


@pytest.mark.parametrize("names", [IDS, [f"{gene}.7" for gene in IDS], SYMBOLS])
def test_genes_are_identified_by_id_or_symbol(names: list[str]) -> None:
    slide, rows, _ = slide_from_anndata(grid_of_cells(names), name="grid")
    assert slide.gene_ids == tuple(IDS)
    assert slide.symbols == tuple(SYMBOLS)
    assert slide.radius_um == 25.0
    assert slide.counts(np.argsort(rows)).toarray().tolist() == COUNTS.tolist()
    assert slide.region(keys.TRAIN).tolist() == list(range(12))


def test_counts_are_taken_from_the_layer_that_holds_them() -> None:
    adata = grid_of_cells()
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.log1p(adata.X.toarray() / 3.0)
    slide, rows, notes = slide_from_anndata(adata, name="grid")
    assert slide.counts(np.argsort(rows)).toarray().tolist() == COUNTS.tolist()
    assert notes == ("X holds no raw counts; took layers/counts",)
    with pytest.raises(CifmError, match=r"grid: X: .* is not a count"):
        slide_from_anndata(adata, name="grid", layer="X")


def test_cells_without_counts_are_kept() -> None:
    adata = grid_of_cells()
    adata.X = csr_matrix(COUNTS * (np.arange(12) != 3)[:, None])
    slide, rows, notes = slide_from_anndata(adata, name="grid")
    assert sorted(rows.tolist()) == list(range(12))
    assert slide.total_counts[rows == 3] == 0
    assert notes[0].startswith("1 of 12 cells have no counts")


def test_given_radius_is_used_and_noted(prepared_synthetic: Path) -> None:
    slide, _, notes = slide_from_anndata(ad.read_h5ad(prepared_synthetic), name="tissue", radius_um=40.0)
    assert slide.radius_um == 40.0
    assert notes == ("slide tissue: its radius is 20 um, used with 40 um",)


def test_the_callers_anndata_is_not_changed() -> None:
    adata = grid_of_cells(SYMBOLS)
    before = adata.copy()
    slide_from_anndata(adata, name="grid")
    assert_same(adata, before)


def test_missing_or_infinite_coordinates_are_refused() -> None:
    adata = grid_of_cells()
    adata.obsm[keys.SPATIAL][4, 1] = np.nan
    with pytest.raises(CifmError, match="cell 'cell-4' has no finite coordinates"):
        slide_from_anndata(adata, name="grid")
    del adata.obsm[keys.SPATIAL]
    with pytest.raises(CifmError, match=r"no obsm\['spatial'\]"):
        slide_from_anndata(adata, name="grid")


def test_pixels_of_scanpy_need_a_scale() -> None:
    adata = grid_of_cells()
    adata.uns["spatial"] = {"library": {"scalefactors": {"spot_diameter_fullres": 89.4}}}
    with pytest.raises(CifmError, match="image pixels"):
        slide_from_anndata(adata, name="grid")
    assert slide_from_anndata(adata, name="grid", microns_per_pixel=2.0).slide.xy_um.max() == 60.0
