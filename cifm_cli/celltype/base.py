"""The annotator interface that plugins implement, and the annotation that an annotator returns.

Letters: N cells, G genes, T types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from scipy.special import logsumexp

from cifm_cli.celltype.taxonomy import UNASSIGNED, load_taxonomy
from cifm_cli.errors import CifmError

__all__ = ["TYPING_SUM", "UNASSIGNED", "Annotation", "Annotator", "OpenAnnotator", "UnlabelledCells", "call_types"]

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

TYPING_SUM: Final = 10_000.0  # target sum of the log-normalised expression that annotators are given


@dataclass(frozen=True)
class Annotation:
    """The types of some cells."""

    names: tuple[str, ...]  # T + 1 names; the last is `unassigned`
    codes: NDArray[np.int64]  # (N,) positions in `names`
    scores: NDArray[np.float32]  # (N,) confidence in [0, 1]
    # (N, T + 1) natural logarithms; the last column is that of no known type, minus infinity for annotators that do not
    # model it. None for annotators without probabilities.
    log_probabilities: NDArray[np.float32] | None = None
    # (N,) unassigned cells of a lineage that the annotator does not have; None for annotators that do not check it.
    is_outside: NDArray[np.bool_] | None = None

    @property
    def labels(self) -> NDArray[Any]:
        """(N,) name of the type of each cell."""
        return np.array(self.names, dtype=object)[self.codes]

    @property
    def confidence(self) -> NDArray[np.float32]:
        """(N,) probability of the likeliest type, also of unassigned cells; the score without probabilities."""
        if self.log_probabilities is None:
            return self.scores
        confidence: NDArray[np.float32] = np.exp(self.log_probabilities[:, :-1].max(axis=1))
        return confidence

    def take(self, rows: NDArray[Any]) -> Annotation:
        """Select some of the cells.

        Args:
            rows: Positions, or a mask of shape (N,).

        Returns:
            Their annotation.
        """
        logs, outside = (None if own is None else own[rows] for own in (self.log_probabilities, self.is_outside))
        return Annotation(self.names, self.codes[rows], self.scores[rows], logs, outside)

    def of_type(self, name: str) -> NDArray[np.int64]:
        """Find the cells of one type, and of the types below it in the taxonomy.

        Args:
            name: One of `names`.

        Returns:
            Their positions, ascending.
        """
        taxonomy = load_taxonomy()
        is_below = np.array([taxonomy.is_below(other, name) for other in self.names])
        return np.flatnonzero(is_below[self.codes])

    def composition(self) -> NDArray[np.int64]:
        """Count the cells of each type: (T + 1,) in the order of `names`."""
        return np.bincount(self.codes, minlength=len(self.names))


class Annotator(Protocol):
    """A fitted or loaded model that assigns types to cells; the same cells always get the same types."""

    @property
    def names(self) -> tuple[str, ...]:
        """Types that it assigns, then `unassigned`."""
        ...

    def annotate(self, expression: csr_matrix, symbols: Sequence[str]) -> Annotation:
        """Assign types to cells.

        Args:
            expression: (N, G) log-normalised to 10,000.
            symbols: G gene symbols.

        Returns:
            A type for every cell, or `unassigned`.
        """
        ...


@dataclass(frozen=True)
class UnlabelledCells:
    """Cells of the slide that is to be annotated: some annotators are fitted to them, all check their genes."""

    name: str  # name of the slide
    expression: csr_matrix  # (N, G) log-normalised to 10,000
    symbols: tuple[str, ...]  # G gene symbols
    tissue: str | None = None  # description of the tissue, which narrows the types of some annotators
    spacing_um: float | None = None  # median distance to the nearest other cell, by which spots are recognised


class OpenAnnotator(Protocol):
    """The function that an entry point of the group `cifm.annotators` refers to."""

    def __call__(self, path: Path | None, cells: UnlabelledCells, *, trust_pickle: bool) -> Annotator:
        """Load or fit an annotator.

        Args:
            path: The part of `NAME:PATH` after the colon, or None.
            cells: Cells of the slide to be annotated.
            trust_pickle: Whether the user trusts pickles.

        Returns:
            The annotator.

        Raises:
            CifmError: The path cannot be used, or the slide lacks too many of the annotator's genes.
        """
        ...


def call_types(
    names: tuple[str, ...],
    log_weights: NDArray[np.floating[Any]],
    is_void: NDArray[np.bool_],
    scores: NDArray[np.floating[Any]] | None = None,
    threshold: float = 0.0,
) -> Annotation:
    """Assign to every cell its likeliest type.

    Args:
        names: T types.
        log_weights: (N, T) log probabilities, up to a constant per cell.
        is_void: (N,) cells that express none of the annotator's genes; they are `unassigned`, with equal probabilities.
        scores: (N,) confidence in the likeliest type; its probability when absent.
        threshold: Score below which a cell is `unassigned`.

    Returns:
        The annotation.

    Raises:
        CifmError: A log probability is NaN.
    """
    log_weights = np.where(is_void[:, None], 0.0, log_weights)  # annotators may return anything for void cells
    # In logarithms, as probabilities of unlikely types underflow.
    normalised = log_weights - logsumexp(log_weights, axis=1, keepdims=True)
    if np.isnan(normalised).any():
        raise CifmError("the scores of the annotator are no numbers", "its model is damaged: copy its file anew")
    likeliest = log_weights.argmax(axis=1)
    confidence = np.exp(normalised.max(axis=1)) if scores is None else scores
    no_known_type = np.full((len(likeliest), 1), -np.inf)
    return Annotation(
        names=(*names, UNASSIGNED),
        codes=np.where(is_void | (confidence < threshold), len(names), likeliest),
        scores=np.where(is_void, 0.0, confidence).astype(np.float32),
        log_probabilities=np.concatenate([normalised, no_known_type], axis=1).astype(np.float32),
    )
