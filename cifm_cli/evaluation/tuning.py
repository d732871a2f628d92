"""Hyper-parameters and gates, chosen on cells that are not scored: models and baselines alike, on the same cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli.errors import CifmError
from cifm_cli.evaluation.deviance import mean_deviance
from cifm_cli.evaluation.metrics import gate
from cifm_cli.evaluation.predictors import infer_rounds
from cifm_cli.evaluation.ranking import average_ranks, correlations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cifm_cli.evaluation.context import Estimate, Settings
    from cifm_cli.evaluation.predictors import Bench, Predictor
    from cifm_cli.evaluation.protocols import Round
    from cifm_cli.evaluation.truth import Truth

NUM_ROUNDS = 2  # rounds of the tuning region
THRESHOLDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6)


@dataclass(frozen=True)
class Tuned:
    """What was chosen for a predictor.

    Args:
        settings: With the least squared error.
        count_settings: With the least deviance, for the composition.
        threshold: Of the gate, with the highest Spearman correlation per cell.
    """

    settings: Settings
    count_settings: Settings
    threshold: float

    def facts(self) -> dict[str, Any]:
        """For `metrics.json`."""
        counted = {} if self.count_settings == self.settings else {"composition": self.count_settings}
        return {**self.settings, "threshold": self.threshold, **counted}


def tune(predictor: Predictor, bench: Bench, rounds: Sequence[Round], truth: Truth) -> Tuned:
    """Choose settings by squared error and by deviance, then the gate by Spearman's correlation per cell.

    Args:
        predictor: Who is tuned.
        bench: The slide and what is scored.
        rounds: Of the tuning region.
        truth: Of `hidden_rows(rounds)`.

    Returns:
        The choice; the first of equals.

    Raises:
        CifmError: No candidate predicts finite numbers.
    """
    candidates = predictor.candidates()
    best_error, best, settings = np.inf, None, candidates[0]
    best_deviance, count_settings = np.inf, candidates[0]
    for candidate in candidates:
        estimate = infer_rounds(predictor, bench, rounds, candidate)
        error = float(np.square(estimate.mean - truth.values).mean(dtype=np.float64))
        if error < best_error:
            best_error, best, settings = error, estimate, candidate
        if len(candidates) > 1 and (found := mean_deviance(estimate, truth)) < best_deviance:
            best_deviance, count_settings = found, candidate
    if best is None:
        raise CifmError(
            f"{predictor.name}: its predictions are not finite numbers", "train it again, or name another run"
        )
    return Tuned(settings, count_settings, choose_threshold(best, truth))


def choose_threshold(estimate: Estimate, truth: Truth) -> float:
    """The gate that ranks the genes of a cell best."""
    gains = [
        correlations(average_ranks(gate(estimate, threshold).mean), truth.cell_ranks).mean() for threshold in THRESHOLDS
    ]
    return THRESHOLDS[int(np.argmax(gains))]
