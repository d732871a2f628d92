"""Dense matrices of an `.h5ad` that are written row by row."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from cifm_cli.data.writers.dense_rows import create_dense, open_dense


def test_rows_are_written_to_their_positions(tmp_path: Path) -> None:
    """Slide rows 0 1 2 3 belong to positions 2 0 3 1, and are written in two blocks, unsorted."""
    path, values = tmp_path / "x.h5ad", np.arange(8, dtype=np.float32).reshape(4, 2)
    with h5py.File(path, "w") as file:
        create_dense(file, "before", (3, 5))
        create_dense(file, "X", (4, 2))
    matrix = open_dense(path, "X", np.array([2, 0, 3, 1]))
    matrix.write(np.array([3, 0]), values[[3, 0]])
    matrix.write(np.array([1, 2]), values[[1, 2]])
    with h5py.File(path, "r") as file:
        assert file["X"][:].tolist() == values[[1, 3, 0, 2]].tolist()
        assert not file["before"][:].any()


def test_anndata_reads_the_matrix(tmp_path: Path) -> None:
    path = tmp_path / "x.h5ad"
    ad.AnnData(obs=pd.DataFrame(index=["a", "b"]), var=pd.DataFrame(index=["g", "h", "i"])).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        create_dense(file["layers"], "mine", (2, 3))
    open_dense(path, "layers/mine", np.arange(2)).write(np.arange(2), np.ones((2, 3), np.float32))
    assert ad.read_h5ad(path).layers["mine"].tolist() == [[1, 1, 1]] * 2
