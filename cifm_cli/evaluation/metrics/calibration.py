"""Calibration of P(expressed) and of the predicted sums, and metrics by distance to the nearest visible cell.

Letters: Q scored cells, P genes, B bins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli.evaluation.metrics.ranking import row_slices
from cifm_cli.statistics.scores import ReliabilityCurve

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.evaluation.examples import Targets
    from cifm_cli.evaluation.metrics.expression import Score
    from cifm_cli.inference.prediction import Prediction

DISTANCE_RADII = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0, 16.0, np.inf)  # edges, in radii of the graph
DISTANCE_COLUMNS = ("mse", "pearson", "spearman", "auroc", "deviance")  # of `per_cell`
PROBABILITY_EDGES = (0.0, 0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
DEFINITION = (
    "row_sum: mean over cells of the sum of predicted log-normalised expression, and the actual one. expressed: mean "
    "predicted probability and the fraction of expressed entries. reliability: entries binned by their predicted "
    "probability; in each bin the number of entries, the mean predicted probability and the fraction that is expressed. "
    "ece: mean absolute difference of these two, weighted by the number of entries. All of the mean form"
)


def distance_bins(distance_um: NDArray[np.float64], radius_um: float) -> tuple[list[float], NDArray[np.int64]]:
    """Lower edges of the distance bins that contain cells, micrometres, and (Q,) the bin of each cell among these."""
    number = np.searchsorted(np.array(DISTANCE_RADII) * radius_um, distance_um, side="right") - 1
    filled, position = np.unique(number, return_inverse=True)
    return [DISTANCE_RADII[bin_number] * radius_um for bin_number in filled], position.ravel()


def by_distance(scores: dict[str, Score], edges_um: list[float], position: NDArray[np.int64]) -> dict[str, Any]:
    """Average scores per cell over distance bins, for `metrics.json`; `position` is the (Q,) bin of each cell."""
    number = np.bincount(position)

    def means(found: Score) -> dict[str, list[float]]:
        """Mean of every column in every distance bin."""
        return {
            column: (np.bincount(position, weights=found.per_cell[column]) / number).tolist()
            for column in DISTANCE_COLUMNS
        }

    return {
        "from_um": edges_um,
        "num_cells": number.tolist(),
        "predictors": {name: means(predictor_score) for name, predictor_score in scores.items()},
    }


def calibration(prediction: Prediction, targets: Targets) -> dict[str, Any]:
    """Compare the sums and probabilities of a mean form with the actual ones; see `DEFINITION`."""
    curve = ReliabilityCurve(PROBABILITY_EDGES)
    for cells in row_slices(targets.values):
        curve.add(prediction.expressed[cells], targets.values[cells] > 0)
    num_cells = len(targets.values)
    row_sums = [float(values.sum(dtype=np.float64)) / num_cells for values in (prediction.mean, targets.values)]
    number, predicted, actual = curve.points()
    return {
        "row_sum": {"predicted": row_sums[0], "actual": row_sums[1]},
        "expressed": {"predicted": curve.mean_predicted, "actual": curve.mean_observed},
        "ece": curve.calibration_error,
        "reliability": {"num_entries": number, "predicted": predicted, "actual": actual},
    }
