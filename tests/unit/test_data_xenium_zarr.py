"""Xenium bundles with a panel of five thousand genes, and with the matrix as zarr."""

from __future__ import annotations

import shutil
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from scipy.sparse import csr_matrix

from cifm_cli import keys
from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.prepare.pipeline import prepare_download
from cifm_cli.data.readers.xenium_zarr import read_zarr_matrix
from cifm_cli.errors import CifmError

PREFIXES = np.array([0x0F, 0x1234ABCD, 0])
NAMES = ["aaaaaaap-1", "bcdeklmn-1", "aaaaaaaa-1"]  # 0-f are written a-p
COUNTS = np.array([[1, 0, 2], [0, 3, 0], [4, 0, 0]])  # cells x features
KINDS = ["gene", "gene", "negative_control_probe"]
IDS = ["ENSG00000010610", "ENSG00000153563", "NegControlProbe_00001"]


def write_zarr(path: Path, counts: np.ndarray = COUNTS) -> Path:
    """Write the layout that 10x Genomics documents: features x cells, the last feature being the sum of all genes."""
    by_feature = csr_matrix(np.vstack([counts.T, counts.sum(axis=1)]))
    folder = path.with_suffix("")
    root = zarr.open_group(folder, mode="w", zarr_format=2)
    group = root.create_group("cell_features")
    group.attrs.update(
        feature_ids=[*IDS, "total"],
        feature_keys=["CD4", "CD8A", "NegControlProbe_00001", "Total transcripts"],
        feature_types=[*KINDS, "aggregate_gene"],
    )
    parts = {"data": by_feature.data, "indices": by_feature.indices, "indptr": by_feature.indptr}
    cell_id = np.stack([PREFIXES, np.ones(3, dtype=int)], axis=1)
    for name, values in {**parts, "cell_id": cell_id}.items():
        group.create_array(name, data=values.astype(np.uint32))
    shutil.make_archive(str(folder), "zip", folder)
    shutil.rmtree(folder)
    return path


def test_zarr_matrix(tmp_path: Path) -> None:
    matrix = read_zarr_matrix(write_zarr(tmp_path / "cell_feature_matrix.zarr.zip"))
    assert matrix.counts.toarray().tolist() == COUNTS.tolist()
    assert matrix.barcodes.tolist() == NAMES
    assert matrix.genes["feature_type"].tolist() == ["Gene Expression", "Gene Expression", "negative control probe"]


def test_bundle_with_only_the_zarr_matrix(tmp_path: Path) -> None:
    folder = tmp_path / "section"
    folder.mkdir()
    write_zarr(folder / "cell_feature_matrix.zarr.zip")
    lines = [f"{name},{10 * row},0" for row, name in enumerate(NAMES)]
    (folder / "cells.csv").write_text("\n".join(["cell_id,x_centroid,y_centroid", *lines]))
    slide = ad.read_h5ad(prepare_download(folder, PrepareConfig(out=tmp_path / "prepared")).path)
    assert slide.shape == (3, 2)
    assert slide.uns[keys.CIFM][keys.PLATFORM] == "xenium"


def test_damaged_zarr_matrix_is_refused(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "cell_feature_matrix.zarr.zip")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CifmError, match="damaged or of another format"):
        read_zarr_matrix(path)


def test_panel_of_five_thousand_genes(tmp_path: Path) -> None:
    """Xenium Prime has a larger panel than V1, and more feature types."""
    folder, num_cells, num_genes = tmp_path / "prime", 49, 5000
    folder.mkdir()
    kinds = ["Gene Expression"] * num_genes + ["Genomic Control", "Deprecated Codeword", "Unassigned Codeword"]
    names = [f"ENSG{number:011d}" for number in range(num_genes)] + ["GenomicControl_1", "DeprecatedCodeword_1", "U_1"]
    counts = csr_matrix(np.random.default_rng(0).poisson(0.06, (num_cells, len(names))))
    barcodes = [f"aaaaaa{chr(97 + row // 16)}{chr(97 + row % 16)}-1" for row in range(num_cells)]
    with h5py.File(folder / "cell_feature_matrix.h5", "w") as file:
        group = file.create_group("matrix")
        group["barcodes"], group["shape"] = np.array(barcodes, dtype="S"), np.array(counts.shape[::-1])
        group["data"], group["indices"], group["indptr"] = counts.data, counts.indices, counts.indptr
        for name, values in (("id", names), ("name", [f"g{name}" for name in names]), ("feature_type", kinds)):
            group[f"features/{name}"] = np.array(values, dtype="S")
    x, y = np.divmod(np.arange(num_cells), 7) * np.array([[10.0], [10.0]])
    table = pd.DataFrame({"cell_id": barcodes, "x_centroid": x, "y_centroid": y})
    table.to_parquet(folder / "cells.parquet", index=False)
    result = prepare_download(folder, PrepareConfig(out=tmp_path / "prepared"))
    slide = ad.read_h5ad(result.path)
    assert slide.shape == (num_cells, num_genes)
    assert {kind: part["count"] for kind, part in result.report["genes"]["dropped"].items()} == dict.fromkeys(
        kinds[-3:], 1
    )
    assert (counts[slide.obs[keys.DOWNLOAD_ROW], :num_genes] != slide.X).nnz == 0
