"""What an annotator is: the seam at which other cell typers can be plugged in.

Letters: N cells, G genes, T types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

UNASSIGNED: Final = "unassigned"


@dataclass(frozen=True)
class Annotation:
    """The types of some cells.

    Args:
        names: T + 1 names; the last is `unassigned`.
        codes: (N,) positions in `names`.
        scores: (N,) confidence in [0, 1].
    """

    names: tuple[str, ...]
    codes: NDArray[np.int64]
    scores: NDArray[np.float32]

    @property
    def labels(self) -> NDArray[Any]:
        """(N,) names."""
        return np.array(self.names, dtype=object)[self.codes]

    def of_type(self, name: str) -> NDArray[np.int64]:
        """Cells of one type, ascending."""
        return np.flatnonzero(self.codes == self.names.index(name))

    def composition(self) -> NDArray[np.int64]:
        """(T + 1,) number of cells of each type, in the order of `names`."""
        return np.bincount(self.codes, minlength=len(self.names))


class Annotator(Protocol):
    """Says what cells are. It is fitted or loaded before, and the same cells always get the same answer."""

    @property
    def names(self) -> tuple[str, ...]:
        """Types it can give, then `unassigned`."""
        ...

    def annotate(self, expression: csr_matrix, symbols: Sequence[str]) -> Annotation:
        """Name cells.

        Args:
            expression: (N, G) log-normalised to 10,000.
            symbols: G gene symbols.

        Returns:
            A type for every cell, or `unassigned`.
        """
        ...
