"""Checksums of cells: one number per cell, which depends on its counts and the Ensembl ids of its genes.

The checksum does not depend on the order of the genes or of the cells. It detects damage, changes by other programs and
cells that occur in two slides. It does not protect against deliberate forgery.

Letters: N cells, G genes, K numbers per cell.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli.jit import compiled

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix


def gene_keys(gene_ids: Sequence[str]) -> NDArray[np.uint64]:
    """(G,) random but reproducible number of each Ensembl id."""
    return np.frombuffer(b"".join(map(_gene_digest, gene_ids)), dtype="<u8").astype(np.uint64)


@lru_cache(maxsize=1 << 17)  # an evaluation asks for the same genes in every fold
def _gene_digest(gene: str) -> bytes:
    return hashlib.blake2b(gene.encode(), digest_size=8).digest()


def cell_checksums(counts: csr_matrix, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Compute the checksum of each cell.

    Args:
        counts: (N, G) counts; they are compared in float32, and stored zeros count as absent.
        keys: (G,) from `gene_keys`.

    Returns:
        (N,) checksums. The checksum of a cell without counts is 0.
    """
    bits = np.ascontiguousarray(counts.data, dtype=np.float32).view(np.uint32)
    return _sum_rows(bits, counts.indices, counts.indptr, keys)


def content_sum(row_keys: NDArray[np.int64], values: NDArray[Any]) -> int:
    """Compute one checksum of numbers of all cells, which does not depend on the order of the cells.

    Args:
        row_keys: (N,) a distinct number of each cell, such as its row in the download.
        values: (N,) or (N, K) numbers of any type; floating-point numbers are compared bit by bit, but 0 equals -0.

    Returns:
        The checksum. Checksums of blocks of cells add up, modulo 2^64, to that of all cells.
    """
    numbers = np.ascontiguousarray(values)
    size = numbers.dtype.itemsize
    # As one type, so that the loop is compiled once.
    bits = numbers.view(f"u{size}").reshape(len(row_keys), -1).astype(np.uint64, copy=False)
    # The bits of -0; no integer is compared with it.
    negative_zero = 1 << (8 * size - 1) if numbers.dtype.kind == "f" else 0
    row_words = np.ascontiguousarray(row_keys, dtype=np.int64).view(np.uint64)
    return int(_sum_content(row_words, bits, np.uint64(negative_zero)))


def text_sum(texts: Iterable[str]) -> int:
    """One checksum of texts, which does not depend on their order."""
    return int(gene_keys(list(texts)).sum(dtype=np.uint64))


@compiled
def _mix(word: np.uint64) -> np.uint64:
    """The finaliser of SplitMix64 (Steele et al. 2014): each bit of the input changes each bit of the output."""
    mixed = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


@compiled
def _sum_content(row_keys: NDArray[np.uint64], bits: NDArray[Any], negative_zero: np.uint64) -> np.uint64:
    """The sum, modulo 2^64, of a mixed number for each row."""
    total = np.uint64(0)
    for row in range(len(row_keys)):
        inner = np.uint64(0)
        for column in range(bits.shape[1]):
            # The column enters too, so that exchanged numbers of a row change the sum.
            salt = np.uint64(column + 1) * np.uint64(0xD1B54A32D192ED03)
            word = np.uint64(bits[row, column])
            word = np.uint64(0) if word == negative_zero else word
            inner += _mix(word * np.uint64(0x9E3779B97F4A7C15) ^ salt)
        total += _mix(inner ^ _mix(row_keys[row] + np.uint64(0x9E3779B97F4A7C15)))
    return total


@compiled
def _sum_rows(
    bits: NDArray[np.uint32], indices: NDArray[np.int32], indptr: NDArray[np.int64], keys: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """(N,) sums, modulo 2^64, of a mixed number for each count. A sum does not depend on the order of its terms."""
    sums = np.zeros(len(indptr) - 1, dtype=np.uint64)
    for row in range(len(sums)):
        total = np.uint64(0)
        for position in range(indptr[row], indptr[row + 1]):
            value = np.uint64(bits[position])
            if value != 0:
                total += _mix(keys[indices[position]] ^ (value * np.uint64(0x9E3779B97F4A7C15)))
        sums[row] = total
    return sums
