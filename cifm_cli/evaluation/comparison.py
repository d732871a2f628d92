"""Comparison of predictors: the best form of each, the best baseline, and paired differences on one or several slides.

Letters: R draws of the bootstrap.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli.evaluation.metrics.expression import LOWER_IS_BETTER, METRICS
from cifm_cli.evaluation.predictors.base import MODEL, UNINFORMED, is_model
from cifm_cli.statistics.bootstrap import compare_over_slides, holm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cifm_cli.evaluation.metrics.expression import Score
    from cifm_cli.statistics.bootstrap import Bootstrap

MEAN, GATED = "mean", "gated"
ALPHA = 0.05  # level of the corrected p below which a difference is called one


@dataclass(frozen=True)
class Comparison:
    """Scores of all predictors on the same cells and genes."""

    bootstrap: Bootstrap  # of the scored cells
    scores: dict[str, dict[str, Score]] = field(default_factory=dict)  # predictor, then form, to its score

    def best_form(self, predictor: str, metric: str) -> str:
        """The form of a predictor that is better by a metric."""
        return min(self.scores[predictor], key=lambda form: self.scores[predictor][form].cost(metric))

    def best(self, predictor: str, metric: str) -> Score:
        """The score of the better form of a predictor."""
        return self.scores[predictor][self.best_form(predictor, metric)]

    def best_baseline(self, metric: str) -> str:
        """The baseline whose better form is best by a metric; see `real_baselines`."""
        return min(self.real_baselines(), key=lambda name: self.best(name, metric).cost(metric))

    def real_baselines(self) -> list[str]:
        """Baselines that a model must beat: all but constants and random draws, or all where there are no others."""
        baselines = [name for name in self.scores if not is_model(name)]
        return [name for name in baselines if name not in UNINFORMED] or baselines

    def further_models(self) -> list[str]:
        """Models after the first."""
        return [name for name in self.scores if is_model(name) and name != MODEL]

    def paired(self, metric: str, model: str = MODEL, reference: str | None = None) -> dict[str, Any]:
        """Better form of a model minus better form of a reference, which is the best baseline when absent."""
        name = reference or self.best_baseline(metric)
        paired = self.bootstrap.compare(
            self.best(model, metric).statistic(metric), self.best(name, metric).statistic(metric)
        )
        return {
            "rival" if reference else "best_baseline": name,
            "form": self.best_form(name, metric),
            "model_form": self.best_form(model, metric),
            "difference": paired.difference,
            "low": paired.low,
            "high": paired.high,
            "p": paired.p,
            "constant": self._better_constant(metric, model),
        }

    def _better_constant(self, metric: str, model: str) -> str | None:
        """A constant or random draws that score better than a model; None if none does."""
        cost = self.best(model, metric).cost(metric)
        costs = {name: self.best(name, metric).cost(metric) for name in self.scores if name in UNINFORMED}
        return next((name for name in sorted(costs, key=lambda name: costs[name]) if costs[name] < cost), None)

    def all_paired(self, model: str = MODEL, reference: str | None = None) -> dict[str, dict[str, Any]]:
        """`paired` for every metric, with p-values corrected for the number of metrics (Holm)."""
        paired = {metric: self.paired(metric, model, reference) for metric in METRICS}
        corrected = holm([pair["p"] for pair in paired.values()])
        return {metric: {**pair, "p_holm": p} for (metric, pair), p in zip(paired.items(), corrected, strict=True)}

    def to_json(self) -> dict[str, Any]:
        """For `metrics.json`: every metric, the first model against the best baseline, further models against both."""
        return {
            "predictors": {
                name: {form: score.metrics for form, score in forms.items()} for name, forms in self.scores.items()
            },
            "paired": self.all_paired(),
            "paired_models": {
                name: {"best_baseline": self.all_paired(name), MODEL: self.all_paired(name, MODEL)}
                for name in self.further_models()
            },
        }


def favours_model(pair: dict[str, Any], metric: str) -> bool | None:
    """Whether a difference is on the model's side of zero.

    Args:
        pair: `low` and `high`, the 95 % interval; `p_holm`, where it was corrected for the number of metrics; and
            `constant`, where a constant or random draws were compared too.
        metric: The metric.

    Returns:
        None where the interval includes zero, or the corrected p is not below `ALPHA`: no difference is shown. Also None
        instead of True where a constant or random draws score better than the model: that measure can be won without
        knowing anything.
    """
    if pair["low"] <= 0 <= pair["high"] or pair.get("p_holm", 0.0) >= ALPHA:
        return None
    is_better = bool(pair["high"] < 0) == (metric in LOWER_IS_BETTER)
    return None if is_better and pair.get("constant") else is_better


def undecided_reason(pair: dict[str, Any], metric: str) -> str:
    """Why no difference is shown although the interval excludes zero.

    Args:
        pair: As for `favours_model`.
        metric: The metric.

    Returns:
        A few words; empty where a difference is shown, and where the interval includes zero, which is reason enough.
    """
    if favours_model(pair, metric) is not None or pair["low"] <= 0 <= pair["high"]:
        return ""
    if pair.get("p_holm", 0.0) >= ALPHA:
        return f"corrected p not below {ALPHA:g}"
    return f"{pair['constant']} scores better"


def overall(comparisons: dict[str, list[Comparison]], seed: int, groups: Sequence[str] | None = None) -> dict[str, Any]:
    """Compare the model with the best baseline over several slides.

    Args:
        comparisons: Geometry to the comparisons of its slides.
        seed: The user's seed.
        groups: Group of each slide, such as its patient; the slides of a group are resampled together. None: each slide
            is a group.

    Returns:
        Geometry, then metric, to the baseline with the best mean over slides, the mean difference and its 95 %
        interval, the p-value, also corrected for the number of metrics, the number of slides on which the model is better,
        and `each_slide`: the same against the best baseline of each slide. Nothing for the geometries of a single slide.
    """
    found = {}
    for geometry, of_slides in comparisons.items():
        if len(of_slides) > 1:
            by_metric = {metric: _overall_metric(of_slides, metric, seed, groups) for metric in METRICS}
            _correct(list(by_metric.values()))
            _correct([pair["each_slide"] for pair in by_metric.values()])
            found[geometry] = by_metric
    return found


def _correct(pairs: Sequence[dict[str, Any]]) -> None:
    """Add `p_holm`, corrected for the number of pairs."""
    for pair, p in zip(pairs, holm([pair["p"] for pair in pairs]), strict=True):
        pair["p_holm"] = p


def _overall_metric(
    comparisons: Sequence[Comparison], metric: str, seed: int, groups: Sequence[str] | None
) -> dict[str, Any]:
    # One baseline for all slides: choosing the best one for each slide would favour the baselines.
    baseline = min(
        comparisons[0].real_baselines(),
        key=lambda name: sum(slide.best(name, metric).cost(metric) for slide in comparisons),
    )
    of_each = [slide.best_baseline(metric) for slide in comparisons]
    return {
        "best_baseline": baseline,
        **_mean_difference(comparisons, [baseline] * len(comparisons), metric, seed, groups),
        "num_slides": len(comparisons),
        "num_groups": len(comparisons) if groups is None else len(set(groups)),
        "each_slide": _mean_difference(comparisons, of_each, metric, seed, groups),
    }


def _mean_difference(
    comparisons: Sequence[Comparison],
    baselines: Sequence[str],
    metric: str,
    seed: int,
    groups: Sequence[str] | None,
) -> dict[str, Any]:
    """The model minus the given baseline of each slide, averaged over slides."""
    pairs = [
        (slide.best(MODEL, metric).statistic(metric), slide.best(baseline, metric).statistic(metric))
        for slide, baseline in zip(comparisons, baselines, strict=True)
    ]
    decidable = all(slide.bootstrap.decidable for slide in comparisons)
    differences = [model.value - reference.value for model, reference in pairs]
    draws = np.stack([model.draws - reference.draws for model, reference in pairs])
    mean = compare_over_slides(differences, draws, seed, decidable=decidable, groups=groups)
    is_lower_better = metric in LOWER_IS_BETTER
    facts: dict[str, Any] = {
        "difference": mean.difference,
        "low": mean.low,
        "high": mean.high,
        "p": mean.p,
        "num_better": sum(difference != 0 and (difference < 0) == is_lower_better for difference in differences),
    }
    if is_lower_better and all(reference.value > 0 and (reference.draws > 0).all() for _, reference in pairs):
        percent = compare_over_slides(
            [100 * (model.value / reference.value - 1) for model, reference in pairs],
            np.stack([100 * (model.draws / reference.draws - 1) for model, reference in pairs]),
            seed,
            decidable=decidable,
            groups=groups,
        )
        facts["percent"] = {"difference": percent.difference, "low": percent.low, "high": percent.high}
    return facts
