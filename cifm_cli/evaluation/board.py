"""The scores of all predictors on the same cells and genes: who is best, by how much, and how surely."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cifm_cli.evaluation.intervals import holm, interval, p_value
from cifm_cli.evaluation.metrics import LOWER_IS_BETTER, METRICS

if TYPE_CHECKING:
    from cifm_cli.evaluation.metrics import Score

MODEL = "model"
MEAN, GATED = "mean", "gated"


@dataclass(frozen=True)
class Board:
    """Scores by predictor and form.

    Args:
        scores: Predictor, then form, to its score.
    """

    scores: dict[str, dict[str, Score]] = field(default_factory=dict)

    def best_form(self, predictor: str, metric: str) -> str:
        """The form of a predictor that does better by a metric."""
        return min(self.scores[predictor], key=lambda form: _cost(self.scores[predictor][form], metric))

    def best_baseline(self, metric: str) -> str:
        """The baseline whose better form does best by a metric."""
        baselines = [name for name in self.scores if not is_model(name)]
        return min(baselines, key=lambda name: _cost(self.scores[name][self.best_form(name, metric)], metric))

    def best(self, predictor: str, metric: str) -> Score:
        """The score of a predictor's better form."""
        return self.scores[predictor][self.best_form(predictor, metric)]

    def paired(self, metric: str, model: str = MODEL, rival: str | None = None) -> dict[str, Any]:
        """Best form of a model minus best form of a rival.

        Args:
            metric: Of `METRICS`.
            model: A model.
            rival: Another predictor; the best baseline when absent.

        Returns:
            The difference, its 95 % interval, and the p-value of there being none.
        """
        name = rival or self.best_baseline(metric)
        ours, theirs = self.best(model, metric), self.best(name, metric)
        low, high = interval(ours.draws[metric], theirs.draws[metric])
        return {
            "rival" if rival else "best_baseline": name,
            "form": self.best_form(name, metric),
            "model_form": self.best_form(model, metric),
            "difference": ours.metrics[metric] - theirs.metrics[metric],
            "low": low,
            "high": high,
            "p": p_value(ours.draws[metric], theirs.draws[metric]),
        }

    def all_paired(self, model: str = MODEL, rival: str | None = None) -> dict[str, dict[str, Any]]:
        """`paired` for every metric, with p-values corrected for their number (Holm)."""
        found = {metric: self.paired(metric, model, rival) for metric in METRICS}
        corrected = holm([pair["p"] for pair in found.values()])
        return {metric: {**pair, "p_holm": p} for (metric, pair), p in zip(found.items(), corrected, strict=True)}

    def further_models(self) -> list[str]:
        """Models after the first."""
        return [name for name in self.scores if is_model(name) and name != MODEL]

    def facts(self) -> dict[str, Any]:
        """For `metrics.json`: every metric, the first model against the best baseline, further models against both."""
        return {
            "predictors": {
                name: {form: found.metrics for form, found in forms.items()} for name, forms in self.scores.items()
            },
            "paired": self.all_paired(),
            "paired_models": {
                name: {"best_baseline": self.all_paired(name), MODEL: self.all_paired(name, MODEL)}
                for name in self.further_models()
            },
        }


def is_model(name: str) -> bool:
    """Whether a predictor is a model, not a baseline."""
    return name.partition(":")[0] == MODEL


def favours_model(pair: dict[str, Any], metric: str) -> bool | None:
    """Whether an interval lies on the model's side; None where it holds zero."""
    if pair["low"] <= 0 <= pair["high"]:
        return None
    return bool(pair["high"] < 0) == (metric in LOWER_IS_BETTER)


def _cost(found: Score, metric: str) -> float:
    return found.metrics[metric] * (1 if metric in LOWER_IS_BETTER else -1)
