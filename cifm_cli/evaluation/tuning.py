"""Hyper-parameters and gates, chosen on cells that are not scored: models and baselines alike, on the same cells."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cifm_cli.errors import CifmError
from cifm_cli.evaluation.compiled import order_gated, rank_in_order
from cifm_cli.evaluation.deviance import mean_deviance
from cifm_cli.evaluation.predictors import infer_rounds
from cifm_cli.evaluation.ranking import correlations, pieces

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.evaluation.bench import Bench
    from cifm_cli.evaluation.context import Estimate, Settings
    from cifm_cli.evaluation.predictors import Predictor
    from cifm_cli.evaluation.protocols import Round
    from cifm_cli.evaluation.truth import Truth

    Values = NDArray[np.float32]

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
        The choice; the first of equals, and the same settings for both where they do equally well.

    Raises:
        CifmError: No candidate predicts finite numbers.
    """
    candidates = predictor.candidates()
    best_error, best, settings = np.inf, None, 0
    deviances = []
    for number, candidate in enumerate(candidates):
        estimate = infer_rounds(predictor, bench, rounds, candidate)
        error = float(np.square(estimate.mean - truth.values).mean(dtype=np.float64))
        if error < best_error:
            best_error, best, settings = error, estimate, number
        found = mean_deviance(estimate, truth) if len(candidates) > 1 else 0.0
        deviances.append(found if np.isfinite(found) else np.inf)
    if best is None:
        raise CifmError(
            f"{predictor.name}: its predictions are not finite numbers", "train it again, or name another run"
        )
    counted = settings if deviances[settings] == min(deviances) else int(np.argmin(deviances))
    return Tuned(candidates[settings], candidates[counted], choose_threshold(best, truth))


def choose_threshold(estimate: Estimate, truth: Truth) -> float:
    """The gate that ranks the genes of a cell best."""
    actual = truth.cell_ranks
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # the share of this process, where several judge
        gains = list(
            pool.map(
                lambda part: _gains(estimate.mean[part], estimate.share[part], actual[part]), pieces(estimate.mean)
            )
        )
    return THRESHOLDS[int(np.argmax(np.concatenate(gains, axis=1).mean(axis=1)))]


def _gains(mean: Values, share: Values, actual: Values) -> NDArray[np.float64]:
    """(T, n) Spearman's correlation of n cells at every threshold; their genes are sorted but once."""
    order, ranks = np.argsort(mean, axis=1), np.empty_like(mean)
    gained = []
    for threshold in THRESHOLDS:
        gated, gated_order = mean * (share > threshold), order.copy()
        order_gated(gated, order, gated_order)
        rank_in_order(gated, gated_order, ranks)
        gained.append(correlations(ranks, actual))
    return np.stack(gained)
