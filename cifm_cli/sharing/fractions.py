"""Fractions of the neighbours by sample: of every cell, of every sample, and what perfect mixing of the samples gives.

Letters: N cells, S samples, k neighbours, R permutations.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cifm_cli import provenance
from cifm_cli.jit import compiled
from cifm_cli.report.terminal import progress
from cifm_cli.sharing.exact import num_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.sharing.cells import Cells, Rows
    from cifm_cli.sharing.neighbours import Neighbours


@dataclass(frozen=True)
class Fractions:
    """Fractions of the neighbours by sample."""

    cells: NDArray[np.float32]  # (N, S) fraction of the neighbours of each cell in each sample; rows sum to 1
    matrix: NDArray[np.float64]  # (S, S) mean over the cells of the sample in the row
    expected: NDArray[np.float64]  # (S, S) what perfect mixing gives, from the sizes of the samples
    mixed: NDArray[np.float64]  # (R, S, S) matrices with the samples permuted over the cells

    @property
    def log2_enrichment(self) -> NDArray[np.float64]:
        """(S, S) log2 of observed over expected; both are increased by `PSEUDO_FRACTION`."""
        return np.asarray(np.log2((self.matrix + PSEUDO_FRACTION) / (self.expected + PSEUDO_FRACTION)))


PSEUDO_FRACTION = 0.001  # a tenth of a neighbour of 100: differences between smaller fractions are not interpreted


@compiled
def _count_by_cell(
    found: NDArray[np.int64], codes: NDArray[np.int16], counts: NDArray[np.float32]
) -> None:  # pragma: no cover
    for i in range(found.shape[0]):
        for j in range(found.shape[1]):
            counts[i, codes[found[i, j]]] += 1


@compiled
def _count_pairs(  # pragma: no cover - compiled
    rows: NDArray[np.int64], found: NDArray[np.int64], codes: NDArray[np.int16], counts: NDArray[np.int64]
) -> None:
    for i in range(found.shape[0]):
        own = codes[rows[i]]
        for j in range(found.shape[1]):
            counts[own, codes[found[i, j]]] += 1


def compute_fractions(
    cells: Cells, database: Rows, neighbours: Neighbours, num_permutations: int, seed: int
) -> Fractions:
    """Count the neighbours by sample, block by block.

    Args:
        cells: The cells.
        database: Ascending rows of the cells that can be neighbours.
        neighbours: The search.
        num_permutations: R.
        seed: Seed of the permutations.

    Returns:
        The fractions.
    """
    k, num_samples = int(neighbours.facts["k"]), len(cells.samples)
    codes = cells.codes.astype(np.int16)
    permuted = _permute_codes(codes, database, num_permutations, seed)
    counts = np.zeros((cells.num_cells, num_samples), dtype=np.float32)
    mixed = np.zeros((num_permutations, num_samples, num_samples), dtype=np.int64)
    with ThreadPoolExecutor(num_threads()) as pool, progress("neighbours", cells.num_cells) as advance:
        for rows, found in neighbours.blocks:
            block = np.zeros((len(rows), num_samples), dtype=np.float32)
            _count_by_cell(found, codes, block)
            counts[rows] = block
            list(pool.map(lambda r: _count_pairs(rows, found, permuted[r], mixed[r]), range(num_permutations)))  # noqa: B023 - awaited
            advance(len(rows))
    counts /= k
    matrix = np.stack([counts[cells.codes == code].mean(axis=0, dtype=np.float64) for code in range(num_samples)])
    totals = np.maximum(mixed.sum(axis=2, keepdims=True), 1)
    return Fractions(counts, matrix, expected_fractions(cells.codes, database, num_samples), mixed / totals)


def expected_fractions(codes: NDArray[np.int64], database: Rows, num_samples: int) -> NDArray[np.float64]:
    """Compute the mean fractions that perfect mixing of the samples gives.

    Args:
        codes: (N,) sample of each cell.
        database: Rows of the cells that can be neighbours.
        num_samples: S.

    Returns:
        (S, S) fraction of the neighbours of cells of one sample (row) in each sample (column), the cell itself excluded.
    """
    available = np.bincount(codes[database], minlength=num_samples).astype(np.float64)
    share_stored = available / np.bincount(codes, minlength=num_samples)
    # A cell of the database is not its own neighbour; the other cells have the whole database around them.
    stored = (available[None, :] - np.eye(num_samples)) / (len(database) - 1)
    return np.asarray(share_stored[:, None] * stored + (1 - share_stored[:, None]) * available / len(database))


def mixing_p_values(fractions: Fractions) -> NDArray[np.float64]:
    """(S, S) fraction of the permutations in which two samples share at least as much as observed."""
    tolerance = 1e-9  # equal counts may differ in rounding
    at_least = (fractions.mixed >= fractions.matrix - tolerance).sum(axis=0)
    return np.asarray((1 + at_least) / (1 + len(fractions.mixed)))


def _permute_codes(codes: NDArray[np.int16], database: Rows, number: int, seed: int) -> NDArray[np.int16]:
    """(R, N) samples permuted over the cells of the database, and over the others, so that the sizes stay."""
    others = np.setdiff1d(np.arange(len(codes)), database, assume_unique=True)
    permuted = np.empty((number, len(codes)), dtype=np.int16)
    for repetition in range(number):
        generator = provenance.numpy_generator(seed, "sharing permutation", repetition)
        for rows in (database, others):
            permuted[repetition, rows] = generator.permutation(codes[rows])
    return permuted
