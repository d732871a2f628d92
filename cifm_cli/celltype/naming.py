"""Naming of cells from the probabilities of types: as deeply in the tree as the probability reaches.

Letters: N cells, J types with a probability, T names (types and those above them).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from cifm_cli.celltype.base import UNASSIGNED, Annotation
from cifm_cli.celltype.taxonomy import load_taxonomy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]


# Fitted to simulated cells of three tissues on random parts of one panel (pancreas, 377 genes), with profiles of other
# sources than those of the annotator: benchmarks/bench_annotators.py. Profiles of another tissue and assay make errors
# that the likelihood does not know of.
CALIBRATION_SLOPE: Final = 0.41
CALIBRATION_OFFSET: Final = -0.18
_MAX_LOGIT: Final = 7.0
MIN_PROBABILITY: Final = 0.3  # of a name, before calibration; the rest is that no known type explains the cell


def calibrate(probabilities: Numbers) -> Numbers:
    """Turn the probabilities of names into the frequency with which such names are right (Platt scaling).

    Args:
        probabilities: Any shape, from 0 to 1.

    Returns:
        Calibrated probabilities; the order stays the same.
    """
    bounded = np.clip(probabilities, 1e-6, 1 - 1e-6)
    logits = np.clip(np.log(bounded / (1 - bounded)), -_MAX_LOGIT, _MAX_LOGIT)
    calibrated: Numbers = 1 / (1 + np.exp(-(CALIBRATION_SLOPE * logits + CALIBRATION_OFFSET)))
    return calibrated


@dataclass(frozen=True)
class NamingTree:
    """The names that cells can get."""

    names: tuple[str, ...]  # T names, then `unassigned`
    contains: NDArray[np.float64]  # (J, T) 1 where a name is a type or one above it
    depth: NDArray[np.int64]  # (T,) number of names above a name, and itself

    def name(self, probabilities: Numbers, threshold: float) -> Annotation:
        """Name cells.

        Args:
            probabilities: (N, J) of the types; what is missing to 1 is the probability of no known type.
            threshold: At least one half; the probability of a name, with the types below it, from which it is used.

        Returns:
            The deepest name of each cell with such a probability, and its calibrated probability; that of the likeliest name
            for unassigned cells. In `log_probabilities`, the types below the name of a cell are part of it.
        """
        num_names = len(self.names) - 1
        own = np.zeros((len(probabilities), num_names + 1))
        columns = [self.names.index(name) for name in self._types]
        own[:, columns] = probabilities
        own[:, -1] = np.maximum(1 - probabilities.sum(axis=1), 0)
        mass = probabilities @ self.contains
        # Cells get a name by the types that may be named, and a score that also counts the probability of no known type.
        is_reached = (mass > threshold * np.maximum(probabilities.sum(axis=1, keepdims=True), 1e-12)) & (
            mass >= MIN_PROBABILITY
        )
        # Names above each other have increasing probabilities, so that at most one is the deepest.
        reached = np.column_stack([np.where(is_reached, self.depth, 0), np.full(len(own), 0.5)])  # 0.5: `unassigned`
        codes = reached.argmax(axis=1)
        is_named = codes < num_names
        cells = np.arange(len(codes))
        scores = np.column_stack([mass, own[:, -1]])[cells, codes]
        calibrated = np.where(is_named, calibrate(scores), scores)
        merged = np.where(self._is_below[codes], 0.0, own)
        # The other names share what the calibration takes from the name, or what it adds.
        merged[cells[is_named], codes[is_named]] = 0.0
        rest = merged.sum(axis=1)
        merged[:, -1] += np.where(is_named & (rest <= 0), 1.0, 0.0)
        merged *= np.where(is_named, (1 - calibrated) / np.where(rest > 0, rest, 1.0), 1.0)[:, None]
        merged[cells[is_named], codes[is_named]] = calibrated[is_named]
        with np.errstate(divide="ignore"):
            logs = np.log(merged).astype(np.float32)
        likeliest = mass.max(axis=1, initial=0.0)
        unnamed = np.where(likeliest > 0, calibrate(likeliest), 0.0)
        calibrated = np.where(is_named, calibrated, unnamed)
        return Annotation(self.names, codes.astype(np.int64), calibrated.astype(np.float32), logs)

    @property
    def _types(self) -> list[str]:
        """The J types, which are the first of the names that contain each."""
        if not len(self.contains):
            return []
        deepest = np.where(self.contains > 0, self.depth, 0).argmax(axis=1)
        return [self.names[position] for position in deepest]

    @property
    def _is_below(self) -> NDArray[np.bool_]:
        """(T + 1, T + 1) whether the second name is below the first."""
        taxonomy = load_taxonomy()
        rows = [[a != b and taxonomy.is_below(b, a) for b in self.names[:-1]] + [False] for a in self.names[:-1]]
        return np.array([*rows, [False] * len(self.names)], dtype=bool)


def naming_tree(types: Sequence[str]) -> NamingTree:
    """Collect the names that cells of some types can get.

    Args:
        types: J types.

    Returns:
        The types and all types above them, in the order of the taxonomy; types outside it follow.
    """
    taxonomy = load_taxonomy()
    used = {ancestor for name in types for ancestor in taxonomy.ancestors(name)}
    names = [name for name in taxonomy.parents if name in used] + [
        name for name in types if name not in taxonomy.parents
    ]
    contains = np.array([[taxonomy.is_below(name, other) for other in names] for name in types], dtype=np.float64)
    depth = np.array([len(taxonomy.ancestors(name)) for name in names], dtype=np.int64)
    return NamingTree((*names, UNASSIGNED), contains.reshape(len(types), len(names)), depth)
