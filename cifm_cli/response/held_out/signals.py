"""What surroundings say of each gene, as changes of its log rate: signals whose weights all genes share.

Letters: R regions, G genes, J signals, P labels of neighbours, K radii.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.optimize import nnls

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.response.held_out.regions import Regions

    Numbers = NDArray[np.float64]

FLOOR_SHARE: Final = 0.02  # of the mean rate of all genes, added to rates before logarithms
MIN_BASE_SHARE: Final = 0.01  # of the mean rate of all genes, the smallest rate elsewhere
SPILL: Final = 0.2  # share of the neighbours' rates that a cell may contain
LABEL_PRIOR: Final = 0.5  # counts
TARGET_PRIOR: Final = 1.0  # counts
EXCESS_VARIANCE: Final = 0.3  # of log rates between regions, beyond that of counts
WEIGHT_PENALTY: Final = 0.01
NUM_POOLED: Final = 5  # signals that do not distinguish the labels: K shifts, the ridge regression, spilled counts


@dataclass(frozen=True)
class Split:
    """Regions that are fitted to, and what is known of the label from them."""

    regions: Regions
    fitted: NDArray[np.bool_]  # (R,)

    @cached_property
    def _weight(self) -> Numbers:
        weight = self.regions.depth * (self.fitted & self.regions.groups.is_square)
        return np.asarray(weight / weight.sum())

    def mean(self, values: Numbers) -> Numbers:
        """Mean over the fitted cells of values of regions, (R, ...) to (...)."""
        return np.asarray(np.tensordot(self._weight, values, axes=1))

    @cached_property
    def base(self) -> Numbers:
        """(G,) mean rates."""
        mean = self.mean(self.regions.rates)
        return np.asarray(np.maximum(mean, MIN_BASE_SHARE * mean.mean()))

    @cached_property
    def floor(self) -> float:
        """The rate that is added before logarithms."""
        return float(FLOOR_SHARE * self.base.mean())

    @cached_property
    def variance(self) -> Numbers:
        """(G,) variance of the rates of single cells."""
        return np.maximum(self.mean(self.regions.squares) - self.base**2, 0.0)


def signals(split: Split) -> Numbers:
    """Compute all signals.

    Args:
        split: The regions, relative to those that are fitted to.

    Returns:
        (J, R, G) changes of log rates: first `NUM_POOLED`, then one for each label of neighbours.
    """
    regions, base = split.regions, split.base
    found = [np.log1p(shift) - np.log1p(split.mean(shift)) for shift in regions.shifts]
    least = 0.05 * base + split.floor
    rates = np.maximum(base + regions.ridge - split.mean(regions.ridge), least)
    found.append(np.log((rates + least) / (base + least)))
    spilled = SPILL * split.mean(regions.adjacent)
    own = np.maximum(base - spilled, 0.2 * base) + split.floor
    found.append(np.log((own + SPILL * regions.adjacent) / (own + spilled)))
    for observed, expected in zip(regions.observed, regions.expected, strict=True):
        centre = np.log((split.mean(observed) + LABEL_PRIOR) / (split.mean(expected) + LABEL_PRIOR))
        found.append(np.log((observed + LABEL_PRIOR) / (expected + LABEL_PRIOR)) - centre)
    return np.stack(found)


def shared_weights(split: Split, of_signals: Numbers) -> Numbers:
    """Weights of the signals, shared by all genes.

    Args:
        split: The regions that are fitted to.
        of_signals: (J, R, G) the signals.

    Returns:
        (J,) weights, not negative, by least squares on log rates.
    """
    rows = np.flatnonzero(split.fitted)
    depth = split.regions.depth[rows, None]
    expected = split.base * depth
    target = np.log((split.regions.rates[rows] * depth + TARGET_PRIOR) / (expected + TARGET_PRIOR))
    weight = 1 / np.sqrt(1 / (expected + 1) + EXCESS_VARIANCE)
    x = np.stack([signal[rows] * weight for signal in of_signals]).reshape(len(of_signals), -1)
    gram = x @ x.T
    gram += WEIGHT_PENALTY * np.trace(gram) / len(gram) * np.eye(len(gram))
    return non_negative_least_squares(gram, x @ (target * weight).ravel())


def non_negative_least_squares(gram: Numbers, moment: Numbers) -> Numbers:
    """(J,) solution of least squares without negative weights, from (J, J) and (J,) sums of products."""
    factor = np.linalg.cholesky(gram + 1e-9 * max(float(np.trace(gram)), 1e-9) * np.eye(len(gram)))
    return np.asarray(nnls(factor.T, np.linalg.solve(factor, moment))[0])
