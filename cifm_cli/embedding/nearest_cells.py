"""Nearest cells in the space of embeddings, by computing all distances.

Letters: n cells of a sample, m other cells, D features, K nearest cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.neighbors import NearestNeighbors

if TYPE_CHECKING:
    from numpy.typing import NDArray


class NearestCells:
    """Search among the cells of a sample. The result does not depend on the number of threads."""

    def __init__(self, values: NDArray[np.float32]) -> None:
        """Take the sample.

        Args:
            values: (n, D) embeddings.
        """
        self._values = values
        self._index = NearestNeighbors(algorithm="brute").fit(values)

    def graph(self, num: int) -> csr_matrix:
        """Find the nearest others of each cell of the sample.

        Args:
            num: K, at most n - 1.

        Returns:
            (n, n) distances, with K entries in each row, the nearest first.
        """
        size = len(self._values)
        distances, found = self._index.kneighbors(self._values, num + 1)
        is_other = found != np.arange(size)[:, None]
        # Among several cells of the same embedding, a cell need not be among its own neighbours.
        is_other[is_other.all(axis=1), -1] = False
        found, distances = found[is_other], distances[is_other].astype(np.float32)
        return csr_matrix((distances, found, np.arange(size + 1) * num), shape=(size, size))

    def find(self, values: NDArray[np.float32], num: int) -> NDArray[np.int64]:
        """Find the nearest cells of the sample.

        Args:
            values: (m, D) embeddings.
            num: K, at most n.

        Returns:
            (m, K) positions in the sample, the nearest first.
        """
        return np.asarray(self._index.kneighbors(values, num, return_distance=False), dtype=np.int64)


class FoundNeighbours:
    """A search whose result is known, in the form that `scanpy.pp.neighbors` takes as its `transformer`."""

    def __init__(self, distances: csr_matrix) -> None:
        """Take the result.

        Args:
            distances: (n, n) distances to the nearest other cells, equally many for each.
        """
        self._distances = distances

    def get_params(self) -> dict[str, int]:
        """Number of neighbours with the cell itself."""
        return {"n_neighbors": int(self._distances.indptr[1]) + 1}

    def fit_transform(self, _values: object) -> csr_matrix:
        """The known distances."""
        return self._distances
