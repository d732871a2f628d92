"""The matrix of a Xenium bundle as `cell_feature_matrix.zarr.zip`, for bundles with only the files of Xenium Explorer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from cifm_cli.data.readers.base import GENE_EXPRESSION
from cifm_cli.data.readers.counts import canonical
from cifm_cli.data.readers.files import reading
from cifm_cli.data.readers.tenx import FeatureMatrix, assemble
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# The store names feature types in lower case and with underscores, other than the HDF5 file.
_GENE, _SUM = "gene", "aggregate_gene"  # feature types; the second is the sum of all genes
_PREFIX_LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")


def read_zarr_matrix(path: Path) -> FeatureMatrix:
    """Read the matrix; its layout is that of 10x Genomics, "Overview of Xenium Zarr Output Files".

    Args:
        path: The zipped store. Its group cell_features holds cell_id (N, 2), and features x cells as data, indices and
            indptr.

    Returns:
        The matrix, cells x features.

    Raises:
        CifmError: The file is damaged, or the zarr package is missing.
    """
    try:
        # Imported here: only bundles without the other forms of the matrix need the package.
        import zarr
        from zarr.storage import ZipStore
    except ImportError as error:
        raise CifmError(
            f"{path}: the zarr package is missing", "pip install zarr, or add cell_feature_matrix.h5"
        ) from error
    with reading(path):
        ZipFile(path).close()  # ZipStore cannot be closed where this fails
    with reading(path), ZipStore(path, mode="r") as store:
        group: Any = zarr.open_group(store, mode="r")["cell_features"]
        attributes = dict(group.attrs)
        genes = pd.DataFrame({"id": attributes["feature_ids"], "symbol": attributes["feature_keys"]}, dtype=object)
        kinds = pd.Series(attributes["feature_types"], dtype=object)
        cells = np.asarray(group["cell_id"][:])
        data, indices, indptr = (np.asarray(group[name][:]) for name in ("data", "indices", "indptr"))
        by_feature = csr_matrix(
            (data, indices.astype(np.int64), indptr.astype(np.int64)), shape=(len(genes), len(cells))
        )
        by_feature.check_format(full_check=True)  # an index out of range would crash the conversion
        genes["feature_type"] = [GENE_EXPRESSION if kind == _GENE else kind.replace("_", " ") for kind in kinds]
        # The sum of all genes would be counted as a further gene.
        rows = np.flatnonzero(kinds != _SUM)
        counts = canonical(csr_matrix(by_feature[rows].T))
        return assemble(counts, _cell_ids(cells), genes.iloc[rows].reset_index(drop=True), (path,))


def _cell_ids(pairs: NDArray[Any]) -> NDArray[np.object_]:
    """Ids as text: the prefix in hexadecimal with the letters a-p as digits, then the suffix."""
    prefixes, suffixes = pairs[:, 0], pairs[:, 1]
    names = [f"{prefix:08x}".translate(_PREFIX_LETTERS) for prefix in prefixes.tolist()]
    return np.array([f"{name}-{suffix}" for name, suffix in zip(names, suffixes.tolist(), strict=True)], dtype=object)
