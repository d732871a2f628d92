"""Inputs of formats that cifm does not read, AnnData stores in Zarr, and inputs that are no files."""

from __future__ import annotations

import gzip
import os
import shutil
import socket
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import small_downloads as small
from scipy.sparse import csr_matrix

from cifm_cli.data.readers.files import searching
from cifm_cli.errors import CifmError

HDF5 = b"\x89HDF\r\n\x1a\n"


@pytest.mark.parametrize(
    ("name", "content", "what", "remedy"),
    [
        ("s.h5ad.gz", gzip.compress(HDF5 + b"x" * 99, mtime=0), "compressed with gzip", "gunzip {path}"),
        ("s.h5ad", gzip.compress(HDF5 + b"x" * 99, mtime=0), "compressed with gzip", "gunzip {path}"),
        ("s.h5ad.gz", HDF5 + b"x" * 99, "not compressed", "remove .gz"),
        ("s.h5ad.bz2", b"BZh91AY", "compressed with bzip2", "bunzip2 {path}"),
        ("s.loom", HDF5, "a Loom file", "read_loom"),
        ("s.rds", gzip.compress(b"X\n\x00\x00\x00", mtime=0), "an R object", "anndataR"),
        ("seurat.RData", b"RDX3\n", "an R object", "anndataR"),
        ("s.h5seurat", HDF5, "a Seurat file", ".h5ad"),
        ("s.h5mu", b"MuData (format-version=0.1.0)", "a MuData file", "mudata.read({path})['rna']"),
        ("matrix.mtx.gz", gzip.compress(b"%%MatrixMarket", mtime=0), "a matrix without positions", "--cells"),
        ("filtered_feature_bc_matrix.h5", HDF5, "a matrix without positions", "--cells"),
        ("counts.csv", b"a,b\n", "a table", "--matrix"),
        ("transcripts.parquet", b"PAR1", "a table of single molecules", "cell_feature_matrix.h5"),
        ("transcripts.csv.gz", gzip.compress(b"a", mtime=0), "a table of single molecules", "cell_feature_matrix.h5"),
        ("tissue_hires_image.png", b"\x89PNG\r\n", "an image", "folder of the download"),
        ("morphology.ome.tif", b"II+\x00", "an image", "folder of the download"),
        ("counts.xlsx", b"PK\x03\x04 [Content_Types].xml", "an Excel workbook", "CSV"),
        ("reads_R1.fastq.gz", gzip.compress(b"@read", mtime=0), "sequencing reads", "software of the instrument"),
        ("cloupe.cloupe", b"x", "Loupe Browser", "outs"),
        ("experiment.xenium", b"{}", "one file of a download", "the folder that holds it"),
        ("s.h5ad", b"<!DOCTYPE html><title>Log in", "a web page", "in a browser"),
        ("s.h5ad", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS", "git lfs pull"),
        ("s.h5ad", b"", "an empty file", "download it again"),
        ("s.h5ad", bytes(4096), "only zeros", "not complete"),
        ("notes.bin", b"??", "not a download of a known platform", "experiment.xenium"),
    ],
)
def test_what_is_not_read_is_named(
    refuse: Callable[..., str], tmp_path: Path, name: str, content: bytes, what: str, remedy: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    error, hint = refuse(path).splitlines()
    assert str(path) in error
    assert what in error
    assert remedy.format(path=path) in hint
    assert "damaged" not in error


def test_archives_are_to_be_unpacked(refuse: Callable[..., str], tmp_path: Path) -> None:
    folder = small.write_bundle(tmp_path / "outs")
    with tarfile.open(tmp_path / "outs.tar.gz", "w:gz") as archive:
        archive.add(folder, "outs")
    assert f"unpack it first: tar -xf {tmp_path / 'outs.tar.gz'}" in refuse(tmp_path / "outs.tar.gz")
    path = Path(shutil.make_archive(str(tmp_path / "zipped"), "zip", folder))
    assert f"unpack it first: unzip {path}" in refuse(path)
    assert f"unpack it first: unzip {path}" in refuse(path, "--platform", "xenium")
    (tmp_path / "folder").mkdir()
    path.rename(tmp_path / "folder" / "x.zip")
    assert "unpack the archives in it first" in refuse(tmp_path / "folder")


def test_an_anndata_is_not_a_download_of_a_named_platform(refuse: Callable[..., str], tmp_path: Path) -> None:
    cells = ad.AnnData(csr_matrix(np.ones((3, 2), np.float32)), obsm={"spatial": np.zeros((3, 2))})
    cells.write_h5ad(tmp_path / "s.h5ad")
    assert "--platform anndata" in refuse(tmp_path / "s.h5ad", "--platform", "xenium")


def test_flat_folder_of_a_repository_is_to_be_sorted(refuse: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    for name in ("filtered_feature_bc_matrix.h5", "tissue_positions_list.csv.gz", "scalefactors_json.json.gz"):
        (tmp_path / "s" / f"GSM1_{name}").write_bytes(b"x")
    assert "spatial/tissue_positions_list.csv" in refuse(tmp_path / "s")


def test_folder_of_molecules_alone_is_named(refuse: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "transcripts.parquet").write_bytes(b"PAR1")
    assert "a table of single molecules; found transcripts.parquet" in refuse(tmp_path / "s")


@pytest.mark.skipif(os.name != "posix", reason="named pipes and sockets are files of POSIX")
def test_what_is_no_file_is_not_opened(refuse: Callable[..., str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.h5ad")
    assert "pipe.h5ad: a pipe" in refuse(tmp_path / "pipe.h5ad")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "s"))
        assert "/s: a socket" in refuse(tmp_path / "s")
    assert "/dev/null: a device" in refuse("/dev/null")
    folder = small.write_bundle(tmp_path / "bundle")
    (folder / "cells.parquet").unlink()
    os.mkfifo(folder / "cells.parquet")
    assert "cells.parquet: a pipe" in refuse(folder)


@pytest.mark.parametrize("name", ["cells.parquet", "cell_feature_matrix.h5"])
def test_folder_in_the_place_of_a_file_is_named(refuse: Callable[..., str], tmp_path: Path, name: str) -> None:
    folder = small.write_bundle(tmp_path / "s")
    (folder / name).unlink()
    (folder / name).mkdir()
    assert name in refuse(folder)


def test_no_cells_and_no_genes(refuse: Callable[..., str], tmp_path: Path) -> None:
    small.anndata_slide()[:0].copy().write_h5ad(tmp_path / "a.h5ad")
    assert "the input has no cells" in refuse(tmp_path / "a.h5ad")
    small.anndata_slide()[:, :0].copy().write_h5ad(tmp_path / "b.h5ad")
    assert f"{tmp_path / 'b.h5ad'}: none of the 0 features is a gene" in refuse(tmp_path / "b.h5ad")


def test_file_that_grows_while_it_is_read_is_refused(
    refuse: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cifm_cli.data.prepare import pipeline

    folder, plan = small.write_bundle(tmp_path / "s"), pipeline.plan_genes

    def grow(*arguments: object, **options: object) -> object:
        with (folder / "cells.parquet").open("ab") as file:
            file.write(b"more")
        return plan(*arguments, **options)

    monkeypatch.setattr(pipeline, "plan_genes", grow)
    assert "cells.parquet: changed while it was read" in refuse(folder)


def test_folder_that_may_not_be_searched_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CifmError, match=r"analysis: permission denied"), searching(tmp_path):
        raise PermissionError(13, "Permission denied", "analysis")


def write_store(path: Path, slide: ad.AnnData, version: int = 2) -> Path:
    with warnings.catch_warnings(), ad.settings.override(zarr_write_format=version):
        warnings.simplefilter("ignore")  # of zarr, about the formats that it writes
        slide.write_zarr(path)
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_anndata_in_zarr_equals_the_file(prepare: Callable[..., tuple], tmp_path: Path, version: int) -> None:
    slide = small.anndata_slide()
    slide.X = csr_matrix(slide.X)
    slide.uns["odd"] = {"table": np.zeros((2, 2))}
    slide.write_h5ad(tmp_path / "s.h5ad")
    expected, _ = prepare(tmp_path / "s.h5ad")
    store = write_store(tmp_path / "s.zarr", slide, version)
    zipped = Path(shutil.make_archive(str(store), "zip", store))
    for path in (store, zipped):
        found, err = prepare(path)
        assert "note: an AnnData store in Zarr" in err
        assert (found.X != expected.X).nnz == 0
        assert np.array_equal(found.obsm["spatial"], expected.obsm["spatial"])
        assert found.obs_names.equals(expected.obs_names)


def test_errors_of_a_store_name_it(refuse: Callable[..., str], tmp_path: Path) -> None:
    slide = small.anndata_slide()
    slide.uns["spatial"] = {
        "lib": {"scalefactors": {"spot_diameter_fullres": 99.0}, "images": {"hires": np.ones((4, 4))}}
    }
    err = refuse(write_store(tmp_path / "a.zarr", slide))
    assert f"{tmp_path / 'a.zarr'}: obsm['spatial'] is in image pixels" in err
    del slide.obsm["spatial"]
    assert f"{tmp_path / 'b.zarr'}: no obsm['spatial']" in refuse(write_store(tmp_path / "b.zarr", slide))


@pytest.mark.parametrize("chunk", ["X/indices/0", "X/data/0", "obsm/spatial/0.0"])
def test_missing_chunk_of_a_store_is_not_read_as_zeros(refuse: Callable[..., str], tmp_path: Path, chunk: str) -> None:
    slide = small.anndata_slide()
    slide.X = csr_matrix(slide.X)
    store = write_store(tmp_path / "s.zarr", slide)
    (store / chunk).unlink()
    assert f"{chunk.rpartition('/')[0]} lacks 1 of its 1 chunks" in refuse(store)


def test_archive_of_a_store_must_hold_one(refuse: Callable[..., str], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "s.zarr.zip", "w") as archive:
        archive.writestr("obs/.zgroup", "{}")
    assert "unpack it first" in refuse(tmp_path / "s.zarr.zip")
