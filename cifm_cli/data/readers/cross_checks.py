"""Comparison of the counts of each cell in the matrix with the counts that the table of cells declares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cifm_cli.data.readers.base import GENE_EXPRESSION
from cifm_cli.data.readers.counts import StoredCounts
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.data.readers.base import Download

# Column to the feature type that it counts. 10x Genomics, "Xenium Onboard Analysis outputs: cell summary".
_XENIUM = {
    # Controls are counted apart from genes, so the column equals the sum over the genes alone.
    "transcript_counts": GENE_EXPRESSION,
    "control_probe_counts": "Negative Control Probe",
    "genomic_control_counts": "Genomic Control",
    "control_codeword_counts": "Negative Control Codeword",
    "unassigned_codeword_counts": "Unassigned Codeword",
    "deprecated_codeword_counts": "Deprecated Codeword",
}
# Columns of other software, in lower case: total counts, and number of features with a count.
_COUNTS = ("total_counts", "n_counts", "ncount_rna", "ncount_spatial", "ncount_xenium", "transcript_counts")
_GENES = ("n_genes_by_counts", "n_genes", "nfeature_rna", "nfeature_spatial", "nfeature_xenium")
_TOLERANCE = 0.5  # sums are whole numbers
_MOST = 0.5  # if more cells differ, the column counts something else, and nothing is damaged
_FEW = 0.01


@dataclass(frozen=True)
class _DeclaredColumn:
    """A column of the table of cells that must equal a sum over some features of the matrix."""

    name: str  # name of the column
    declared: NDArray[np.float64]  # (N,) values of the column; NaN where missing
    features: NDArray[np.float64]  # (F,) weight of each feature in the sum, 1.0 or 0.0
    counts_genes: bool  # whether features with a count are counted, instead of their counts summed
    summed: NDArray[np.float64]  # (N,) sums over the matrix, filled block by block

    def differing_rows(self) -> NDArray[np.int64]:
        """Rows in which the declared value differs from the sum."""
        return np.flatnonzero(np.abs(self.declared - self.summed) > _TOLERANCE)

    def describe(self, row: int, cell: str) -> str:
        """The two values of a row in words."""
        quantity = "genes" if self.counts_genes else "counts"
        return (
            f"cell {cell!r} has {self.summed[row]:,.0f} {quantity} in the matrix, "
            f"{self.declared[row]:,.0f} in {self.name}"
        )


class CountCrossChecks:
    """Sums over the counts of each cell, computed block by block, and compared with the table of cells.

    Args:
        download: The download, N cells x F features.
    """

    def __init__(self, download: Download) -> None:
        self._download = download
        self._columns = list(_declared_columns(download))

    def add(self, first: int, block: csr_matrix) -> None:
        """Sum a block of rows.

        Args:
            first: Number of its first row.
            block: (n, F) counts.
        """
        rows = slice(first, first + block.shape[0])
        for column in self._columns:
            matrix = (block != 0).astype(np.float64) if column.counts_genes else block
            column.summed[rows] = matrix @ column.features

    def warnings(self, where: str) -> list[str]:
        """Compare the sums with the table, after all rows have been added.

        Args:
            where: The download and its matrix, for the message.

        Returns:
            A warning for each column that differs, and one if the columns of a few rows were stored out of order.

        Raises:
            CifmError: Matrix and table of a Xenium bundle differ in a minority of the cells, so one is damaged.
        """
        differences = [self._compare(column, where) for column in self._columns]
        return [*filter(None, (*differences, self._unsorted_rows_warning()))]

    def _compare(self, column: _DeclaredColumn, where: str) -> str | None:
        rows, names = column.differing_rows(), self._download.obs.index
        if not len(rows):
            return None
        example = column.describe(rows[0], names[rows[0]])
        # A table that was made from other counts, such as those before a filter, differs in most cells.
        if len(rows) > _MOST * len(names):
            return (
                f"{column.name} is not the sum of the matrix in most cells ({example}): "
                "cells or genes may be mixed up or missing"
            )
        # The instrument writes both files from the same transcripts. In an AnnData, a column may have any origin.
        if self._download.platform == "xenium":
            raise CifmError(
                f"{where}: the counts of {len(rows):,} of {len(names):,} cells contradict the table of cells: {example}",
                "copy both files from the original download again",
            )
        return f"{column.name} contradicts the matrix in {len(rows):,} of {len(names):,} cells: {example}"

    def _unsorted_rows_warning(self) -> str | None:
        """A warning if the columns of a few rows do not ascend, which is a sign of damage to the file."""
        counts = self._download.counts
        rows = np.flatnonzero(counts.out_of_order if isinstance(counts, StoredCounts) else np.zeros(0))
        # Software that writes unsorted rows does so in all of them; damage affects a few.
        if not 0 < len(rows) <= max(1, _FEW * counts.shape[0]):
            return None
        name = self._download.obs.index[rows[0]]
        return f"the genes of {len(rows):,} cells, such as {name!r}, are out of order: the file may be damaged there"


def _declared_columns(download: Download) -> list[_DeclaredColumn]:
    """The columns of the table of cells that can be compared with the matrix."""
    kinds = download.genes["feature_type"].str.lower()
    columns = []
    for column in download.obs.columns:
        name, values = str(column).lower(), download.obs[column]
        # A column of another meaning may have the same name.
        if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
            continue
        if download.platform == "xenium" and name in _XENIUM:
            features = kinds == _XENIUM[name].lower()
        elif download.platform != "xenium" and name in (*_COUNTS, *_GENES):
            features = kinds.notna()
        else:
            continue
        if features.any():
            declared, weights = values.to_numpy(np.float64, na_value=np.nan), features.to_numpy().astype(np.float64)
            columns.append(_DeclaredColumn(str(column), declared, weights, name in _GENES, np.zeros(len(declared))))
    return columns
