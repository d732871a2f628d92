"""Hyper-parameters and gates, chosen on cells that are not scored: models and baselines alike, on the same cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.errors import CifmError
from cifm_cli.evaluation.metrics import average_ranks, correlations, gate
from cifm_cli.evaluation.predictors import infer_rounds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cifm_cli.evaluation.baselines import Estimate, Settings
    from cifm_cli.evaluation.metrics import Truth
    from cifm_cli.evaluation.predictors import Bench, Predictor
    from cifm_cli.evaluation.protocols import Round

NUM_ROUNDS = 2  # rounds of the tuning region
THRESHOLDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6)


@dataclass(frozen=True)
class Tuned:
    """What was chosen for a predictor.

    Args:
        settings: With the least squared error.
        threshold: Of the gate, with the highest Spearman correlation per cell.
    """

    settings: Settings
    threshold: float


def tune(predictor: Predictor, bench: Bench, rounds: Sequence[Round], truth: Truth) -> Tuned:
    """Choose the settings by squared error, then the gate by Spearman's correlation per cell.

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
    estimates = (infer_rounds(predictor, bench, rounds, settings) for settings in candidates)
    best_error, best, settings = np.inf, None, candidates[0]
    for candidate, estimate in zip(candidates, estimates, strict=True):
        error = float(np.square(estimate.mean - truth.values).mean(dtype=np.float64))
        if error < best_error:
            best_error, best, settings = error, estimate, candidate
    if best is None:
        raise CifmError(
            f"{predictor.name}: its predictions are not finite numbers", "train it again, or name another run"
        )
    return Tuned(settings, choose_threshold(best, truth))


def choose_threshold(estimate: Estimate, truth: Truth) -> float:
    """The gate that ranks the genes of a cell best."""
    gains = [
        correlations(average_ranks(gate(estimate, threshold).mean), truth.cell_ranks).mean() for threshold in THRESHOLDS
    ]
    return THRESHOLDS[int(np.argmax(gains))]
