"""Nearest cells in the space of embeddings.

Letters: n cells of a sample, m other cells, D features, K nearest cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.neighbors import NearestNeighbors

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_EXACT: Final = 8_192  # cells up to which all distances are computed, as in scanpy


class NearestCells:
    """Search among the cells of a sample: exact in a small sample, by pynndescent in a large one."""

    def __init__(self, values: NDArray[np.float32], num: int, seed: int) -> None:
        """Prepare the search.

        Args:
            values: (n, D) embeddings of the sample.
            num: Neighbours of each cell in the graph of the sample, at most n - 1.
            seed: Seed of the approximate search.
        """
        self._values, self._num = values, num
        self.is_exact = len(values) <= MAX_EXACT
        self._index: Any
        if self.is_exact:
            self._index = NearestNeighbors(algorithm="brute").fit(values)
        else:
            from pynndescent import NNDescent  # comes with umap-learn

            self._index = NNDescent(values, n_neighbors=num + 1, random_state=seed, n_jobs=1)

    def graph(self) -> csr_matrix:
        """(n, n) distances of the cells of the sample to their nearest others; all rows have the same number of entries."""
        size = len(self._values)
        if self.is_exact:
            distances, found = self._index.kneighbors(self._values, self._num + 1)
        else:
            found, distances = self._index.neighbor_graph
        is_other = found != np.arange(size)[:, None]
        # Among several cells of the same embedding, a cell need not be among its own neighbours.
        is_other[is_other.all(axis=1), -1] = False
        found, distances = found[is_other], distances[is_other].astype(np.float32)
        return csr_matrix((distances, found, np.arange(size + 1) * self._num), shape=(size, size))

    def find(self, values: NDArray[np.float32], num: int) -> NDArray[np.int64]:
        """Find the nearest cells of the sample.

        Args:
            values: (m, D) embeddings.
            num: K, at most n.

        Returns:
            (m, K) positions in the sample, the nearest first.
        """
        if self.is_exact:
            return np.asarray(self._index.kneighbors(values, num, return_distance=False), dtype=np.int64)
        found, _ = self._index.query(values, k=num)
        return np.asarray(found, dtype=np.int64)


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
