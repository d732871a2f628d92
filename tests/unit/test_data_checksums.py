"""Laws of the checksums of cells."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, random

from cifm_cli.data.checksums import cell_checksums, gene_keys

GENES = tuple(f"ENSG{number:011d}" for number in range(30))
KEYS = gene_keys(GENES)


def draw_counts(seed: int) -> csr_matrix:
    """(20, 30) counts between 1 and 50, a third of them stored."""
    generator = np.random.default_rng(seed)
    counts = csr_matrix(random(20, 30, 0.3, format="csr", rng=generator))
    counts.data = generator.integers(1, 50, counts.nnz).astype(np.float32)
    return counts


@given(st.integers(0, 2**32 - 1))
def test_the_order_of_genes_and_cells_does_not_matter(seed: int) -> None:
    generator = np.random.default_rng(seed)
    counts = draw_counts(seed)
    rows, columns = generator.permutation(20), generator.permutation(30)
    permuted = cell_checksums(csr_matrix(counts[rows][:, columns]), gene_keys([GENES[column] for column in columns]))
    assert np.array_equal(permuted, cell_checksums(counts, KEYS)[rows])


@given(st.integers(0, 2**32 - 1), st.integers(0, 10**6))
def test_a_changed_count_changes_the_checksum_of_its_cell_alone(seed: int, choice: int) -> None:
    counts = draw_counts(seed)
    before = cell_checksums(counts, KEYS)
    changed = counts.copy()
    position = choice % counts.nnz
    changed.data[position] += 1
    row = int(np.searchsorted(counts.indptr, position, side="right")) - 1
    assert np.flatnonzero(cell_checksums(changed, KEYS) != before).tolist() == [row]


def test_two_counts_of_a_cell_that_change_places_change_its_checksum() -> None:
    first = csr_matrix(np.array([[1.0, 2.0]]))
    second = csr_matrix(np.array([[2.0, 1.0]]))
    keys = gene_keys(GENES[:2])
    assert cell_checksums(first, keys) != cell_checksums(second, keys)


def test_stored_zeros_and_64_bit_arrays_give_the_same_checksum() -> None:
    counts = draw_counts(0)
    stored = csr_matrix(
        (np.append(counts.data, 0.0), np.append(counts.indices, 3), counts.indptr + (np.arange(21) == 20)),
        shape=counts.shape,
    )
    wide = csr_matrix((counts.data.astype(np.float64), counts.indices.astype(np.int64), counts.indptr.astype(np.int64)))
    assert np.array_equal(cell_checksums(stored, KEYS), cell_checksums(counts, KEYS))
    assert np.array_equal(cell_checksums(wide, KEYS), cell_checksums(counts, KEYS))


def test_the_checksum_is_the_same_on_every_machine() -> None:
    counts = csr_matrix(np.array([[1.0, 0.0], [0.0, 0.0]]))
    assert cell_checksums(counts, gene_keys(["ENSG00000000003", "x"])).tolist() == [6424871465131183445, 0]
