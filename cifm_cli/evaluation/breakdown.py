"""Where a prediction is good and whether it means what it says: by distance, and calibration.

Letters: Q scored cells, P genes, B bins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli.evaluation.ranking import pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.evaluation.context import Estimate
    from cifm_cli.evaluation.metrics import Score
    from cifm_cli.evaluation.truth import Truth

DISTANCES = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0, 16.0, np.inf)  # edges, in radii of the graph
BY_DISTANCE = ("mse", "pearson", "spearman", "auroc", "deviance")  # columns of `per_cell`
SHARES = (0.0, 0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # edges
DEFINITION = (
    "row_sum: mean over cells of the sum of predicted log-normalised expression, and the actual one. expressed: mean "
    "predicted share and the share of expressed entries. reliability: entries binned by their predicted share; in each bin "
    "the number of entries, the mean predicted share and the share that is expressed. ece: mean absolute difference of "
    "these two, weighted by the number of entries. All of the mean form"
)


def distance_bins(distance_um: NDArray[np.float64], radius_um: float) -> tuple[list[float], NDArray[np.int64]]:
    """Sort cells by their distance to the nearest visible cell.

    Args:
        distance_um: (Q,) micrometres.
        radius_um: Of the graph.

    Returns:
        Lower edges of the bins that hold cells, micrometres, and (Q,) the bin of each cell among these.
    """
    number = np.searchsorted(np.array(DISTANCES) * radius_um, distance_um, side="right") - 1
    filled, place = np.unique(number, return_inverse=True)
    return [DISTANCES[bin_number] * radius_um for bin_number in filled], place.ravel()


def by_distance(scores: dict[str, Score], edges_um: list[float], place: NDArray[np.int64]) -> dict[str, Any]:
    """Scores of cells by their distance to the nearest visible cell.

    Args:
        scores: Predictor to the score of its mean form.
        edges_um: Lower edges of the bins.
        place: (Q,) bin of each cell.

    Returns:
        For `metrics.json`.
    """
    number = np.bincount(place)
    return {
        "from_um": edges_um,
        "num_cells": number.tolist(),
        "predictors": {
            name: {
                column: (np.bincount(place, weights=found.per_cell[column]) / number).tolist() for column in BY_DISTANCE
            }
            for name, found in scores.items()
        },
    }


def calibration(estimate: Estimate, truth: Truth) -> dict[str, Any]:
    """Whether a prediction means what it says.

    Args:
        estimate: The mean form.
        truth: What was hidden.

    Returns:
        For `metrics.json`; see `DEFINITION`.
    """
    num_bins = len(SHARES) - 1
    number, predicted, actual = (np.zeros(num_bins) for _ in range(3))
    for part in pieces(truth.values):
        share = estimate.share[part].ravel()
        place = np.clip(np.searchsorted(SHARES, share, side="right") - 1, 0, num_bins - 1)
        number += np.bincount(place, minlength=num_bins)
        predicted += np.bincount(place, weights=share, minlength=num_bins)
        actual += np.bincount(place, weights=(truth.values[part] > 0).ravel(), minlength=num_bins)
    num_cells = len(truth.values)
    row_sums = [float(values.sum(dtype=np.float64)) / num_cells for values in (estimate.mean, truth.values)]
    filled = number > 0
    return {
        "row_sum": {"predicted": row_sums[0], "actual": row_sums[1]},
        "expressed": {
            "predicted": float(predicted.sum() / number.sum()),
            "actual": float(actual.sum() / number.sum()),
        },
        "ece": float(np.abs(predicted - actual).sum() / number.sum()),
        "reliability": {
            "num_entries": number[filled].astype(int).tolist(),
            "predicted": (predicted[filled] / number[filled]).tolist(),
            "actual": (actual[filled] / number[filled]).tolist(),
        },
    }
