"""Real tissue: prepared slides compared with what pandas and h5py read."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csc_matrix, csr_matrix
from scipy.spatial import cKDTree

from cifm_cli import keys
from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.prepare.pipeline import prepare_download
from cifm_cli.data.slide import open_slide
from cifm_cli.embedding.folds import grouped_folds, least_length_um, section_length_um, strip_groups
from cifm_cli.errors import CifmError

pytestmark = pytest.mark.data

XENIUM = {  # cells in, void, features in, genes kept
    "xenium_pancreas": (98_554, 254, 541, 377),
    "xenium_bone_marrow": (84_518, 5_619, 541, 477),
}


@pytest.mark.parametrize("name", XENIUM)
def test_xenium_slides(shared_data: Path, tmp_path: Path, name: str) -> None:
    num_cells, num_void, num_features, num_genes = XENIUM[name]
    result = prepare_download(shared_data / name, PrepareConfig(out=tmp_path))
    report, slide = result.report, ad.read_h5ad(result.path)
    assert (report["cells"]["in"], report["genes"]["in"]) == (num_cells, num_features)
    assert report["cells"]["dropped"] == {"void (no counts)": num_void}
    assert slide.shape == (num_cells - num_void, num_genes)
    assert slide.uns[keys.CIFM][keys.RADIUS_UM] == 20.0

    with h5py.File(shared_data / name / "cell_feature_matrix.h5") as file:
        group = file["matrix"]
        raw = csc_matrix((group["data"][:], group["indices"][:], group["indptr"][:]), shape=group["shape"][:])
        barcodes, kinds = group["barcodes"].asstr()[:], group["features/feature_type"].asstr()[:]
        ids = group["features/id"].asstr()[:]
    cells = pd.read_csv(shared_data / name / "cells.csv.gz", index_col="cell_id")
    genes = kinds == "Gene Expression"
    assert slide.var_names.tolist() == ids[genes].tolist()
    rows = slide.obs[keys.DOWNLOAD_ROW].to_numpy()
    assert slide.obs_names.tolist() == barcodes[rows].tolist()
    assert (raw[genes].T.tocsr()[rows] != slide.X).nnz == 0
    place = cells.loc[slide.obs_names, ["x_centroid", "y_centroid"]].to_numpy()
    assert np.allclose(slide.obsm[keys.SPATIAL], place, atol=1e-6)
    assert (
        sorted(set(range(num_cells)) - set(rows))
        == np.flatnonzero(np.asarray(raw[genes].sum(axis=0)).ravel() == 0).tolist()
    )

    clusters = pd.read_csv(
        shared_data / name / "analysis/clustering/gene_expression_graphclust/clusters.csv", dtype=str
    )
    expected = clusters.set_index("Barcode")["Cluster"].reindex(slide.obs_names)
    assert (
        slide.obs[keys.CLUSTER].astype(object).where(slide.obs[keys.CLUSTER].notna(), "none").tolist()
        == expected.fillna("none").tolist()
    )
    sample = np.arange(0, slide.n_obs, 97)
    degree = cKDTree(place).query_ball_point(place[sample], 20.0, return_length=True).mean() - 1
    assert report["units"]["mean_degree"] == pytest.approx(degree, rel=0.05)

    opened = open_slide(result.path)
    assert opened.num_cells == slide.n_obs
    assert opened.counts(np.arange(100)).sum() == slide.X[:100].sum()


def test_pancreas_in_pixels_is_refused(shared_data: Path, tmp_path: Path) -> None:
    with pytest.raises(CifmError, match="too sparse for micrometres") as caught:
        prepare_download(shared_data / "xenium_pancreas", PrepareConfig(out=tmp_path, microns_per_pixel=1 / 0.2125))
    assert "pixels" in caught.value.hint


@pytest.mark.parametrize("name", [f"{patient}{section}" for patient in "ABCDE" for section in "12"])
def test_her2_sections(shared_data: Path, tmp_path: Path, name: str) -> None:
    path = shared_data / "her2_breast_st" / f"{name}.h5ad"
    source = ad.read_h5ad(path)
    result = prepare_download(path, PrepareConfig(out=tmp_path))
    slide = ad.read_h5ad(result.path)
    ids = source.var["gene_ids"].astype(str)
    mitochondrial = source.var_names.str.startswith("MT-")
    kept = ids[(ids != "").to_numpy() & ~mitochondrial]
    assert slide.shape == (source.n_obs, kept.nunique())
    rows = slide.obs[keys.DOWNLOAD_ROW].to_numpy()
    column = pd.Index(slide.var_names).get_indexer(kept)
    to_gene = csr_matrix((np.ones(len(kept)), (np.arange(len(kept)), column)))
    assert (source[:, kept.index].X[rows] @ to_gene != slide.X).nnz == 0
    assert slide.obs["label"].astype(str).tolist() == source.obs["label"].astype(str).iloc[rows].tolist()
    assert np.array_equal(slide.obsm[keys.SPATIAL], source.obsm["spatial"][rows])
    units = result.report["units"]
    assert 175 < units["spacing_um"] < 205
    assert 12 < units["mean_degree"] < 20


def test_a_her2_section_of_seven_millimetres_can_be_probed_in_strips(shared_data: Path, tmp_path: Path) -> None:
    """An embedding reaches five radii, here 2.4 mm; section A1 of 4.8 mm is too short for five strips."""
    training = {}
    for name in ("E2", "A1"):
        slide = ad.read_h5ad(
            prepare_download(shared_data / "her2_breast_st" / f"{name}.h5ad", PrepareConfig(out=tmp_path)).path
        )
        xy_um, reach_um = slide.obsm[keys.SPATIAL], 5 * slide.uns[keys.CIFM][keys.RADIUS_UM]
        groups = strip_groups(xy_um, 5, reach_um)
        folds = grouped_folds(np.zeros(len(xy_um), dtype=np.int64), groups, xy_um, 5, 0)
        training[name] = min(len(train) for train, _ in folds)
        assert (section_length_um(xy_um) > least_length_um(5, reach_um)) == (training[name] > 0)
    assert training["E2"] >= 50
    assert training["A1"] == 0


def test_xenium_fixture_written_by_r(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "format_fixtures" / "spatialexperimentio_extdata" / "Xenium_small"
    result = prepare_download(folder, PrepareConfig(out=tmp_path))
    slide = ad.read_h5ad(result.path)
    assert slide.shape == (6, 4)
    assert sorted(slide.obs_names) == ["1", "2", "3", "4", "5", "6"]
    place = pd.read_csv(folder / "cells.csv.gz").set_index("cell_id").loc[slide.obs_names.astype(int)]
    assert np.allclose(slide.obsm[keys.SPATIAL], place[["x_centroid", "y_centroid"]])
    assert result.report["units"]["mean_degree"] == pytest.approx(4 / 3, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("format_fixtures/10x_pbmc68k_reduced.h5ad", r"no obsm\['spatial'\]"),
        ("format_fixtures/moleculeexperiment_xenium/sample1", "a Xenium bundle without cell_feature_matrix.h5"),
        ("pbmc_chromium", "not a download of a known platform"),
    ],
)
def test_file_that_is_not_a_slide_is_refused_for_its_defect(
    shared_data: Path, tmp_path: Path, name: str, words: str
) -> None:
    with pytest.raises(CifmError, match=words):
        prepare_download(shared_data / name, PrepareConfig(out=tmp_path))
