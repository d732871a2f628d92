"""How far two annotations of the same cells agree: types, rankings of types, and confidence.

Letters: n cells, T types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.celltype.base import Annotation

LARGEST_K: Final = 10
SMALLEST_PROBABILITY: Final = 1e-6  # of a type, before its logarithm


@dataclass(frozen=True)
class Agreement:
    """How far the types of some expression are those of the actual expression of the same cells.

    Args:
        accuracy: Share of the typed cells that are given the same type.
        balanced_accuracy: The same, averaged over the actual types instead of the cells.
        top_k: For k = 1, 2, ..., the share of the k likeliest types that both have in common, averaged over cells;
            empty for annotators without probabilities.
        log_loss: Mean of -log P(actual type), in nats; None without probabilities.
        confidence: Mean probability of the likeliest type.
        assigned: Share of the typed cells that are given any type.
        same: (n,) for every typed cell, whether it is given the same type.
    """

    accuracy: float
    balanced_accuracy: float
    top_k: tuple[float, ...]
    log_loss: float | None
    confidence: float
    assigned: float
    same: NDArray[np.bool_]

    def facts(self) -> dict[str, Any]:
        """For `metrics.json`, where the single cells don't go."""
        return {
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "top_k": list(self.top_k),
            "log_loss": self.log_loss,
            "confidence": self.confidence,
            "assigned": self.assigned,
        }


def compare_types(actual: Annotation, found: Annotation) -> Agreement:
    """Compare two annotations of the same cells by the same annotator.

    Args:
        actual: Every cell has a type.
        found: Of predicted, sampled or thinned expression.

    Returns:
        The agreement; zeros where there are no cells.
    """
    same = found.codes == actual.codes
    recalls = [same[actual.codes == code].mean() for code in np.unique(actual.codes)]
    top_k: tuple[float, ...] = ()
    log_loss = None
    ours, theirs = actual.log_probabilities, found.log_probabilities
    if ours is not None and theirs is not None and len(same):
        top_k = top_k_overlap(ours[:, :-1], theirs[:, :-1])
        chosen = theirs[np.arange(len(same)), actual.codes]
        log_loss = float(-np.maximum(chosen, np.log(SMALLEST_PROBABILITY)).mean())
    return Agreement(
        accuracy=_mean(same),
        balanced_accuracy=_mean(np.array(recalls)),
        top_k=top_k,
        log_loss=log_loss,
        confidence=_mean(found.confidence),
        assigned=_mean(found.codes != len(found.names) - 1),
        same=same,
    )


def top_k_overlap(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> tuple[float, ...]:
    """Share of the k likeliest types that two rankings have in common, k = 1 to 10 or to the number of types.

    Types that are equally likely are put in random order, on either side by itself, and the share is the expected one:
    otherwise types that nobody believes in would agree by their place in the table.

    Args:
        ours: (n, T) weights of the types, such as log probabilities.
        theirs: (n, T) the same of other expression of the same cells.

    Returns:
        The share for each k, averaged over cells.
    """
    largest = min(LARGEST_K, ours.shape[1])
    both = [_among_largest(ours, largest), _among_largest(theirs, largest)]
    return tuple(float((both[0][k] * both[1][k]).sum(axis=1).mean() / (k + 1)) for k in range(largest))


def _among_largest(weights: NDArray[np.float32], largest: int) -> list[NDArray[np.float64]]:
    """For k = 1 to `largest`, (n, T) the probability that a type is among the k first, ties in random order."""
    falling = -np.sort(-weights, axis=1)
    inclusion = []
    for k in range(1, largest + 1):
        last = falling[:, k - 1, None]
        above, level = weights > last, weights == last
        room = (k - above.sum(axis=1, keepdims=True)) / level.sum(axis=1, keepdims=True)
        inclusion.append(np.where(above, 1.0, np.where(level, room, 0.0)))
    return inclusion


def _mean(values: NDArray[Any]) -> float:
    """The mean, 0 of nothing."""
    return float(values.mean()) if len(values) else 0.0
