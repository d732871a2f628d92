"""A baseline: the mean of a few nearest visible cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cifm_cli.evaluation.predictors.base import Baseline
from cifm_cli.evaluation.predictors.local_averages import average, nearest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cifm_cli.evaluation.predictors.base import Parameters
    from cifm_cli.inference.neighbourhood.visible_cells import VisibleCells
    from cifm_cli.inference.prediction import Prediction


class FewNearest(Baseline):
    """Mean of the k nearest visible cells."""

    name = "few_nearest"

    def __init__(self, k: int = 1) -> None:
        self.k = k

    def parameter_grid(self) -> list[Parameters]:
        """The numbers of cells that `cifm evaluate` chooses from."""
        return [{"k": k} for k in (1, 2, 3)]

    def predict(self, visible: VisibleCells, xy_um: NDArray[np.float64]) -> Prediction:
        """Predict the expression at (Q, 2) places, micrometres."""
        return average(nearest(visible, xy_um, int(self.k), width_um=float("inf")), visible)
