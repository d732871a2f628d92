"""Counts as text: a CSV or TSV of cells x genes or genes x cells, read in blocks so that it is never dense as a whole."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, vstack

from cifm_cli.data.readers.files import open_maybe_gzip, reading
from cifm_cli.data.readers.text_tables import pandas_options, to_numbers
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# A block is dense while it is read: 160 MB for a panel of 1,000 genes.
_ROWS_AT_ONCE = 20_000
_FOV, _CELL = "fov", "cell_id"  # CosMx numbers cells within each field of view


@dataclass(frozen=True)
class CountTable:
    """A table of counts in the orientation of its file."""

    counts: csr_matrix  # (R, C) values
    rows: NDArray[np.object_]  # R names of the rows
    columns: NDArray[np.object_]  # C names of the columns

    def transposed(self) -> CountTable:
        """The table with rows and columns exchanged."""
        return replace(self, counts=csr_matrix(self.counts.T), rows=self.columns, columns=self.rows)


def read_count_table(path: Path) -> CountTable:
    """Read a table with a header, whose first column, or first two (field of view and cell), name the rows.

    Args:
        path: CSV or TSV, plain or gzip.

    Returns:
        The table.

    Raises:
        CifmError: The file is damaged, or a count is not a number.
    """
    blocks: list[csr_matrix] = []
    names: list[str] = []
    columns: list[str] = []
    with reading(path), warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.ParserWarning)  # of a last field without a column
        options = pandas_options(path)
        labels = _label_columns(path, options)
        # Names of rows are read as text: a number such as 007 would otherwise not equal the name in the other table.
        texts = dict.fromkeys(labels, str)
        with (
            open_maybe_gzip(path) as handle,
            pd.read_csv(handle, dtype=texts, chunksize=_ROWS_AT_ONCE, low_memory=False, **options) as table,
        ):
            for block in table:
                values = block.drop(columns=labels)
                names += (
                    block[labels[0]].tolist()
                    if len(labels) == 1
                    else cell_names_in_views(*(block[label] for label in labels))
                )
                columns = [str(name) for name in values.columns]
                blocks.append(csr_matrix(_numbers(values, path)))
        counts = csr_matrix(vstack(blocks, format="csr"))
    if not names:
        raise CifmError(f"{path}: a header without rows", "write the whole table again")
    return CountTable(counts, np.array(names, dtype=np.object_), np.array(columns, dtype=np.object_))


def _numbers(values: pd.DataFrame, path: Path) -> NDArray[np.float64]:
    """A block of counts in float64, which holds every integer of a table of counts, and NaN for the later check."""
    if all(map(pd.api.types.is_numeric_dtype, values.dtypes)):
        return values.to_numpy(dtype=np.float64)
    return to_numbers(values, list(values.columns), path)  # names the column that is not of numbers


def cell_names_in_views(fov: pd.Series[str], cell: pd.Series[str]) -> list[str]:
    """Names of cells that are numbered within fields of view, such as `3_17`."""
    return [f"{view}_{number}" for view, number in zip(fov, cell, strict=True)]


def view_columns(columns: pd.Index[str]) -> tuple[str, str] | None:
    """The columns of the field of view and of the number of a cell in it; None if they are not both there."""
    lower = {str(name).lower(): str(name) for name in columns}
    return (lower[_FOV], lower[_CELL]) if {_FOV, _CELL} <= lower.keys() else None


def _label_columns(path: Path, options: dict[str, Any]) -> list[str]:
    """The columns that name the rows of a table."""
    with open_maybe_gzip(path) as handle:
        header = pd.read_csv(handle, nrows=0, **options).columns
    return list(view_columns(header[:2]) or header[:1])
