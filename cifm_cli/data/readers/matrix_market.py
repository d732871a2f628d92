"""Matrix Market files of counts. They are not read with SciPy, whose reader crashes on some damaged files."""

from __future__ import annotations

from typing import IO

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

_KIND = ["%%matrixmarket", "matrix", "coordinate"]
_PATTERN, _GENERAL = "pattern", "general"  # positions without values; a matrix stored in full, not one triangle


def read_matrix_market(handle: IO[bytes]) -> csr_matrix:
    """Read a matrix of R rows and C columns. Must be called within `reading`.

    Format: R. F. Boisvert, R. Pozo, K. A. Remington, "The Matrix Market Exchange Formats", NIST, 1996.

    Args:
        handle: The file, decompressed, at its beginning.

    Returns:
        (C, R) values: the transpose, as 10x stores features x barcodes.

    Raises:
        ValueError: The file is not a matrix in coordinate format, or is damaged.
    """
    # The first line names the format: object, layout, type of the values, symmetry.
    kind = handle.readline().decode("ascii", "replace").lower().split()
    if kind[:3] != _KIND or len(kind) != 5:
        raise ValueError(f"the file does not begin with {' '.join(_KIND)}")
    # Comments and empty lines may precede the sizes.
    line = next((line for line in handle if line.strip() and not line.startswith(b"%")), b"")
    num_rows, num_columns, num_entries = (int(number) for number in line.split())
    # pandas refuses a file without lines, which is a valid matrix of zeros.
    if not num_entries:
        return csr_matrix((num_columns, num_rows), dtype=np.float64)
    if kind[3] == _PATTERN:
        raise ValueError("the file holds the positions of counts without their values")
    if kind[4] != _GENERAL:
        raise ValueError(f"the matrix is declared {kind[4]}, which a matrix of cells and genes cannot be")
    # The values may be fractions here: `check_counts` refuses them later, with the names of cell and gene.
    types = {0: np.int64, 1: np.int64, 2: np.float64}
    entries = pd.read_csv(handle, sep=r"\s+", header=None, dtype=types)
    if entries.shape != (num_entries, len(types)):
        raise ValueError(f"{entries.shape[0]:,} lines of {entries.shape[1]} numbers, {num_entries:,} are declared")
    # The format counts from 1. Cells, the columns of the file, become the rows.
    positions = (entries[1].to_numpy() - 1, entries[0].to_numpy() - 1)
    matrix = csr_matrix((entries[2].to_numpy(), positions), shape=(num_columns, num_rows))
    # SciPy adds up repeated entries, so a matrix with fewer values than lines has some.
    if matrix.nnz < num_entries:
        raise ValueError(f"{num_entries - matrix.nnz:,} entries have the same row and column as another")
    return matrix
