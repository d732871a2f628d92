"""All formats of real tissue: cells, genes and micrometres compared with what pandas and h5py read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.io import mmread
from scipy.sparse import csc_matrix, csr_matrix
from scipy.spatial import cKDTree

from cifm_cli import keys
from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.prepare.existing import PrepareResult
from cifm_cli.data.prepare.pipeline import prepare_download
from cifm_cli.errors import CifmError

pytestmark = pytest.mark.data

SEURAT, VISIUM_IO = "format_fixtures/seurat_testdata", "format_fixtures/visiumio_extdata"
EXPORTS = "format_fixtures/spatialexperimentio_extdata"
COLUMNS = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]


class Expected(NamedTuple):
    """Expected numbers of an input: cells in and kept, genes, spacing in um, and micrometres per pixel by hand."""

    folder: str
    cells: int
    kept: int
    genes: int
    spacing_um: float
    um_per_pixel: float


# Visium: 100 um / (2 x pixels per array column), from two spots at the ends of one row.
EXPECTED = [
    Expected("visium_mouse_sr3", 2_898, 2_898, 19_465, 100.0, 100 / 21.378398),
    Expected(f"{SEURAT}/visium", 2_695, 2_689, 100, 99.5, 100 / 137.658),
    Expected("visium_hd_like", 190_397, 184_182, 377, 8.0, 0.2125),
]


def read_h5(path: Path) -> tuple[csr_matrix, list[str], list[str]]:
    """Cells by features, barcodes and ids."""
    with h5py.File(path) as file:
        group = file["matrix"]
        shape = tuple(group["shape"][:].astype(int))
        counts = csc_matrix((group["data"][:], group["indices"][:], group["indptr"][:]), shape=shape)
        names = [[value.decode() for value in group[name][:]] for name in ("barcodes", "features/id")]
        return csr_matrix(counts.T), names[0], names[1]


def read_mex(folder: Path) -> tuple[csr_matrix, list[str], list[str]]:
    names = [
        pd.read_csv(folder / name, sep="\t", header=None)[0].tolist() for name in ("barcodes.tsv.gz", "features.tsv.gz")
    ]
    return csr_matrix(mmread(folder / "matrix.mtx.gz").T), names[0], names[1]


def read_locations(folder: Path) -> pd.DataFrame:
    """Positions by barcode, with pandas alone."""
    if (parquet := folder / "tissue_positions.parquet").exists():
        return pd.read_parquet(parquet).set_index("barcode")
    if (headed := folder / "tissue_positions.csv").exists():
        return pd.read_csv(headed, index_col="barcode")
    return pd.read_csv(folder / "tissue_positions_list.csv", names=COLUMNS, index_col="barcode")


@pytest.fixture
def prepare(shared_data: Path, tmp_path: Path) -> Callable[..., tuple[ad.AnnData, PrepareResult]]:
    def run(name: str, **options: object) -> tuple[ad.AnnData, PrepareResult]:
        result = prepare_download(shared_data / name, PrepareConfig(out=tmp_path, **options))
        return ad.read_h5ad(result.path), result

    return run


@pytest.mark.parametrize("expected", EXPECTED, ids=lambda expected: expected.folder)
def test_cells_genes_and_micrometres(shared_data: Path, prepare: Callable[..., tuple], expected: Expected) -> None:
    slide, result = prepare(expected.folder)
    report = result.report
    assert (report["cells"]["in"], report["genes"]["in"]) == (expected.cells, expected.genes)
    assert slide.shape == (expected.kept, expected.genes)
    assert report["units"]["spacing_um"] == pytest.approx(expected.spacing_um, abs=0.05)

    folder = shared_data / expected.folder
    folder = next(iter(folder.glob("binned_outputs/square_008um")), folder)
    mex = folder / "filtered_feature_bc_matrix"
    counts, barcodes, ids = read_mex(mex) if mex.is_dir() else read_h5(mex.with_suffix(".h5"))
    total = np.asarray(counts.sum(axis=1)).ravel()
    rows = slide.obs[keys.DOWNLOAD_ROW].to_numpy()
    assert sorted(rows) == np.flatnonzero(total).tolist()
    assert slide.var_names.tolist() == ids
    assert slide.obs_names.tolist() == [barcodes[row] for row in rows]
    assert (counts[rows] != slide.X).nnz == 0
    positions = read_locations(folder / "spatial").loc[slide.obs_names]
    xy_um = positions[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy() * expected.um_per_pixel
    assert np.allclose(slide.obsm[keys.SPATIAL], xy_um, rtol=1e-5)


@pytest.mark.parametrize("name", ["visium_mouse_sr3", f"{SEURAT}/visium"])
def test_spots_are_100_um_apart_along_and_across_rows(prepare: Callable[..., tuple], name: str) -> None:
    slide, result = prepare(name)
    xy_um = slide.obsm[keys.SPATIAL]
    distance, neighbour = cKDTree(xy_um).query(xy_um, k=7)
    place = slide.obs[["array_row", "array_col"]].to_numpy()
    step = np.abs(place[neighbour] - place[:, None])
    along, across = (step == [0, 2]).all(axis=2), (step == [1, 1]).all(axis=2)
    assert along.sum() > 1000
    assert across.sum() > 1000
    assert distance[along].mean() == pytest.approx(100.0, abs=0.01)
    assert distance[across].mean() == pytest.approx(100.0, abs=0.5)  # rows of the array are 87.0 um apart, not 86.6
    assert any("are mouse" in warning for warning in result.report["warnings"])


@pytest.fixture(scope="module")
def bins(shared_data: Path, build_once: Callable[..., Path]) -> ad.AnnData:
    """The pancreas as bins of 8 um, prepared."""
    folder = build_once("bins", lambda out: prepare_download(shared_data / "visium_hd_like", PrepareConfig(out=out)))
    return ad.read_h5ad(folder / "visium_hd_like.h5ad")


def test_bins_lie_on_the_grid(bins: ad.AnnData) -> None:
    numbers = bins.obs_names.str.extract(r"s_008um_(\d{5})_(\d{5})-1").astype(int).to_numpy()
    grid_um = numbers[:, ::-1] * 8.0 + 4.0
    assert np.abs(bins.obsm[keys.SPATIAL] - grid_um).max() < 1e-6
    assert np.array_equal(bins.obs[["array_row", "array_col"]].to_numpy(), numbers)


def test_one_tissue_on_two_platforms_overlays(prepare: Callable[..., tuple], bins: ad.AnnData) -> None:
    edges = [np.arange(0, 7300, 40.0), np.arange(0, 1900, 40.0)]

    def density(slide: ad.AnnData, shift_um: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
        x, y = (slide.obsm[keys.SPATIAL] + np.array(shift_um)).T
        return np.histogram2d(x, y, edges, weights=slide.obs[keys.TOTAL_COUNTS])[0].ravel()

    cells, _ = prepare("xenium_pancreas")
    assert set(cells.var_names) == set(bins.var_names)
    by_cell = density(cells)
    overlay = np.corrcoef(by_cell, density(bins))[0, 1]
    one_bin = [(8.0, 0.0), (-8.0, 0.0), (0.0, 8.0), (0.0, -8.0)]
    assert overlay > 0.975
    assert max(np.corrcoef(by_cell, density(bins, shift))[0, 1] for shift in one_bin) < overlay - 0.01


@pytest.mark.parametrize("section", ["section1", "section2"])
def test_spots_outside_the_tissue(shared_data: Path, prepare: Callable[..., tuple], section: str) -> None:
    name = f"{VISIUM_IO}/10xVisium/{section}"
    positions = read_locations(shared_data / name / "outs" / "spatial")
    counts, barcodes, ids = read_h5(shared_data / name / "outs" / "raw_feature_bc_matrix.h5")
    if section == "section2":  # its first spot is missing
        assert set(barcodes) - set(positions.index) == {"AAACAACGAATAGTTC-1"}
        with pytest.raises(CifmError, match=r"no position for 1 of the 50 barcodes .*'AAACAACGAATAGTTC-1'"):
            prepare(name)
        return
    with pytest.raises(CifmError, match="too sparse") as caught:  # 22 spots picked from all over the array
        prepare(name)
    assert "--radius-um" in caught.value.hint
    slide, result = prepare(name, radius_um=1000.0)
    inside = positions.loc[barcodes, "in_tissue"].to_numpy() == 1
    full = np.asarray(counts.sum(axis=1)).ravel() > 0
    assert set(slide.obs_names) == {name for name, kept in zip(barcodes, inside & full, strict=True) if kept}
    assert result.report["cells"]["dropped"]["not in tissue"] == 28
    assert slide.n_vars == len(ids) == 49
    xy_um = positions.loc[slide.obs_names, ["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy() * 100 / 137.605
    assert np.allclose(slide.obsm[keys.SPATIAL], xy_um, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        # positions of 16 um bins beside the scale factors of 8 um bins
        (f"{SEURAT}/visium_hd", {}, r"0\.273761 um per pixel .* 0\.136914 um per pixel \(columns of 8 um"),
        (f"{SEURAT}/visium_hd", {"bin_um": 16}, "no position for 2,053 of the 2,695 barcodes"),
        (f"{SEURAT}/visium_hd", {"bin_um": 2}, r"no bins of 2 um \(there are 8 um and 16 um\)"),
        (VISIUM_IO, {"bin_um": 2}, r"no cell is left of 10 \(void \(no counts\): 10\)"),
    ],
)
def test_bins_with_a_defect_are_refused(prepare: Callable[..., tuple], name: str, config: dict, words: str) -> None:
    with pytest.raises(CifmError, match=words):
        prepare(name, **config)


def test_cosmx(shared_data: Path, prepare: Callable[..., tuple]) -> None:
    matrix = f"{EXPORTS}/CosMx_small/lung_p9s1_exprMat_file.csv"
    cells = shared_data / EXPORTS / "CosMx_small" / "lung_p9s1_metadata_file.csv"
    with pytest.raises(CifmError, match="CenterX_global_px and CenterY_global_px are pixels"):
        prepare(matrix, cells=cells)
    slide, result = prepare(matrix, cells=cells, microns_per_pixel=0.18)
    counts = pd.read_csv(shared_data / matrix).set_index(["fov", "cell_ID"])
    kept = counts[counts.sum(axis=1) > 0]
    centres = pd.read_csv(cells).set_index(["fov", "cell_ID"])
    assert sorted(slide.obs_names) == [f"{fov}_{cell}" for fov, cell in kept.index] == ["10_2", "10_5", "10_7"]
    slide = slide[sorted(slide.obs_names)]
    expected = centres.loc[kept.index, ["CenterX_global_px", "CenterY_global_px"]] * 0.18
    assert np.allclose(slide.obsm[keys.SPATIAL], expected)
    symbols = pd.read_csv(shared_data / "gene_tables" / "GENCODEv44_Gene_id2name.csv", names=["id", "symbol"])
    ids = symbols.drop_duplicates("symbol").set_index("symbol")["id"]
    assert slide.var_names.tolist() == ids[kept.columns].tolist()
    assert slide.X.toarray().astype(int).tolist() == kept.to_numpy().tolist()
    assert result.report["genes"]["mapped"]["count"] == 8


@pytest.mark.parametrize(
    ("matrix", "cells", "words"),
    [
        ("MERSCOPE_small/ovarian_p2s2_cell_by_gene", "ovarian_p2s2_cell_metadata", r"no cell is left of 8 \(void"),
        ("STARmapPLUS_small/mockraw_expression_pd", "mock_spatial", "too few cells are left for a graph: 1"),
    ],
)
def test_exports_without_cells_are_refused(
    shared_data: Path, prepare: Callable[..., tuple], matrix: str, cells: str, words: str
) -> None:
    folder = Path(EXPORTS) / matrix
    table = pd.read_csv(shared_data / f"{folder}.csv", index_col=0)
    by_cell = table if "MERSCOPE" in matrix else table.T
    assert (by_cell.sum(axis=1) > 0).sum() == (0 if "MERSCOPE" in matrix else 1)
    with pytest.raises(CifmError, match=words):
        prepare(f"{folder}.csv", cells=shared_data / folder.parent / f"{cells}.csv")


def test_matrix_without_coordinates_is_refused(shared_data: Path, prepare: Callable[..., tuple]) -> None:
    assert (shared_data / SEURAT / "cr3.0").is_dir()
    for name in (f"{SEURAT}/cr3.0", SEURAT, "pbmc_chromium"):
        with pytest.raises(CifmError, match="not a download of a known platform"):
            prepare(name)


def test_mouse_mapped_to_human(shared_data: Path, prepare: Callable[..., tuple], tmp_path: Path) -> None:
    _, _, ids = read_h5(shared_data / SEURAT / "visium" / "filtered_feature_bc_matrix.h5")
    table = tmp_path / "orthologs.csv"
    table.write_text("".join(f"{gene},ENSG{number // 2:011d}\n" for number, gene in enumerate(ids[:40])))
    slide, result = prepare(f"{SEURAT}/visium", orthologs=table)
    counts, _, _ = read_h5(shared_data / SEURAT / "visium" / "filtered_feature_bc_matrix.h5")
    pairs = csr_matrix(counts[:, 0:40:2] + counts[:, 1:40:2])
    assert slide.n_vars == 20
    assert (pairs[slide.obs[keys.DOWNLOAD_ROW]] != slide.X).nnz == 0
    assert result.report["genes"]["summed"]["count"] == 20
    assert result.report["genes"]["dropped"]["no human ortholog"]["count"] == 60
    assert not any("mouse" in warning for warning in result.report["warnings"])
