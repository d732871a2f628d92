"""Checksums of cells: one number per cell, which depends on its counts and the Ensembl ids of its genes.

The checksum does not depend on the order of the genes or of the cells. It detects damage, changes by other programs and
cells that occur in two slides. It does not protect against deliberate forgery.

Letters: N cells, G genes.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.jit import compiled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix


def gene_keys(gene_ids: Sequence[str]) -> NDArray[np.uint64]:
    """(G,) random but reproducible number of each Ensembl id."""
    digests = b"".join(hashlib.blake2b(gene.encode(), digest_size=8).digest() for gene in gene_ids)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


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
                # The finaliser of SplitMix64 (Steele et al. 2014): each bit of the input changes each bit of the output.
                mixed = keys[indices[position]] ^ (value * np.uint64(0x9E3779B97F4A7C15))
                mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                total += mixed ^ (mixed >> np.uint64(31))
        sums[row] = total
    return sums
