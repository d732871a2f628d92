"""Scores of a probe: ROC-AUC and balanced accuracy of held-out cells, with bootstrap intervals over groups.

Letters: n cells, K classes, R groups, B draws of the groups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.provenance import numpy_generator
from cifm_cli.statistics.bootstrap import NUM_DRAWS, percentile_interval, resample

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Codes = NDArray[np.int64]

ROC_AUC, BALANCED_ACCURACY = "roc_auc", "balanced_accuracy"


def resample_groups(num_groups: int, seed: int) -> Floats:
    """Draw groups with replacement.

    Args:
        num_groups: R.
        seed: Seed of the draws.

    Returns:
        (1 + B, R) how often each draw contains each group; the first row is the original sample.
    """
    draws = resample(num_groups, NUM_DRAWS, numpy_generator(seed, "probe bootstrap"))
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


def with_interval(values: Floats) -> dict[str, float]:
    """Summarise a metric by its value and its 95 % interval.

    Args:
        values: (1 + B,) from `score`.

    Returns:
        `value`, `low`, `high`.
    """
    low, high = percentile_interval(values[1:])
    return {"value": float(values[0]), "low": low, "high": high}


def compare_with_best(
    scores: Mapping[str, Mapping[str, Floats]], embedding: str, baselines: list[str], metric: str
) -> dict[str, object]:
    """Compare an embedding with the best baseline, on the same cells and the same draws.

    Args:
        scores: For each set of features, metric to values.
        embedding: Name of the embedding.
        baselines: Names of the baselines.
        metric: The metric.

    Returns:
        `best_baseline`, `difference` (embedding minus baseline), `low`, `high`.
    """
    # The best one on the original sample, for all draws: choosing it anew in each draw would favour the baselines.
    best = max(baselines, key=lambda name: scores[name][metric][0])
    summary = with_interval(scores[embedding][metric] - scores[best][metric])
    return {"best_baseline": best, "difference": summary["value"], "low": summary["low"], "high": summary["high"]}
