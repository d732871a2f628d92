"""Weights with which an adapted model mixes its predictions, fitted to cells that nothing else was fitted to.

The prediction is

    wide + w_profile (profile - wide) + w_blend (blend - wide)
         + w_smoother (smoother - blend) + w_correction (network - smoother),

with the mean within the widest circle, the profile of the slide, the blend of neighbour means, the network's smoother and its
corrected prediction. Wide means rank rare genes better than narrow ones.

Each difference is split into a part that all genes have in common and a remainder, with weights of their own. A cell with more
counts expresses more genes, and the depth of the cells around a place tells how deep the hidden cell is. How well they tell it
has nothing to do with how well they tell which genes are expressed. The profile has no weight of its depth, because depth differs
between the areas of a slide, and cells may be predicted in an area that no weight was fitted to.

The prediction is linear in the weights. The squared error of a mean and the log loss of a probability are therefore convex. A
composition is divided by its sum after negative fractions are set to zero, so its log loss is convex only where there are none.

Letters: M cells, P genes, D differences.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.optimize import minimize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.inference.neighbourhood.visible_cells import GeneStats

    Values = NDArray[np.float32]
    Floats = NDArray[np.float64]
    Loss = Callable[[Floats], tuple[float, Floats]]  # value and gradient, for D weights

# Of correction, which was shrunk for other slides and may be too small for this one, and of the others, which were fitted to this
# slide. Larger ones extrapolate differences between the cells that weights are fitted to.
MAX_CORRECTION, MAX_WEIGHT = 6.0, 1.0
# Cells that the weights of the ridge count as: few cells are in one area, and tell little about the others.
PRIOR_CELLS = 50.0
# Fraction of the slide's composition in every expectation, as in the deviance of an evaluation
COMPOSITION_FLOOR = 0.05
_SMALLEST_PROBABILITY = 1e-4
_TINY = 1e-12


class Weights(NamedTuple):
    """Weights of one output."""

    profile: float  # of the difference between profile and wide mean
    blend: float  # of the difference between blend and wide mean
    smoother: float  # of what the smoother predicts differently from the blend
    correction: float  # of what the network predicts differently from the smoother
    # of the part of the last three differences that genes have in common; without effect in a composition
    blend_depth: float
    smoother_depth: float
    correction_depth: float


NUM_DIFFERENCES = 4
RIDGE_WEIGHTS = Weights(0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0)  # the blend alone, as in the baseline `ridge`
NETWORK_WEIGHTS = Weights(0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)  # the network's own prediction
BOUNDS = [(0.0, MAX_CORRECTION if name.startswith("correction") else MAX_WEIGHT) for name in Weights._fields]


def shrink(weights: Weights, num_cells: int) -> Weights:
    """Shrink weights towards those of the ridge, as if these had been found on `PRIOR_CELLS` other cells."""
    part = num_cells / (num_cells + PRIOR_CELLS)
    pairs = zip(weights, RIDGE_WEIGHTS, strict=True)
    return Weights(*(ridge + part * (own - ridge) for own, ridge in pairs))


def depth_patterns(stats: GeneStats) -> tuple[Values | None, ...]:
    """How more counts in a cell change each of `slide_adaptation.OUTPUTS`, up to a factor for each cell.

    Genes that every cell expresses hardly change; a probability changes by p (1 - p) for each unit of its logit.

    Args:
        stats: Statistics of P genes.

    Returns:
        Three patterns of length 1 over the genes; None for the composition, on which depth has no effect.
    """
    silent = 1 - np.minimum(stats.fraction, 1)
    patterns = (stats.mean * silent, stats.fraction * silent)
    mean, expressed = ((each / max(float(np.linalg.norm(each)), _TINY)).astype(np.float32) for each in patterns)
    return mean, expressed, None


def add_weighted(differences: Sequence[Values], weights: Weights, pattern: Values | None) -> Values:
    """Sum of the differences, weighted.

    Args:
        differences: Four arrays whose last axis are P genes; without the first, three.
        weights: Their weights.
        pattern: (P,) from `depth_patterns`.

    Returns:
        An array of the same shape.
    """
    total = np.zeros_like(differences[0])
    depth_weights = (0.0, *weights[NUM_DIFFERENCES:])
    pairs = list(zip(weights[:NUM_DIFFERENCES], depth_weights, strict=True))[-len(differences) :]
    for own, (weight, _) in zip(differences, pairs, strict=True):
        total += np.float32(weight) * own
    if pattern is not None:
        extra = (np.float32(depth - weight) for weight, depth in pairs)
        common = sum((each * (own @ pattern) for own, each in zip(differences, extra, strict=True)), np.float32(0))
        total += np.multiply.outer(common, pattern)
    return total


def split_differences(differences: Values, pattern: Values | None, depth: Values | None = None) -> Values:
    """Split differences into what the weights of `Weights` belong to.

    Args:
        differences: (4, M, P).
        pattern: (P,) from `depth_patterns`.
        depth: (4, M) products of the differences with the pattern, where the P genes are only some of those of the slide.

    Returns:
        (7, M, P), or the same (4, M, P) without a pattern.
    """
    if pattern is None:
        return differences
    depth = differences @ pattern if depth is None else depth
    common = depth[..., None] * pattern
    return np.concatenate([differences - common, common[1:]])


def squared_error(differences: Values, target: Values) -> Loss:
    """Squared error of a mean.

    Args:
        differences: (D, n) values of the differences.
        target: (n,) actual values minus those of the wide mean.

    Returns:
        The sum of squared errors and its gradient, for D weights.
    """
    gram, moment = (differences @ differences.T).astype(np.float64), (differences @ target).astype(np.float64)
    squares = float(np.square(target).sum(dtype=np.float64))

    def loss(weights: Floats) -> tuple[float, Floats]:
        """Loss and its gradient."""
        left = gram @ weights
        return float(squares + weights @ (left - 2 * moment)), 2 * (left - moment)

    return loss


def log_loss(differences: Values, wide: Values, is_expressed: NDArray[np.bool_]) -> Loss:
    """Log loss of probabilities.

    Args:
        differences: (D, n) values of the differences.
        wide: (n,) probabilities of the wide mean.
        is_expressed: (n,) whether the gene is expressed.

    Returns:
        The sum of the cross-entropies and its gradient, for D weights.
    """
    sign = np.where(is_expressed, np.float32(1), np.float32(-1))
    start = np.where(is_expressed, wide, 1 - wide)

    def loss(weights: Floats) -> tuple[float, Floats]:
        """Loss and its gradient."""
        # Probability of what is the case
        likelihood = start + sign * (weights.astype(np.float32) @ differences)
        inside = (likelihood > _SMALLEST_PROBABILITY) & (likelihood < 1 - _SMALLEST_PROBABILITY)
        np.clip(likelihood, _SMALLEST_PROBABILITY, 1 - _SMALLEST_PROBABILITY, out=likelihood)
        slope = np.where(inside, -sign / likelihood, np.float32(0))
        return -float(np.log(likelihood).sum(dtype=np.float64)), (differences @ slope).astype(np.float64)

    return loss


def composition_loss(
    differences: Values, wide: Values, profile: Values, counts: csr_matrix, multiples: Values | None = None
) -> Loss:
    """Log loss of compositions, of which negative fractions become zero.

    Args:
        differences: (D, M, P) differences.
        wide: (M, P) fractions of the wide mean.
        profile: (P,) fractions of the slide, whose sum, each times its multiple, is 1.
        counts: (M, P) counts.
        multiples: (P,) number of genes that each gene stands for; one if absent.

    Returns:
        The sum of the cross-entropies and its gradient, for D weights.
    """
    row = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    multiples = np.ones(counts.shape[1], np.float32) if multiples is None else multiples
    column = counts.indices
    number = counts.data.astype(np.float32) * multiples[column]
    flat = differences.reshape(len(differences), -1)

    def loss(weights: Floats) -> tuple[float, Floats]:
        """Loss and its gradient."""
        fraction = wide + np.tensordot(weights.astype(np.float32), differences, 1)
        is_positive = fraction > 0
        total = np.maximum((fraction * is_positive) @ multiples, np.float32(_TINY))
        composition = np.maximum(fraction[row, column], 0) / total[row]
        expected = (1 - COMPOSITION_FLOOR) * composition + COMPOSITION_FLOOR * profile[column] + np.float32(_TINY)
        slope = -(1 - COMPOSITION_FLOOR) * number / expected
        # A larger fraction of one gene makes those of the others smaller.
        others = np.bincount(row, slope * composition, minlength=len(total)).astype(np.float32)
        gradient = np.multiply.outer(-others, multiples)
        gradient[row, column] += slope
        gradient *= is_positive / total[:, None]
        return -float((number * np.log(expected)).sum(dtype=np.float64)), (flat @ gradient.ravel()).astype(np.float64)

    return loss


def sum_losses(losses: Sequence[Loss]) -> Loss:
    """The sum of losses of different cells."""

    def loss(weights: Floats) -> tuple[float, Floats]:
        """Loss and its gradient."""
        found = [each(weights) for each in losses]
        return sum(value for value, _ in found), np.sum([gradient for _, gradient in found], axis=0)

    return loss


def minimise(loss: Loss, num_differences: int, start: Weights = RIDGE_WEIGHTS) -> tuple[float, Weights]:
    """Find the weights with the smallest loss within `BOUNDS`.

    Args:
        loss: The loss.
        num_differences: D; with 4, a difference and its depth have the same weight.
        start: First weights; the loss that is found is never above theirs.

    Returns:
        The loss, and the weights.
    """
    first = np.asarray(start)[:num_differences]
    scale = max(abs(loss(first)[0]), _TINY)  # the stopping rule of the solver is not relative in its gradient

    def scaled(weights: Floats) -> tuple[float, Floats]:
        """The loss in units of its first value."""
        value, gradient = loss(weights)
        return value / scale, gradient / scale

    found = minimize(
        scaled,
        first,
        jac=True,
        method="L-BFGS-B",
        bounds=BOUNDS[:num_differences],
        options={"ftol": 1e-8, "gtol": 1e-7},
    )
    weights = found.x.tolist()
    if len(weights) == NUM_DIFFERENCES:
        weights += weights[1:]
    return float(found.fun) * scale, Weights(*weights)
