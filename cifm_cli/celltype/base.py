"""What an annotator is: the seam at which other cell typers can be plugged in.

Letters: N cells, G genes, T types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from scipy.special import logsumexp

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

UNASSIGNED: Final = "unassigned"
TYPING_SUM: Final = 10_000.0  # what annotators expect expression to be normalised to


@dataclass(frozen=True)
class Annotation:
    """The types of some cells.

    Args:
        names: T + 1 names; the last is `unassigned`.
        codes: (N,) positions in `names`.
        scores: (N,) confidence in [0, 1].
        log_probabilities: (N, T + 1) natural logarithms; the last is that of no known type, minus infinity for
            annotators that don't weigh it. None for annotators that give no probabilities.
    """

    names: tuple[str, ...]
    codes: NDArray[np.int64]
    scores: NDArray[np.float32]
    log_probabilities: NDArray[np.float32] | None = None

    @property
    def labels(self) -> NDArray[Any]:
        """(N,) names."""
        return np.array(self.names, dtype=object)[self.codes]

    @property
    def confidence(self) -> NDArray[np.float32]:
        """(N,) probability of the likeliest type, called or not; the score where there are no probabilities."""
        if self.log_probabilities is None:
            return self.scores
        confidence: NDArray[np.float32] = np.exp(self.log_probabilities[:, :-1].max(axis=1))
        return confidence

    def take(self, rows: NDArray[Any]) -> Annotation:
        """The types of some of the cells; `rows` are positions or a mask."""
        weighed = self.log_probabilities
        return Annotation(self.names, self.codes[rows], self.scores[rows], None if weighed is None else weighed[rows])

    def of_type(self, name: str) -> NDArray[np.int64]:
        """UnlabelledCells of one type, ascending."""
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


@dataclass(frozen=True)
class UnlabelledCells:
    """Unlabelled cells of the slide to be annotated: an annotator may learn from them, and must fit their genes.

    Args:
        name: The slide's.
        expression: (N, G) log-normalised to 10,000.
        symbols: G gene symbols.
    """

    name: str
    expression: csr_matrix
    symbols: tuple[str, ...]


class OpenAnnotator(Protocol):
    """What an entry point of the group `cifm.annotators` names."""

    def __call__(self, path: Path | None, cells: UnlabelledCells, *, trust_pickle: bool) -> Annotator:
        """Load or fit an annotator.

        Args:
            path: What the user wrote after `NAME:`, or None.
            cells: Of the slide to be annotated.
            trust_pickle: Whether the user vouches for pickles.

        Returns:
            The annotator.

        Raises:
            CifmError: The path can't be used, or the slide lacks too many of the annotator's genes.
        """
        ...


def call_types(
    names: tuple[str, ...],
    log_weights: NDArray[np.floating[Any]],
    is_void: NDArray[np.bool_],
    scores: NDArray[np.floating[Any]] | None = None,
    threshold: float = 0.0,
) -> Annotation:
    """Make an annotation of an annotator's weights.

    Args:
        names: T types.
        log_weights: (N, T) logarithms, up to a constant per cell.
        is_void: (N,) cells without any expression to tell from; they are `unassigned`, every type as likely.
        scores: (N,) confidence in the likeliest type; its probability when absent.
        threshold: Score below which a cell is `unassigned`.

    Returns:
        The annotation.
    """
    log_weights = np.where(is_void[:, None], 0.0, log_weights)
    normalised = log_weights - logsumexp(log_weights, axis=1, keepdims=True)
    best = log_weights.argmax(axis=1)
    found = np.exp(normalised.max(axis=1)) if scores is None else scores
    nothing = np.full((len(best), 1), -np.inf)
    return Annotation(
        names=(*names, UNASSIGNED),
        codes=np.where(is_void | (found < threshold), len(names), best),
        scores=np.where(is_void, 0.0, found).astype(np.float32),
        log_probabilities=np.concatenate([normalised, nothing], axis=1).astype(np.float32),
    )
