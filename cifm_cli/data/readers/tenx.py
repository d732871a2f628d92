"""10x feature-barcode matrices, as HDF5 files or MEX folders, of Cell Ranger 3 and later, Space Ranger and Xenium."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd

from cifm_cli.data.readers.base import GENE_EXPRESSION
from cifm_cli.data.readers.counts import Counts, canonical, stored_counts
from cifm_cli.data.readers.files import LATIN_1, first_existing, open_maybe_gzip, reading
from cifm_cli.data.readers.hdf5 import check_arrays, open_hdf5
from cifm_cli.data.readers.matrix_market import read_matrix_market
from cifm_cli.data.readers.text_tables import separator
from cifm_cli.errors import CifmError
from cifm_cli.system_files import without_system_files

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


# First fields of headers of features and of barcodes, in lower case.
_HEADERS = frozenset(
    [
        "id",
        "gene",
        "genes",
        "gene_id",
        "geneid",
        "gene_ids",
        "feature",
        "feature_id",
        "features",
        "ensembl",
        "ensembl_id",
        "symbol",
        "gene_symbol",
        "gene_name",
        "x",
        "v1",
        "0",
        "barcode",
        "barcodes",
        "cell",
        "cells",
        "cell_id",
        "index",
    ]
)


@dataclass(frozen=True)
class FeatureMatrix:
    """A feature-barcode matrix, N cells x F features."""

    counts: Counts  # (N, F) values as stored; the values of an HDF5 file stay in the file
    barcodes: NDArray[np.object_]  # N barcodes
    genes: pd.DataFrame  # F rows with columns id, symbol and feature_type, and genome if the file declares it
    files: tuple[Path, ...]  # files that were read


def find_matrix(folder: Path, stem: str) -> Path | None:
    """Find the matrix `<stem>.h5`, the MEX folder `<stem>/`, or `<sample>_<stem>.h5` as 10x's website names it."""
    # With several samples in one folder, the choice between them is the user's.
    named = without_system_files(folder.glob(f"*_{stem}.h5"))
    return first_existing(folder, (f"{stem}.h5", stem)) or (named[0] if len(named) == 1 else None)


def read_matrix(path: Path) -> FeatureMatrix:
    """Read a 10x matrix.

    Args:
        path: An `.h5` file or a MEX folder.

    Returns:
        The matrix.

    Raises:
        CifmError: A file is missing or damaged, parts do not have the same size, or a barcode occurs twice.
    """
    return _read_mex(path) if path.is_dir() else _read_h5(path)


def _read_h5(path: Path) -> FeatureMatrix:
    with open_hdf5(path) as file:
        if "matrix" not in file:
            raise CifmError(
                f"{path}: no group `matrix`, so this is not a 10x feature-barcode matrix (it holds {', '.join(file) or 'nothing'})",
                "give the file that the 10x software wrote (Cell Ranger 3, Space Ranger or Xenium)",
            )
        group = file["matrix"]
        check_arrays(group)
        # The file stores features x barcodes by columns, which is the same as barcodes x features by rows.
        num_features, num_cells = (int(size) for size in group["shape"][:])
        features = group["features"]
        genes = pd.DataFrame({"id": _strings(features["id"]), "symbol": _strings(features["name"])})
        # Old files have no feature types: all of their features are genes.
        genes["feature_type"] = _strings(features["feature_type"]) if "feature_type" in features else GENE_EXPRESSION
        if "genome" in features:
            genes["genome"] = _strings(features["genome"])
        barcodes = _strings(group["barcodes"])
        return assemble(stored_counts(path, group, (num_cells, num_features)), barcodes, genes, (path,))


def _read_mex(folder: Path, prefix: str = "") -> FeatureMatrix:
    """Read the three files of a MEX folder, whose names may begin with the name of a sample."""
    prefix = prefix or _prefix_of_only_matrix(folder)
    matrix, features, barcodes = (
        _mex_part(folder, prefix, names)
        for names in (("matrix.mtx",), ("features.tsv", "genes.tsv"), ("barcodes.tsv",))
    )
    with reading(matrix), open_maybe_gzip(matrix) as handle:
        counts = canonical(read_matrix_market(handle))
    with reading(features), open_maybe_gzip(features) as handle:
        # Symbols such as NA must stay texts, and `quoting=3` stops a quotation mark from swallowing lines.
        options: dict[str, Any] = {"header": None, "dtype": str, "keep_default_na": False, "quoting": 3}
        sep = separator(features, first=True)
        columns = pd.read_csv(handle, sep=sep, encoding_errors=LATIN_1, **options)
        columns = columns.apply(lambda column: column.str.strip('" '))  # R quotes text
        columns = _without_header(columns, counts.shape[1])
        # A file of symbols alone, or of ids alone, has one column.
        genes = pd.DataFrame({"id": columns[0], "symbol": columns[min(1, columns.shape[1] - 1)]})
        genes["feature_type"] = columns[2] if columns.shape[1] > 2 else GENE_EXPRESSION
    with reading(barcodes), open_maybe_gzip(barcodes) as handle:
        # Files written on Windows end lines with a carriage return, and R writes columns after the barcode.
        lines = handle.read().decode("utf8", LATIN_1).splitlines()
        fields = [line.split("\t")[0].strip('" ') for line in lines if line.strip()]
        if not fields and counts.shape[0]:
            raise ValueError("no barcodes")
        names = _without_header(pd.DataFrame({0: fields}, dtype=object), counts.shape[0])
    with reading(matrix):
        return assemble(counts, names[0].to_numpy(dtype=object), genes, (matrix, features, barcodes))


def _prefix_of_only_matrix(folder: Path) -> str:
    """What the names of the files begin with, where the folder holds one matrix; repositories put the sample there."""
    named = {path.name.partition("matrix.mtx")[0] for path in without_system_files(folder.glob("*matrix.mtx*"))}
    return named.pop() if len(named) == 1 else ""


def _without_header(table: pd.DataFrame, num_expected: int) -> pd.DataFrame:
    """Drop the first row if it is a header, which 10x never writes but other software does."""
    # Only if the table is one row too long: the first row of any other table is a gene or a cell.
    if len(table) == num_expected + 1 and str(table.iloc[0, 0]).lower() in _HEADERS:
        return table.iloc[1:].reset_index(drop=True)
    return table


def read_mex_by_matrix(path: Path) -> FeatureMatrix:
    """Read the MEX files beside a given matrix, which may be named after a sample, such as `GSM1_matrix.mtx.gz`.

    Args:
        path: The `.mtx` or `.mtx.gz`.

    Returns:
        The matrix.

    Raises:
        CifmError: As `read_matrix`.
    """
    return _read_mex(path.parent, path.name.partition("matrix.mtx")[0] if "matrix.mtx" in path.name else "")


def _mex_part(folder: Path, prefix: str, names: tuple[str, ...]) -> Path:
    # Versions of Cell Ranger before 3 wrote these files without compression.
    path = first_existing(folder, tuple(prefix + name + ending for name in names for ending in (".gz", "")))
    if path is None:
        raise CifmError(
            f"{folder}: no {' or '.join(prefix + name for name in names)} (plain or .gz)", "complete the download"
        )
    return path


def assemble(
    counts: Counts, barcodes: NDArray[np.object_], genes: pd.DataFrame, files: tuple[Path, ...]
) -> FeatureMatrix:
    """Combine the parts of a matrix. Must be called within `reading`.

    Args:
        counts: (N, F) values.
        barcodes: N barcodes.
        genes: F rows with columns id, symbol and feature_type.
        files: Files that were read.

    Returns:
        The matrix.

    Raises:
        CifmError: A barcode occurs twice.
        ValueError: The parts do not have the same size.
    """
    if counts.shape != (len(barcodes), len(genes)):
        raise ValueError(
            f"{counts.shape[0]} x {counts.shape[1]} matrix, {len(barcodes)} barcodes, {len(genes)} features"
        )
    names = pd.Index(barcodes)
    # Positions are matched by barcode, which must therefore name one cell.
    if not names.is_unique:
        repeated = names[names.duplicated()]
        raise CifmError(
            f"{files[0]}: {len(repeated):,} barcodes occur twice, the first is {repeated[0]!r}",
            "take the matrix as the instrument's software wrote it; merged matrices need distinct barcodes",
        )
    return FeatureMatrix(counts, barcodes, genes, files)


def _strings(dataset: h5py.Dataset) -> NDArray[np.object_]:
    """Texts of fixed or variable length; numbers, as ids are in old Xenium files, are converted."""
    if not isinstance(dataset, h5py.Dataset):
        raise TypeError(f"{dataset.name} is not an array")
    if not h5py.check_string_dtype(dataset.dtype):
        return np.asarray(dataset[:].astype(str), dtype=object)
    values = np.asarray(dataset.asstr("utf8")[:], dtype=object)
    # Texts of HDF5 end at a NUL byte; one within a name is damage.
    if "\0" in "".join(values):
        raise ValueError(f"{dataset.name} holds a name with a NUL byte")
    return values
