"""Predictions as expected counts, and their Poisson deviance.

Letters: Q scored cells, n of them, P genes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.evaluation.ranking import pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.evaluation.context import Estimate
    from cifm_cli.evaluation.truth import Truth

    Values = NDArray[np.float32]
    Numbers = NDArray[np.float64]

FLOOR = 0.05  # part of the training profile in every prediction of counts, so that no deviance is infinite
SHARE_BELIEF = 0.05  # share of expressing cells at which a prediction's own magnitude weighs as much as training's


def count_shares(estimate: Estimate, part: slice, truth: Truth) -> Values:
    """The share of a cell's counts that each gene is expected to have, never zero.

    A predictor's own composition where it gives one, else what its mean and share imply; 5 % of the training cells'
    composition are mixed in, for all that is predicted as zero.

    Args:
        estimate: Of Q cells.
        part: n of them.
        truth: Training profile and target sum.

    Returns:
        (n, P), positive, rows sum to 1.
    """
    if estimate.composition is None:
        return expected_shares(estimate.mean[part], estimate.share[part], truth)
    return _with_floor(estimate.composition[part], truth)


def mean_deviance(estimate: Estimate, truth: Truth) -> float:
    """Poisson deviance, averaged over cells.

    Args:
        estimate: What was inferred.
        truth: What was hidden.

    Returns:
        Nats per cell.
    """
    parts = [deviance(truth.counts[part], count_shares(estimate, part, truth)) for part in pieces(truth.values)]
    return float(np.concatenate(parts).mean())


def _with_floor(expected: Values, truth: Truth) -> Values:
    """Rows scaled to 1, or the training cells' where they are nothing, and 5 % of the training cells' mixed in."""
    floor = _floor(truth)
    total = expected.sum(axis=1, keepdims=True)
    nothing = total == 0
    own = np.where(nothing, floor, expected / (total + nothing))
    return np.asarray((1 - FLOOR) * own + FLOOR * floor)


def _floor(truth: Truth) -> Values:
    """(P,) the training cells' composition, with one count more for each gene."""
    counts = truth.training.counts + 1
    return np.asarray(counts / counts.sum(), dtype=np.float32)


def expected_shares(mean: Values, share: Values, truth: Truth) -> Values:
    """Turn a log-normalised prediction into the share of a cell's counts that each gene is expected to have.

    A gene at mean m, expressed with probability s, has the magnitude a = (m + b a_0) / (s + b) where it is expressed
    (a_0: the training cells' magnitude, b = 0.05), and so the normalised expectation m (e^a - 1) / a. Each gene is
    scaled such that the training mean gives the training cells' counts; 5 % of these are mixed in, for all that is
    predicted as zero.

    Args:
        mean: (n, P).
        share: (n, P).
        truth: Training profile and target sum.

    Returns:
        (n, P), positive, rows sum to 1.
    """
    training = truth.training
    floor = _floor(truth)
    usual = _linear(training.mean.astype(np.float32), training.share.astype(np.float32), truth)
    scale = np.divide(floor, usual, out=np.ones_like(floor), where=usual > 0)
    return _with_floor(_linear(mean, share, truth) * scale, truth)


def _linear(mean: Values, share: Values, truth: Truth) -> Values:
    """Normalised expectation m (e^a - 1) / a, before any scaling."""
    training, belief = truth.training, np.float32(SHARE_BELIEF)
    tiny = np.finfo(np.float32).tiny
    usual = (training.mean / np.maximum(training.share, tiny)).astype(np.float32)
    magnitude = (mean + belief * usual) / (share + belief)
    # Expressed with probability m / a, and then e^a - 1 of the target sum; no gene has more than all of it.
    np.clip(magnitude, tiny, np.log1p(np.float32(truth.target_sum)), out=magnitude)
    return np.asarray(np.maximum(mean, 0) * np.expm1(magnitude) / magnitude)


def deviance(counts: csr_matrix, shares: Values) -> Numbers:
    """Poisson deviance of each cell's counts, 2 sum c log(c / lambda), lambda = the cell's own depth times the share.

    The true depth scales the expectation only here, in scoring; no predictor knows it.

    Args:
        counts: (n, P).
        shares: (n, P), positive, rows sum to 1.

    Returns:
        (n,) in nats.
    """
    counts = counts.tocsr()
    cell = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    depth = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    c = counts.data.astype(np.float64)
    # Poisson's terms c - lambda cancel over a cell, as its shares sum to 1.
    terms = np.where(c > 0, c * np.log(np.where(c > 0, c, 1) / (depth[cell] * shares[cell, counts.indices])), 0)
    return np.bincount(cell, weights=2 * terms, minlength=counts.shape[0]).astype(np.float64)
