"""A baseline: the mean of a few nearest visible cells."""

from __future__ import annotations

import numpy as np

from cifm_cli.evaluation.predictors.base import Baseline
from cifm_cli.evaluation.predictors.local_averages import average, nearest
from cifm_cli.inference.neighbourhood.visible_cells import VisibleCells
from cifm_cli.inference.prediction import Prediction


class FewNearest(Baseline):
    """Mean of k nearest visible cells; k is tuned by the evaluation."""

    name = "few_nearest"

    def __init__(self, k: int = 1) -> None:
        self.k = k

    def parameter_grid(self) -> list[dict[str, float]]:
        """Hyper-parameters that the evaluation tries."""
        return [{"k": k} for k in (1, 2, 3)]

    def predict(self, visible: VisibleCells, xy_um: np.ndarray) -> Prediction:
        """Predict hidden cells at (M, 2) positions from the visible cells."""
        return average(nearest(visible, xy_um, self.k, width_um=float("inf")), visible)
