"""What a download says twice: the counts of each cell, in its matrix and in the columns of its table of cells."""

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

# 10x Genomics, "Xenium Onboard Analysis outputs: cell summary": each counts the features of one type in the matrix.
_XENIUM = {
    "transcript_counts": GENE_EXPRESSION,
    "control_probe_counts": "Negative Control Probe",
    "genomic_control_counts": "Genomic Control",
    "control_codeword_counts": "Negative Control Codeword",
    "unassigned_codeword_counts": "Unassigned Codeword",
    "deprecated_codeword_counts": "Deprecated Codeword",
}
_COUNTS = ("total_counts", "n_counts", "ncount_rna", "ncount_spatial", "ncount_xenium", "transcript_counts")
_GENES = ("n_genes_by_counts", "n_genes", "nfeature_rna", "nfeature_spatial", "nfeature_xenium")
_TOLERANCE = 0.5  # of a count; sums are whole
_MOST = 0.5
_FEW = 0.01


@dataclass(frozen=True)
class _Claim:
    """A column of numbers that a sum over some features should give.

    Args:
        column: Its name.
        declared: (N,) what it says; NaN where it says nothing.
        features: (G,) the features that are summed, 1.0 or 0.0.
        genes: Whether it counts the features that are there, not their counts.
        found: (N,) what the matrix says, as far as it was read.
    """

    column: str
    declared: NDArray[np.float64]
    features: NDArray[np.float64]
    genes: bool
    found: NDArray[np.float64]

    def differing(self) -> NDArray[np.int64]:
        """Rows where the two say otherwise."""
        return np.flatnonzero(np.abs(self.declared - self.found) > _TOLERANCE)

    def example(self, row: int, name: str) -> str:
        """What the two say of a row."""
        what = "genes" if self.genes else "counts"
        return (
            f"cell {name!r} has {self.found[row]:,.0f} {what} in the matrix, {self.declared[row]:,.0f} in {self.column}"
        )


class Agreement:
    """Sums over each cell's counts, gathered while they stream by, and compared with what the table of cells declares.

    Args:
        download: As read.
    """

    def __init__(self, download: Download) -> None:
        self._download = download
        self._claims = list(_claims(download))

    def add(self, first: int, block: csr_matrix) -> None:
        """Take in some rows.

        Args:
            first: Number of the first of them.
            block: (n, G) counts.
        """
        rows = slice(first, first + block.shape[0])
        for claim in self._claims:
            matrix = (block != 0).astype(np.float64) if claim.genes else block
            claim.found[rows] = matrix @ claim.features

    def warnings(self, where: str) -> list[str]:
        """Judge when all rows are in.

        Args:
            where: The download and its matrix, for the message.

        Returns:
            A warning for each column that most cells, or few cells of another software's table, contradict.

        Raises:
            CifmError: Matrix and table of a Xenium bundle agree on most cells, and not on some.
        """
        found = [self._compare(claim, where) for claim in self._claims]
        return [*filter(None, (*found, self._order()))]

    def _compare(self, claim: _Claim, where: str) -> str | None:
        rows, names = claim.differing(), self._download.obs.index
        if not len(rows):
            return None
        example = claim.example(rows[0], names[rows[0]])
        if len(rows) > _MOST * len(names):
            return (
                f"{claim.column} is not what the matrix sums to ({example}): were cells or genes mixed up, or left out?"
            )
        if self._download.platform == "xenium":
            raise CifmError(
                f"{where}: the counts of {len(rows):,} of {len(names):,} cells contradict the table of cells: {example}",
                "copy both files from the original download again",
            )
        return f"{claim.column} contradicts the matrix in {len(rows):,} of {len(names):,} cells: {example}"

    def _order(self) -> str | None:
        """A warning where a few rows are not in order while all others are, which is what damage does to them."""
        counts = self._download.counts
        rows = np.flatnonzero(counts.out_of_order if isinstance(counts, StoredCounts) else np.zeros(0))
        if not 0 < len(rows) <= max(1, _FEW * counts.shape[0]):
            return None
        name = self._download.obs.index[rows[0]]
        return f"the genes of {len(rows):,} cells, such as {name!r}, are out of order in the file: is it damaged there?"


def _claims(download: Download) -> list[_Claim]:
    """The columns that can be held against the matrix."""
    kinds = download.genes["feature_type"].str.lower()
    claims = []
    for column in download.obs.columns:
        name, values = str(column).lower(), download.obs[column]
        if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
            continue
        if download.platform == "xenium" and name in _XENIUM:
            features = kinds == _XENIUM[name].lower()
        elif download.platform != "xenium" and name in (*_COUNTS, *_GENES):
            features = kinds.notna()
        else:
            continue
        if features.any():
            declared, mask = values.to_numpy(np.float64, na_value=np.nan), features.to_numpy().astype(np.float64)
            claims.append(_Claim(str(column), declared, mask, name in _GENES, np.zeros(len(declared))))
    return claims
