"""The ridge: what all genes around a cell add to the blend, by a linear regression learned on training cells.

Letters: Q hidden cells, P genes, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from cifm_cli.evaluation.blend import blend, learn_blend
from cifm_cli.evaluation.context import Estimate
from cifm_cli.evaluation.surroundings import RADII, in_pieces, join, surroundings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from cifm_cli.evaluation.context import Context, Example, Settings

    Numbers = NDArray[np.float64]
    Values = NDArray[np.float32]

MOST_FEATURES = 2_000  # panels with more genes than fit are represented by their most expressed ones
SPREAD, SHRINK = 0.1, 0.01  # of the blend that is corrected: near the best on large tissues and on small ones
MOST_COEFFICIENTS = 10_000_000  # for panels with very many genes
_SMALL = 1e-12


@dataclass(frozen=True)
class _Moments:
    """Sums over the examples of a linear regression, centred.

    Args:
        genes: Whose surroundings are features.
        x_mean: (F,) mean features.
        y_mean: (3 P,) mean errors of the blend.
        xx: (F, F) covariance of the features, in units of their mean variance.
        xy: (F, 3 P) covariance of the features with the errors, in the same units.
    """

    genes: NDArray[np.int64]
    x_mean: Numbers
    y_mean: Numbers
    xx: Numbers
    xy: Numbers

    def solve(self, penalty: float) -> Values:
        """(F, 3 P) coefficients."""
        penalised = self.xx + penalty * np.eye(len(self.xx))
        return np.asarray(cho_solve(cho_factor(penalised, overwrite_a=True), self.xy), dtype=np.float32)


class Ridge:
    """The blend, plus a linear regression of its errors on the means of all genes within five radii.

    The errors are those of expression, of expressed or not, and of the composition. A high penalty leaves the blend.
    """

    name = "ridge"

    def candidates(self) -> Sequence[Settings]:
        """Penalties, in units of the mean variance of a feature."""
        return [{"penalty": penalty} for penalty in (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)]

    def predict(self, context: Context, query_um: NDArray[np.float64], settings: Settings, *_: object) -> Estimate:
        """See `Baseline`."""
        learn = context.practice.once
        moments = learn(self.name, lambda examples: _learn(examples, context))
        coefficients = learn(f"{self.name} {settings}", lambda _: moments.solve(settings["penalty"]))
        return join(_correct(means, moments, coefficients, context) for means in in_pieces(context, query_um))


def _correct(means: Sequence[Estimate], moments: _Moments, coefficients: Values, context: Context) -> Estimate:
    base = blend(means, learn_blend(context), context.training, SPREAD, SHRINK)
    x = _features(means, moments.genes, context) - moments.x_mean.astype(np.float32)
    errors = np.split(x @ coefficients + moments.y_mean.astype(np.float32), 3, axis=1)
    mean, share, composition = (np.maximum(part + error, 0) for part, error in zip(_parts(base), errors, strict=True))
    total = composition.sum(axis=1, keepdims=True)
    return Estimate(mean, np.minimum(share, 1), composition / np.maximum(total, np.float32(_SMALL)))


def _features(means: Sequence[Estimate], genes: NDArray[np.int64], context: Context) -> Values:
    """(Q, F) distances of the circles' means from what the context knows of each gene; small numbers, for precision."""
    usual = context.training.mean[genes].astype(np.float32)
    return np.concatenate([part.mean[:, genes] - usual for part in means], axis=1)


def _parts(estimate: Estimate) -> list[Values]:
    """Everything that an estimate with a composition says."""
    return [part for part in (estimate.mean, estimate.share, estimate.composition) if part is not None]


def _learn(examples: Iterable[Example], context: Context) -> _Moments:
    training, num_genes = context.training, context.expression.shape[1]
    most = min(MOST_FEATURES, max(len(RADII), MOST_COEFFICIENTS // (3 * num_genes)))
    genes = np.sort(np.argsort(-training.mean, kind="stable")[: most // len(RADII)])
    num_features = len(genes) * len(RADII)
    size, x_sum, y_sum = 0, np.zeros(num_features), np.zeros(3 * num_genes)
    xx, xy = np.zeros((num_features, num_features)), np.zeros((num_features, 3 * num_genes))
    for example in examples:
        means = surroundings(example.context, example.query_um)
        x = _features(means, genes, example.context)
        y = _errors(example, blend(means, learn_blend(context), example.context.training, SPREAD, SHRINK))
        size += len(x)
        x_sum += x.sum(axis=0, dtype=np.float64)
        y_sum += y.sum(axis=0, dtype=np.float64)
        xx += x.T @ x
        xy += x.T @ y
    x_mean, y_mean = x_sum / max(size, 1), y_sum / max(size, 1)
    xx, xy = xx / max(size, 1) - np.outer(x_mean, x_mean), xy / max(size, 1) - np.outer(x_mean, y_mean)
    # In units of the features' own variance, one row of penalties serves panels of any size and depth.
    unit = max(float(np.trace(xx)) / max(num_features, 1), _SMALL)
    return _Moments(genes, x_mean, y_mean, xx / unit, xy / unit)


def _errors(example: Example, base: Estimate) -> Values:
    """(Q, 3 P) truth minus blend; the composition's error weighs as much as the cell has counts."""
    expression, counts = example.expression.toarray(), example.counts.toarray()
    depth = counts.sum(axis=1, keepdims=True)
    usual_depth = max(float(depth.mean()), _SMALL)
    mean, share, composition = _parts(base)
    errors = [expression - mean, (expression > 0) - share, (counts - depth * composition) / usual_depth]
    return np.concatenate(errors, axis=1, dtype=np.float32)
