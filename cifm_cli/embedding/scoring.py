"""ROC-AUC and balanced accuracy of held-out cells, with intervals that respect groups.

Letters: n cells, K classes, B resamples, R groups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cifm_cli import provenance

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Codes = NDArray[np.int64]

ROC_AUC, BALANCED_ACCURACY = "roc_auc", "balanced_accuracy"
NUM_RESAMPLES = 1_000
_INTERVAL = (2.5, 97.5)


def resample_groups(num_groups: int, seed: int) -> Floats:
    """Draw groups with replacement.

    Args:
        num_groups: R.
        seed: Of the draw.

    Returns:
        (1 + B, R) how often each group is in a resample; the first row is the data as they are.
    """
    drawn = provenance.numpy_generator(seed, "probe bootstrap").multinomial(
        num_groups, np.full(num_groups, 1 / num_groups), NUM_RESAMPLES
    )
    return np.concatenate([np.ones((1, num_groups)), drawn])


def score(
    probabilities: Floats, codes: Codes, groups: Codes, fold_of_group: Codes, weights: Floats
) -> dict[str, Floats]:
    """Both metrics in every resample.

    Args:
        probabilities: (n, K) of held-out cells.
        codes: (n,) true classes.
        groups: (n,) group of each cell.
        fold_of_group: (R,) fold in which each group was held out.
        weights: (1 + B, R) from `resample_groups`.

    Returns:
        (1 + B,) by metric; the first is the metric itself.
    """
    together = fold_of_group[:, None] == fold_of_group
    areas = [_areas(probabilities[:, k], codes == k, groups, together, weights) for k in range(probabilities.shape[1])]
    return {
        ROC_AUC: _mean(np.stack(areas)),
        BALANCED_ACCURACY: _mean(_recalls(probabilities.argmax(axis=1), codes, groups, weights)),
    }


def area_by_class(probabilities: Floats, codes: Codes, groups: Codes, fold_of_group: Codes) -> list[float | None]:
    """ROC-AUC of each class against the rest, (K,), None where no fold has both; arguments as in `score`."""
    together, once = fold_of_group[:, None] == fold_of_group, np.ones((1, len(fold_of_group)))
    areas = [
        _areas(probabilities[:, k], codes == k, groups, together, once)[0].item() for k in range(probabilities.shape[1])
    ]
    return [None if np.isnan(area) else area for area in areas]


def _areas(
    scores: Floats, positive: NDArray[np.bool_], groups: Codes, together: NDArray[np.bool_], weights: Floats
) -> Floats:
    """Area under the ROC curve in every resample, exactly: pairs won are counted once, between groups.

    won[r, s] = (positive of group r, negative of group s) pairs in which the positive scores higher; ties count half.
    Only pairs scored by the same classifier count (r and s of one fold): scores of two classifiers differ by more than
    what they say of the cells, such as the share of each class among their training cells.
    """
    levels, level = np.unique(scores, return_inverse=True)
    counts = np.zeros((2, len(levels), weights.shape[1]))
    np.add.at(counts, (positive.astype(np.int64), level, groups), 1.0)
    negatives, positives = counts
    won = positives.T @ (negatives.cumsum(axis=0) - negatives / 2) * together
    pairs = np.outer(positives.sum(axis=0), negatives.sum(axis=0)) * together
    return _ratio(((weights @ won) * weights).sum(axis=1), ((weights @ pairs) * weights).sum(axis=1))


def _recalls(predicted: Codes, codes: Codes, groups: Codes, weights: Floats) -> Floats:
    """Recall of each class in every resample, (K, 1 + B); NaN where a class is absent."""
    counts = np.zeros((2, int(codes.max()) + 1, weights.shape[1]))
    np.add.at(counts, ((predicted == codes).astype(np.int64), codes, groups), 1.0)
    return _ratio(counts[1] @ weights.T, counts.sum(axis=0) @ weights.T)


def _mean(by_class: Floats) -> Floats:
    """Mean over the classes that are there, NaN where none is."""
    there = ~np.isnan(by_class)
    return _ratio(np.where(there, by_class, 0.0).sum(axis=0), there.sum(axis=0))


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Elementwise, NaN over zero."""
    ratio = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=ratio, where=denominator > 0)
    return ratio


def summarise(resampled: Floats) -> dict[str, float]:
    """A metric with its 95 % interval.

    Args:
        resampled: (1 + B,) from `score`.

    Returns:
        `value`, `low`, `high`.
    """
    low, high = np.nanpercentile(resampled[1:], _INTERVAL)
    return {"value": float(resampled[0]), "low": float(low), "high": float(high)}


def compare(
    scores: Mapping[str, Mapping[str, Floats]], ours: str, baselines: list[str], metric: str
) -> dict[str, object]:
    """An embedding beside the best baseline, on the same cells in the same resamples.

    Args:
        scores: By features, then metric.
        ours: The embedding.
        baselines: Features to beat.
        metric: Which metric.

    Returns:
        `best_baseline`, `difference` (embedding minus baseline), `low`, `high`.
    """
    best = max(baselines, key=lambda name: scores[name][metric][0])
    summary = summarise(scores[ours][metric] - scores[best][metric])
    return {"best_baseline": best, "difference": summary["value"], "low": summary["low"], "high": summary["high"]}
