"""How well predictions fit the truth, per cell and per gene; every number of `metrics.json` is defined here.

A constant prediction or truth has correlation 0 and is never dropped: dropping it would reward predicting nothing.

Letters: Q scored cells, P genes, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.evaluation.baselines import Estimate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.evaluation.baselines import Profile
    from cifm_cli.evaluation.intervals import Resampler

    Values = NDArray[np.float32]
    Numbers = NDArray[np.float64]

METRICS = ("mse", "balanced_mse", "pearson_cell", "spearman_cell", "pearson_gene", "spearman_gene", "auroc", "deviance")
LOWER_IS_BETTER = frozenset({"mse", "balanced_mse", "deviance"})

FLOOR = 0.05  # part of the training profile in every prediction of counts, so that no deviance is infinite
SHARE_BELIEF = 0.05  # share of expressing cells at which a prediction's own magnitude weighs as much as training's
_VALUES_AT_ONCE = 200_000  # what stays in a processor's cache


@dataclass(frozen=True)
class Truth:
    """What was hidden.

    Args:
        counts: (Q, P) raw counts.
        values: (Q, P) log-normalised expression.
        training: Profile of the training cells, for the deviance.
        target_sum: Of the normalisation, for the deviance.
    """

    counts: csr_matrix
    values: Values
    training: Profile
    target_sum: float

    @cached_property
    def cell_ranks(self) -> Values:
        """(Q, P) ranks of the genes within each cell."""
        return average_ranks(self.values)

    @cached_property
    def by_gene(self) -> Values:
        """(P, Q) the values, gene by gene."""
        return np.ascontiguousarray(self.values.T)

    @cached_property
    def gene_ranks(self) -> Values:
        """(P, Q) ranks of the cells within each gene."""
        return average_ranks(self.by_gene)


@dataclass(frozen=True)
class Score:
    """All there is to say of one form of one predictor.

    Args:
        metrics: Metric to its value.
        draws: Metric to its (R,) values on the bootstrap's draws.
        per_cell: Column to its (Q,) values.
        per_gene: Column to its (P,) values.
    """

    metrics: dict[str, float]
    draws: dict[str, Numbers]
    per_cell: dict[str, Numbers]
    per_gene: dict[str, Numbers]


def gate(estimate: Estimate, threshold: float) -> Estimate:
    """The gated form: zero where the probability of expression is at most `threshold`."""
    passed = estimate.share > threshold
    return Estimate(estimate.mean * passed, estimate.share * passed)


def score(truth: Truth, estimate: Estimate, resampler: Resampler) -> Score:
    """Score one form of a predictor.

    Args:
        truth: What was hidden.
        estimate: What was inferred, in the same order.
        resampler: The draws, the same for every predictor.

    Returns:
        The score.
    """
    cells = {name: np.concatenate(parts) for name, parts in _score_cells(truth, estimate).items()}
    by_gene = np.ascontiguousarray(estimate.mean.T)
    ranks = average_ranks(by_gene)
    genes = {
        "mse": np.square(by_gene - truth.by_gene).mean(axis=1, dtype=np.float64),
        "pearson": correlations(by_gene, truth.by_gene),
        "spearman": correlations(ranks, truth.gene_ranks),
    }
    halves = [(cells.pop(f"error_{half}"), cells.pop(f"num_{half}")) for half in ("expressed", "zero")]
    over = {
        "pearson_cell": "pearson",
        "spearman_cell": "spearman",
        "mse": "mse",
        "auroc": "auroc",
        "deviance": "deviance",
    }
    metrics = {metric: float(cells[column].mean()) for metric, column in over.items()}
    metrics |= {f"{name}_gene": float(genes[name].mean()) for name in ("pearson", "spearman")}
    metrics["balanced_mse"] = float(np.mean([error.sum() / max(number.sum(), 1) for error, number in halves]))
    draws = {metric: resampler.mean(cells[column]) for metric, column in over.items()}
    draws["pearson_gene"] = resampler.correlation(by_gene, truth.by_gene)
    draws["spearman_gene"] = resampler.correlation(ranks, truth.gene_ranks)
    draws["balanced_mse"] = np.mean([resampler.ratio(*half) for half in halves], axis=0)
    cells["balanced_mse"] = np.mean([error / np.maximum(number, 1) for error, number in halves], axis=0)
    return Score({metric: metrics[metric] for metric in METRICS}, draws, cells, genes)


def _score_cells(truth: Truth, estimate: Estimate) -> dict[str, list[Numbers]]:
    """Everything per cell, in pieces of some cells."""
    found: dict[str, list[Numbers]] = {}
    for part in pieces(truth.values):
        values, mean, share = truth.values[part], estimate.mean[part], estimate.share[part]
        squared = np.square(mean.astype(np.float64) - values)
        expressed = values > 0
        columns = {
            "mse": squared.mean(axis=1),
            "pearson": correlations(mean, values),
            "spearman": correlations(average_ranks(mean), truth.cell_ranks[part]),
            "auroc": auroc(share, expressed),
            "deviance": deviance(truth.counts[part], expected_shares(mean, share, truth)),
            "error_expressed": (squared * expressed).sum(axis=1),
            "num_expressed": expressed.sum(axis=1).astype(np.float64),
            "error_zero": (squared * ~expressed).sum(axis=1),
            "num_zero": (~expressed).sum(axis=1).astype(np.float64),
        }
        for name, column in columns.items():
            found.setdefault(name, []).append(column)
    return found


def pieces(values: NDArray[np.generic]) -> Iterator[slice]:
    """Cut the rows of a matrix into pieces that a processor's cache holds."""
    rows_at_once = max(1, _VALUES_AT_ONCE // max(values.shape[1], 1))
    for start in range(0, len(values), rows_at_once):
        yield slice(start, start + rows_at_once)


def average_ranks(values: Values) -> Values:
    """Ranks within each row, from 1; ties share the mean of their ranks.

    Args:
        values: (n, m), no NaN.

    Returns:
        (n, m) float32, exact up to m of about 8 million.
    """
    ranks = np.empty(values.shape, dtype=np.float32)
    for part in pieces(values):
        order = np.argsort(values[part], axis=1)
        order += np.arange(len(order))[:, None] * values.shape[1]
        ordered = values[part].ravel()[order.ravel()].reshape(order.shape)
        is_first = np.ones(order.shape, dtype=bool)
        np.not_equal(ordered[:, 1:], ordered[:, :-1], out=is_first[:, 1:])
        first = np.flatnonzero(is_first)
        length = np.diff(first, append=order.size)
        middle = (first % values.shape[1] + (length + 1) / 2).astype(np.float32)
        ranks[part].ravel()[order.ravel()] = np.repeat(middle, length)
    return ranks


def correlations(x: Values, y: Values) -> Numbers:
    """Pearson's correlation of each row of `x` with the same row of `y`; 0 where either is constant.

    Spearman's is this of their average ranks.

    Args:
        x: (n, m).
        y: (n, m).

    Returns:
        (n,).
    """
    found = np.empty(len(x))
    for part in pieces(x):
        constant = (np.ptp(x[part], axis=1) == 0) | (np.ptp(y[part], axis=1) == 0)
        a, b = (z[part] - z[part].mean(axis=1, keepdims=True, dtype=np.float64) for z in (x, y))
        scale = np.sqrt(np.einsum("nm,nm->n", a, a) * np.einsum("nm,nm->n", b, b))
        found[part] = np.where(constant, 0, np.einsum("nm,nm->n", a, b) / np.where(constant, 1, scale))
    return found


def auroc(share: Values, expressed: NDArray[np.bool_]) -> Numbers:
    """Probability that an expressed gene of a cell was given a higher share than one that is not; ties count half.

    Args:
        share: (n, P) predicted probability of expression.
        expressed: (n, P).

    Returns:
        (n,); 0.5 for a cell with nothing or everything expressed.
    """
    num_expressed = expressed.sum(axis=1).astype(np.float64)
    num_pairs = num_expressed * (expressed.shape[1] - num_expressed)
    rank_sum = (average_ranks(share) * expressed).sum(axis=1, dtype=np.float64)
    wins = rank_sum - num_expressed * (num_expressed + 1) / 2  # Mann-Whitney's U
    return np.where(num_pairs > 0, wins / np.maximum(num_pairs, 1), 0.5)


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
    floor = ((training.counts + 1) / (training.counts + 1).sum()).astype(np.float32)
    usual = _linear(training.mean.astype(np.float32), training.share.astype(np.float32), truth)
    scale = np.divide(floor, usual, out=np.ones_like(floor), where=usual > 0)
    expected = _linear(mean, share, truth) * scale
    total = expected.sum(axis=1, keepdims=True)
    nothing = total == 0
    own = np.where(nothing, floor, expected / (total + nothing))
    return np.asarray((1 - FLOOR) * own + FLOOR * floor)


def _linear(mean: Values, share: Values, truth: Truth) -> Values:
    """Normalised expectation m (e^a - 1) / a, before any scaling."""
    training, belief = truth.training, np.float32(SHARE_BELIEF)
    tiny = np.finfo(np.float32).tiny
    usual = (training.mean / np.maximum(training.share, tiny)).astype(np.float32)
    magnitude = (mean + belief * usual) / (share + belief)
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
    terms = np.where(c > 0, c * np.log(np.where(c > 0, c, 1) / (depth[cell] * shares[cell, counts.indices])), 0)
    return np.bincount(cell, weights=2 * terms, minlength=counts.shape[0]).astype(np.float64)
