"""Predictions as expected counts: their Poisson deviance, and the limit that shot noise sets to every metric.

Letters: Q scored cells, n of them, P scored genes, G genes of the slide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.evaluation.metrics.ranking import row_slices
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.evaluation.examples import Targets
    from cifm_cli.inference.prediction import Prediction

    Values = NDArray[np.float32]
    Floats = NDArray[np.float64]

FLOOR = 0.05  # fraction of the training composition in every expectation, so that no deviance is infinite
PRIOR_FRACTION = 0.05  # fraction of expressing cells at which a prediction and the training cells weigh the same


def expected_composition(prediction: Prediction, cells: slice, targets: Targets) -> Values:
    """Expected fraction of a cell's counts in each gene, never zero.

    Args:
        prediction: Of Q cells. Its own composition is used where it has one; else the one that follows from its mean
            and P(expressed).
        cells: n of the cells.
        targets: Training statistics and target sum.

    Returns:
        (n, P), positive, rows sum to 1; 5 % of the training cells' composition is mixed in.
    """
    if prediction.composition is None:
        return composition_from_mean(prediction.mean[cells], prediction.expressed[cells], targets)
    return _mix_with_floor(prediction.composition[cells], targets)


def mean_deviance(prediction: Prediction, targets: Targets) -> float:
    """Poisson deviance, averaged over cells, in nats."""
    slices = row_slices(targets.values)
    parts = [deviance(targets.counts[cells], expected_composition(prediction, cells, targets)) for cells in slices]
    return float(np.concatenate(parts).mean())


def deviance(counts: csr_matrix, composition: Values) -> Floats:
    """Poisson deviance of each cell's counts, 2 sum c log(c / lambda), with lambda = depth of the cell x composition.

    The actual depth scales the expectation here, in scoring only; no predictor is given it.

    Args:
        counts: (n, P).
        composition: (n, P), positive, rows sum to 1.

    Returns:
        (n,) in nats.
    """
    counts = counts.tocsr()
    cell = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    depth = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    c = counts.data.astype(np.float64)
    # The terms c - lambda of the Poisson deviance sum to zero over a cell, because its composition sums to 1.
    terms = np.where(c > 0, c * np.log(np.where(c > 0, c, 1) / (depth[cell] * composition[cell, counts.indices])), 0)
    return np.bincount(cell, weights=2 * terms, minlength=counts.shape[0]).astype(np.float64)


def composition_from_mean(mean: Values, expressed: Values, targets: Targets) -> Values:
    """Convert log-normalised means to the expected fraction of a cell's counts in each gene.

    A gene with mean m and P(expressed) s has the magnitude a = (m + b a_0) / (s + b) in the cells that express it (a_0:
    the magnitude in training cells, b = 0.05), and so the normalised expectation m (e^a - 1) / a. Each gene is scaled
    such that the training mean gives the counts of the training cells.

    Args:
        mean: (n, P).
        expressed: (n, P).
        targets: Training statistics and target sum.

    Returns:
        (n, P), positive, rows sum to 1; 5 % of the training cells' composition is mixed in.
    """
    training = targets.gene_stats
    floor = _floor(targets)
    usual = _normalised_expectation(training.mean.astype(np.float32), training.fraction.astype(np.float32), targets)
    scale = np.divide(floor, usual, out=np.ones_like(floor), where=usual > 0)
    return _mix_with_floor(_normalised_expectation(mean, expressed, targets) * scale, targets)


def _normalised_expectation(mean: Values, expressed: Values, targets: Targets) -> Values:
    """M (e^a - 1) / a, before any scaling."""
    training, prior = targets.gene_stats, np.float32(PRIOR_FRACTION)
    tiny = np.finfo(np.float32).tiny
    usual = (training.mean / np.maximum(training.fraction, tiny)).astype(np.float32)
    magnitude = (mean + prior * usual) / (expressed + prior)
    # With probability m / a the gene has e^a - 1 of the target sum; no gene has more than all of it.
    np.clip(magnitude, tiny, np.log1p(np.float32(targets.target_sum)), out=magnitude)
    return np.asarray(np.maximum(mean, 0) * np.expm1(magnitude) / magnitude)


def _mix_with_floor(expected: Values, targets: Targets) -> Values:
    """Scale rows to 1 and mix in the floor; rows without any expectation become the floor."""
    floor = _floor(targets)
    total = expected.sum(axis=1, keepdims=True)
    empty = total == 0
    own = np.where(empty, floor, expected / (total + empty))
    return np.asarray((1 - FLOOR) * own + FLOOR * floor)


def _floor(targets: Targets) -> Values:
    """(P,) composition of the training cells, with one count added to each gene."""
    counts = targets.gene_stats.counts + 1  # so that a gene without training counts has a finite deviance
    return np.asarray(counts / counts.sum(), dtype=np.float32)


def split_counts(counts: csr_matrix, seed: int) -> tuple[csr_matrix, csr_matrix]:
    """Assign each of (Q, G) whole counts to one of two halves at random (binomial thinning); they sum to the whole."""
    first, second = counts.copy(), counts.copy()
    whole = np.rint(counts.data).astype(np.int64)
    first.data = numpy_generator(seed, "halves").binomial(whole, 0.5).astype(np.float32)
    second.data = whole.astype(np.float32) - first.data
    for half in (first, second):
        half.eliminate_zeros()
    return first, second


def reliability(correlation: Floats) -> Floats:
    """Reliability of a whole measurement whose two halves have a correlation (Spearman-Brown); 0 below 0."""
    r = np.maximum(correlation, 0)
    return np.asarray(2 * r / (1 + r))
