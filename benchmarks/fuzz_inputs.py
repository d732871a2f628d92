"""Write small synthetic downloads in every layout that `cifm prepare` reads, and read and write their two parts."""

from __future__ import annotations

import gzip
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import zarr
from scipy.io import mmwrite
from scipy.sparse import csr_matrix

from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.prepare.pipeline import prepare_download
from cifm_cli.data.readers.counts import in_memory
from cifm_cli.data.readers.tenx import read_matrix
from cifm_cli.synthetic.downloads import WRITERS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SEED, NUM_GENES = 3, 50
_FEATURES = ["id", "symbol", "feature_type"]
_LETTERS = str.maketrans("abcdefghijklmnop", "0123456789abcdef")


class Matrix(NamedTuple):
    """A count matrix: (N, G) counts, (N,) barcodes, and G features with the columns id, symbol and feature_type."""

    counts: csr_matrix
    barcodes: np.ndarray[Any, Any]
    features: pd.DataFrame


class Format(NamedTuple):
    """A layout: the writer of the tissue, its number of cells, and the paths of matrix, cell table and download.

    `download` and `cells` are the arguments of `cifm prepare`, relative to the folder.
    """

    writer: str
    num_cells: int
    matrix: str
    table: str
    download: str = "."
    cells: str | None = None


_POSITIONS, _SQUARE = "spatial/tissue_positions", "binned_outputs/square_008um"
_XENIUM, _VISIUM = "cell_feature_matrix", "filtered_feature_bc_matrix"
FORMATS = {
    "visium": Format("visium", 4000, f"{_VISIUM}.h5", f"{_POSITIONS}.csv"),
    "visium, mex": Format("visium", 4000, f"{_VISIUM}/matrix.mtx.gz", f"{_POSITIONS}.csv"),
    "visium_hd": Format("visium_hd", 120, f"{_SQUARE}/{_VISIUM}.h5", f"{_SQUARE}/{_POSITIONS}.parquet"),
    "xenium": Format("xenium", 150, f"{_XENIUM}.h5", "cells.parquet"),
    "xenium, csv": Format("xenium", 150, f"{_XENIUM}.h5", "cells.csv.gz"),
    "xenium, mex": Format("xenium", 150, f"{_XENIUM}/matrix.mtx.gz", "cells.parquet"),
    "xenium, plain text": Format("xenium", 150, f"{_XENIUM}/matrix.mtx", "cells.csv"),
    "xenium, zarr": Format("xenium", 150, f"{_XENIUM}.zarr.zip", "cells.parquet"),
    "xenium_prime": Format("xenium_prime", 100, f"{_XENIUM}.h5", "cells.parquet"),
    "h5ad": Format("xenium", 150, "cells.h5ad", "cells.h5ad", "cells.h5ad"),
    "h5ad, gzip": Format("xenium", 150, "cells.h5ad", "cells.h5ad", "cells.h5ad"),
    "table": Format("xenium", 150, "counts.csv", "cells.csv", "counts.csv", "cells.csv"),
}


def write_format(name: str, folder: Path) -> None:
    """Write an undamaged download.

    Args:
        name: A key of `FORMATS`.
        folder: Folder to create.
    """
    form = FORMATS[name]
    WRITERS[form.writer](folder, form.num_cells, SEED, NUM_GENES)
    if form.download.endswith(".h5ad"):
        _write_h5ad_of(folder, form, "gzip" if "gzip" in name else None)
        return
    source = next(folder.rglob("*matrix.h5"))
    if not (folder / form.matrix).exists():
        write_matrix(folder / form.matrix, _read_matrix(source))
        source.unlink()
    if not (folder / form.table).exists():
        pd.read_parquet(folder / "cells.parquet").to_csv(folder / form.table, index=False)
    if (
        form.table == "cells.parquet"
    ):  # keeps cells.csv.gz too; pandas writes parquet without checksums, as instruments may do
        write_table(folder / form.table, pd.read_parquet(folder / form.table))
        return
    for other in {"cells.parquet", "cells.csv.gz"} - {form.table}:
        (folder / other).unlink(missing_ok=True)


def _write_h5ad_of(folder: Path, form: Format, compression: str | None) -> None:
    """Replace a Xenium download by an `.h5ad` as users make it: counts in X, obs columns as scanpy names them."""
    slide = ad.read_h5ad(prepare_download(folder, PrepareConfig(out=folder, name="slide")).path)
    shutil.rmtree(folder)
    folder.mkdir()
    del slide.uns["cifm"]
    slide.obs = slide.obs.drop(columns=["split", "download_row"])
    slide.var = slide.var.assign(feature_types="Gene Expression")
    slide.write_h5ad(folder / form.matrix, compression=compression)


def read_parts(folder: Path, form: Format) -> tuple[Matrix, pd.DataFrame]:
    """Read the count matrix and the cell table of an undamaged download, with the columns of the file."""
    if form.download.endswith(".h5ad"):
        stored = ad.read_h5ad(folder / form.matrix)
        features = pd.DataFrame({"id": stored.var_names, "symbol": stored.var["symbol"].astype(str).to_numpy()})
        table = stored.obs.assign(x=stored.obsm["spatial"][:, 0], y=stored.obsm["spatial"][:, 1])
        table = table.reset_index(names="barcode")
        return Matrix(csr_matrix(stored.X), stored.obs_names.to_numpy(), features.assign(feature_type="")), table
    path = folder / form.table
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    return _read_matrix(folder / form.matrix), table


def _read_matrix(path: Path) -> Matrix:
    if path.suffix == ".csv":
        values = pd.read_csv(path, index_col=0)
        features = pd.DataFrame(dict.fromkeys(_FEATURES, values.columns))
        return Matrix(csr_matrix(values.to_numpy()), values.index.to_numpy(), features)
    if path.suffix == ".zip":
        from cifm_cli.data.readers.xenium_zarr import read_zarr_matrix

        stored = read_zarr_matrix(path)
    else:
        stored = read_matrix(path.parent if ".mtx" in path.suffixes else path)
    return Matrix(in_memory(stored.counts), stored.barcodes, stored.genes)


def write_matrix(path: Path, matrix: Matrix) -> None:
    """Write a count matrix in the format given by the file name.

    Args:
        path: `.h5`, `.zarr.zip`, `.mtx`, `.mtx.gz` or `.csv`.
        matrix: The matrix; the lengths of its parts may be inconsistent.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        values = pd.DataFrame(matrix.counts.toarray(), matrix.barcodes, matrix.features["id"].to_numpy())
        values.to_csv(path, index_label="cell")
    elif path.suffix == ".h5":
        _write_h5(path, matrix)
    elif path.suffix == ".zip":
        _write_zarr(path, matrix)
    else:
        _write_mex(path.parent, matrix, gzip.open if path.suffix == ".gz" else open, path.suffix.replace(".mtx", ""))


def _write_h5(path: Path, matrix: Matrix) -> None:
    with h5py.File(path, "w") as file:
        group, packed = file.create_group("matrix"), {"compression": "gzip"}
        for name in ("data", "indices", "indptr"):
            group.create_dataset(name, data=getattr(matrix.counts, name), **packed)
        group["shape"] = np.array(matrix.counts.shape[::-1])
        group["barcodes"] = matrix.barcodes.astype(str).astype("S")
        for name, column in zip(("id", "name", "feature_type"), _FEATURES, strict=True):
            if column in matrix.features:
                group[f"features/{name}"] = matrix.features[column].astype(str).to_numpy().astype("S")


def _write_mex(folder: Path, matrix: Matrix, opened: Callable[..., Any], ending: str) -> None:
    with opened(folder / f"matrix.mtx{ending}", "wb") as file:
        mmwrite(file, matrix.counts.T.tocoo())
    with opened(folder / f"features.tsv{ending}", "wb") as file:
        file.write(matrix.features.to_csv(sep="\t", header=False, index=False).encode())
    with opened(folder / f"barcodes.tsv{ending}", "wb") as file:
        file.write("\n".join(map(str, matrix.barcodes)).encode() + b"\n")


def _write_zarr(path: Path, matrix: Matrix) -> None:
    """Write the layout of `cell_feature_matrix.zarr.zip`: features by cells, cell ids as two numbers."""
    by_feature = csr_matrix(matrix.counts.T)
    folder = path.with_suffix("")
    group = zarr.open_group(folder, mode="w", zarr_format=2).create_group("cell_features")
    kinds = matrix.features.get("feature_type", pd.Series("Gene Expression", index=matrix.features.index))
    group.attrs.update(
        feature_ids=matrix.features["id"].tolist(),
        feature_keys=matrix.features["symbol"].tolist(),
        feature_types=["gene" if kind == "Gene Expression" else kind.replace(" ", "_").lower() for kind in kinds],
    )
    pairs = [str(name).split("-") for name in matrix.barcodes]
    cell_id = np.array([[int(one.translate(_LETTERS), 16), int(other)] for one, other in pairs])
    parts = {name: getattr(by_feature, name) for name in ("data", "indices", "indptr")}
    for name, values in {**parts, "cell_id": cell_id}.items():
        group.create_array(name, data=values.astype(np.uint32))
    shutil.make_archive(str(folder), "zip", folder)
    shutil.rmtree(folder)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a cell table as parquet, CSV or compressed CSV, depending on the file name."""
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False)


def write_h5ad(path: Path, matrix: Matrix, table: pd.DataFrame) -> None:
    """Write an AnnData file with x and y of the table in `obsm["spatial"]`."""
    var = matrix.features[["symbol"]].set_axis(matrix.features["id"].astype(str))
    obs = table.drop(columns=["x", "y", "barcode"]).set_axis(matrix.barcodes.astype(str))
    slide = ad.AnnData(matrix.counts, obs=obs, var=var, obsm={"spatial": table[["x", "y"]].to_numpy()})
    slide.write_h5ad(path)
