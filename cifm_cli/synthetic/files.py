"""Writers of single files of synthetic downloads: the 10x HDF5 matrix, and compressed tables."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import h5py
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

_CHUNK = 1 << 16


def write_matrix(
    path: Path, blocks: Iterable[csr_matrix], barcodes: NDArray[np.str_], features: pd.DataFrame, chemistry: str
) -> None:
    """Write features x barcodes in CSC, which equals barcodes x features in CSR, one block at a time.

    Args:
        path: The `.h5`.
        blocks: (n, F) counts of consecutive barcodes.
        barcodes: N barcodes.
        features: F rows with columns id, symbol and feature_type.
        chemistry: Name of the assay, stored in the file.
    """
    with h5py.File(path, "w") as file:
        file.attrs.update({"filetype": "matrix", "version": 2, "chemistry_description": chemistry})
        group = file.create_group("matrix")
        # The fastest level, as the files are written for tests and benchmarks.
        compression = {"chunks": (_CHUNK,), "compression": "gzip", "compression_opts": 1}
        data = group.create_dataset("data", shape=(0,), maxshape=(None,), dtype=np.int32, **compression)
        indices = group.create_dataset("indices", shape=(0,), maxshape=(None,), dtype=np.int64, **compression)
        lengths = [np.zeros(1, dtype=np.int64)]
        for block in blocks:
            # Instruments write sorted rows, and readers warn of a few that are not.
            block.sort_indices()
            end = len(data) + block.nnz
            for dataset, values in ((data, block.data), (indices, block.indices)):
                dataset.resize((end,))
                dataset[end - block.nnz :] = values
            lengths.append(np.diff(block.indptr).astype(np.int64))
        group.create_dataset("indptr", data=np.cumsum(np.concatenate(lengths)), compression="gzip", compression_opts=1)
        group.create_dataset("barcodes", data=barcodes.astype("S"), compression="gzip", compression_opts=1)
        group.create_dataset("shape", data=np.array([len(features), len(barcodes)], dtype=np.int32))
        columns = {"id": features["id"], "name": features["symbol"], "feature_type": features["feature_type"]}
        for name, column in columns.items():
            group.create_dataset(f"features/{name}", data=column.to_numpy().astype("S"))
        group.create_dataset("features/genome", data=np.full(len(features), b"GRCh38"))
        group.create_dataset("features/_all_tag_keys", data=np.array([b"genome"]))


def write_csv_gz(path: Path, table: pd.DataFrame) -> None:
    """Write a compressed table without a time stamp, so that the same table gives the same bytes.

    Args:
        path: The `.csv.gz`.
        table: The table; its index is not written.
    """
    with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as file:
        file.write(table.to_csv(index=False).encode())
