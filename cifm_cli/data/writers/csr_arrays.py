"""The arrays of a CSR matrix in an HDF5 group, as AnnData stores them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import h5py
    from numpy.typing import NDArray


def create_csr_arrays(group: h5py.Group, indptr: NDArray[np.int64]) -> tuple[h5py.Dataset, h5py.Dataset]:
    """Write the row pointers of a matrix, and create the arrays of its columns and values, to be written in blocks.

    Args:
        group: A group without arrays.
        indptr: (N + 1,) row pointers.

    Returns:
        The arrays of columns (int32) and of values (float32), without compression.
    """
    # SciPy uses one type for columns and row pointers, and the pointers of most matrices fit into 32 bits.
    group["indptr"] = indptr if indptr[-1] > np.iinfo(np.int32).max else indptr.astype(np.int32)
    columns = group.create_dataset("indices", (indptr[-1],), np.int32)
    values = group.create_dataset("data", (indptr[-1],), np.float32)
    return columns, values
