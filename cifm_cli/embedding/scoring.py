"""Scores of a probe: metrics of held-out cells or slides, with bootstrap intervals over groups.

Letters: n cells, K classes, R groups, B draws of the groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.provenance import numpy_generator
from cifm_cli.statistics.bootstrap import NUM_DRAWS, percentile_interval, resample

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Codes = NDArray[np.int64]

ROC_AUC, BALANCED_ACCURACY, BRIER = "roc_auc", "balanced_accuracy", "brier"
LOWER_IS_BETTER = (BRIER,)


@dataclass(frozen=True)
class HeldOut:
    """Held-out cells (or slides), and the draws of their groups over which intervals are computed."""

    codes: Codes  # (n,) actual classes
    groups: Codes  # (n,) group of each cell, 0 to R - 1
    fold_of_group: Codes  # (R,) fold in which each group was held out
    weights: Floats  # (1 + B, R) from `resample_groups`
    has_interval: bool = True  # False where the groups are too few to say how much the metrics vary

    def score(self, probabilities: Floats) -> dict[str, Floats]:
        """Compute all metrics on every draw; see `score`."""
        scores = score(probabilities, self.codes, self.groups, self.fold_of_group, self.weights)
        return scores | {BRIER: brier(probabilities, self.codes, self.groups, self.weights)}

    def summarise(self, values: Floats) -> dict[str, float | None]:
        """Value and interval of a metric, without an interval where there can be none."""
        return with_interval(values) if self.has_interval else {"value": _number(values[0]), "low": None, "high": None}


def resample_groups(num_groups: int, seed: int, strata: Codes | None = None) -> Floats:
    """Draw groups with replacement.

    Args:
        num_groups: R.
        seed: Seed of the draws.
        strata: (R,) class of each group, if all of its cells have one class: as many groups of each class are drawn as there
            are, so that every draw contains every class. None to draw from all groups.

    Returns:
        (1 + B, R) how often each draw contains each group; the first row is the original sample.
    """
    generator = numpy_generator(seed, "probe bootstrap")
    if strata is None:
        draws = resample(num_groups, NUM_DRAWS, generator)
    else:
        draws = np.zeros((NUM_DRAWS, num_groups))
        for stratum in np.unique(strata):
            members = np.flatnonzero(strata == stratum)
            draws[:, members] = resample(len(members), NUM_DRAWS, generator)
    # As one array, so that the value and its draws are computed by the same code.
    return np.concatenate([np.ones((1, num_groups)), draws])


def score(
    probabilities: Floats, codes: Codes, groups: Codes, fold_of_group: Codes, weights: Floats
) -> dict[str, Floats]:
    """Compute both metrics on every draw of the groups.

    Args:
        probabilities: (n, K) of held-out cells.
        codes: (n,) actual classes.
        groups: (n,) group of each cell.
        fold_of_group: (R,) fold in which each group was held out.
        weights: (1 + B, R) from `resample_groups`.

    Returns:
        Metric to its (1 + B,) values, each averaged over classes; the first is that of the original sample.
    """
    same_fold = fold_of_group[:, None] == fold_of_group
    areas = [
        _roc_auc(probabilities[:, k], codes == k, groups, same_fold, weights) for k in range(probabilities.shape[1])
    ]
    return {
        ROC_AUC: _mean_over_classes(np.stack(areas)),
        BALANCED_ACCURACY: _mean_over_classes(_recall(probabilities.argmax(axis=1), codes, groups, weights)),
    }


def brier(probabilities: Floats, codes: Codes, groups: Codes, weights: Floats) -> Floats:
    """Compute the Brier score on every draw: half the squared distance between probabilities and the actual class.

    Args:
        probabilities: (n, K) of held-out cells.
        codes: (n,) actual classes.
        groups: (n,) group of each cell.
        weights: (1 + B, R) from `resample_groups`.

    Returns:
        (1 + B,) mean over the cells of each draw, from 0 (certain and right) to 1; for two classes the squared error of
        the probability of one of them.
    """
    errors = ((probabilities - np.eye(probabilities.shape[1])[codes]) ** 2).sum(axis=1) / 2
    num_groups = weights.shape[1]
    sums, sizes = np.bincount(groups, errors, num_groups), np.bincount(groups, minlength=num_groups)
    return _ratio(weights @ sums, weights @ sizes)


def roc_auc_by_class(probabilities: Floats, codes: Codes, groups: Codes, fold_of_group: Codes) -> list[float | None]:
    """Compute the ROC-AUC of each class against the rest.

    Args:
        probabilities: (n, K) of held-out cells.
        codes: (n,) actual classes.
        groups: (n,) group of each cell.
        fold_of_group: (R,) fold in which each group was held out.

    Returns:
        K values; None for a class where no fold has cells both of the class and of the rest.
    """
    same_fold, original = fold_of_group[:, None] == fold_of_group, np.ones((1, len(fold_of_group)))
    areas = [
        _roc_auc(probabilities[:, k], codes == k, groups, same_fold, original)[0].item()
        for k in range(probabilities.shape[1])
    ]
    return [None if np.isnan(area) else area for area in areas]


def _roc_auc(
    scores: Floats, is_positive: NDArray[np.bool_], groups: Codes, same_fold: NDArray[np.bool_], weights: Floats
) -> Floats:
    """Area under the ROC curve on every draw: the fraction of (positive, negative) pairs that are ranked correctly.

    `correct[r, s]` counts the pairs of a positive cell of group r and a negative cell of group s in which the positive
    one has the higher score; ties count half. Only groups of the same fold are paired, because scores of two
    classifiers differ for reasons other than the cells, such as the frequencies of the classes in training.
    """
    # Pairs are counted once for each pair of groups, and a draw weights these counts. That is exact, and much faster
    # than sorting the cells of each of a thousand draws.
    levels, level = np.unique(scores, return_inverse=True)
    counts = np.zeros((2, len(levels), weights.shape[1]))
    np.add.at(counts, (is_positive.astype(np.int64), level, groups), 1.0)
    negatives, positives = counts
    # Negatives of lower levels, and half of those of the same level.
    correct = positives.T @ (negatives.cumsum(axis=0) - negatives / 2) * same_fold
    pairs = np.outer(positives.sum(axis=0), negatives.sum(axis=0)) * same_fold
    return _ratio(((weights @ correct) * weights).sum(axis=1), ((weights @ pairs) * weights).sum(axis=1))


def _recall(predicted: Codes, codes: Codes, groups: Codes, weights: Floats) -> Floats:
    """Recall of each class on every draw, (K, 1 + B); NaN where a class is absent."""
    counts = np.zeros((2, int(codes.max()) + 1, weights.shape[1]))
    np.add.at(counts, ((predicted == codes).astype(np.int64), codes, groups), 1.0)
    return _ratio(counts[1] @ weights.T, counts.sum(axis=0) @ weights.T)


def _mean_over_classes(by_class: Floats) -> Floats:
    """Mean of (K, 1 + B) values over the classes that are not NaN; NaN where all are."""
    # A draw may lack a class; the mean is then over the others.
    is_defined = ~np.isnan(by_class)
    return _ratio(np.where(is_defined, by_class, 0.0).sum(axis=0), is_defined.sum(axis=0))


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Divide elementwise; NaN where the denominator is zero."""
    ratio = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=ratio, where=denominator > 0)
    return ratio


def with_interval(values: Floats) -> dict[str, float | None]:
    """Summarise a metric by its value and its 95 % interval.

    Args:
        values: (1 + B,) from `score`.

    Returns:
        `value`, `low`, `high`; None where a metric is not defined.
    """
    if np.isnan(values[1:]).all():
        return {"value": _number(values[0]), "low": None, "high": None}
    low, high = percentile_interval(values[1:])
    return {"value": _number(values[0]), "low": low, "high": high}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def compare_with_best(
    scores: Mapping[str, Mapping[str, Floats]], embedding: str, baselines: list[str], metric: str, held_out: HeldOut
) -> dict[str, object]:
    """Compare an embedding with the best baseline, and with every other set of features, on the same cells and draws.

    Args:
        scores: For each set of features, metric to values.
        embedding: Name of the embedding.
        baselines: Names of the baselines.
        metric: The metric.
        held_out: The cells and draws of the scores.

    Returns:
        `best_baseline`, `difference` (embedding minus baseline), `low`, `high`; and under `others` the same three numbers for
        each of the other features.
    """
    # The best one on the original sample, for all draws: choosing it anew in each draw would favour the baselines.
    choose = min if metric in LOWER_IS_BETTER else max
    best = choose(baselines, key=lambda name: scores[name][metric][0])

    def minus(name: str) -> dict[str, float | None]:
        """The embedding minus other features."""
        summary = held_out.summarise(scores[embedding][metric] - scores[name][metric])
        return {"difference": summary["value"], "low": summary["low"], "high": summary["high"]}

    return {
        "best_baseline": best,
        **minus(best),
        "others": {name: minus(name) for name in scores if name != embedding},
    }
