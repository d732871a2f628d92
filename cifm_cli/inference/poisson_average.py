"""P(expressed) and composition of a prediction, each averaged with what the other implies.

If a cell of depth N has Poisson counts with the composition c, it expresses gene g with the probability

    p_g = 1 - exp(-N c_g).

A model predicts both, from losses of their own, so part of their errors cancels in an average. Depth is not predicted; it is the
one at which the composition gives as many expressed genes as P(expressed) does. Counts of a gene that nearly every cell
expresses vary more than Poisson counts, and its p_g hardly depends on c_g, so the weight of the average falls with the fraction
of the cells that express the gene.

Letters: M cells, P genes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.inference.prediction import Prediction

    Values = NDArray[np.float32]

# Weights of what the other output implies, for a gene that few cells express. docs/study.md has other values.
EXPRESSED_WEIGHT, COMPOSITION_WEIGHT = 0.2, 0.1
MAX_PROBABILITY = 0.999  # whose rate is still told well by a rounded probability
MAX_STEPS = 30  # of Newton's method; five are usual for a panel, and fifteen for a whole transcriptome
MAX_DEPTH = 1e9  # finite where even the highest depth gives too few genes
_TOLERANCE = 1e-4  # relative error of the number of expressed genes
_TINY = np.float32(1e-30)


def average_poisson(prediction: Prediction, fraction: NDArray[np.floating]) -> Prediction:
    """Average P(expressed) and composition with what each implies of the other.

    Args:
        prediction: Prediction of M cells. One without a composition is returned as it is, and so are the cells without any
            expected count or expressed gene.
        fraction: (P,) fraction of the cells of the slide that express each gene.

    Returns:
        The prediction; a row of the composition keeps its sum.
    """
    if prediction.composition is None:
        return prediction
    composition, expressed = prediction.composition, prediction.expressed
    sums = composition.sum(axis=1, keepdims=True)
    rates = rates_of(expressed)
    depths = rates.sum(axis=1, keepdims=True)
    known = (sums > 0) & (depths > 0)
    normalised = composition / np.maximum(sums, _TINY)
    implied = at_same_depth(normalised, expressed)
    silent = (1 - fraction).clip(0, 1).astype(np.float32)
    mixed = normalised + np.float32(COMPOSITION_WEIGHT) * silent * (rates / np.maximum(depths, _TINY) - normalised)
    mixed *= sums / np.maximum(mixed.sum(axis=1, keepdims=True), _TINY)
    return replace(
        prediction,
        expressed=np.where(known, expressed + np.float32(EXPRESSED_WEIGHT) * silent * (implied - expressed), expressed),
        composition=np.where(known, mixed, composition),
    )


def rates_of(expressed: Values) -> Values:
    """Expected Poisson counts of genes that are expressed with given probabilities, of any shape."""
    return np.asarray(-np.log1p(-np.minimum(expressed, np.float32(MAX_PROBABILITY))))


def at_same_depth(composition: Values, expressed: Values) -> Values:
    """P(expressed) that a composition implies at the depth at which it gives as many expressed genes as other probabilities.

    Args:
        composition: (M, P), rows sum to 1.
        expressed: (M, P) the other probabilities.

    Returns:
        (M, P) probabilities; the rows have the sums of `expressed`.
    """
    return np.asarray(-np.expm1(-_depth(composition, expressed.sum(axis=1)) * composition))


def _depth(composition: Values, num_expressed: Values) -> Values:
    """The depth of each cell at which it is expected to express a number of genes.

    Args:
        composition: (M, P), rows sum to 1.
        num_expressed: (M,) expected number of expressed genes.

    Returns:
        (M, 1) depths.
    """
    # The expected number rises with depth, ever more slowly, and is below depth itself: Newton's method climbs from there and
    # never steps beyond the solution.
    wanted = num_expressed[:, None]
    depth = wanted.copy()
    for _ in range(MAX_STEPS):
        silent = np.exp(-depth * composition)
        missing = wanted - (1 - silent).sum(axis=1, keepdims=True)
        if not (missing > _TOLERANCE * wanted).any():
            break
        slope = (composition * silent).sum(axis=1, keepdims=True)
        depth = np.minimum(depth + np.maximum(missing, 0) / np.maximum(slope, _TINY), np.float32(MAX_DEPTH))
    return depth
