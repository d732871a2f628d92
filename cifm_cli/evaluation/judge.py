"""One slide before the judge: every predictor, mean and gated, on the same hidden cells."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli.evaluation.agreement import actual_types
from cifm_cli.evaluation.intervals import interval, spatial_blocks
from cifm_cli.evaluation.metrics import LOWER_IS_BETTER, METRICS, gate, score
from cifm_cli.evaluation.predictors import hidden_rows, infer_rounds
from cifm_cli.evaluation.protocols import distance_to_visible
from cifm_cli.evaluation.tuning import tune
from cifm_cli.report.terminal import progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.celltype.base import Annotator
    from cifm_cli.data.slide import Rows
    from cifm_cli.evaluation.agreement import Types
    from cifm_cli.evaluation.baselines import Estimate
    from cifm_cli.evaluation.intervals import Resampler
    from cifm_cli.evaluation.metrics import Score, Truth
    from cifm_cli.evaluation.predictors import Bench, Predictor
    from cifm_cli.evaluation.protocols import Round
    from cifm_cli.evaluation.tuning import Tuned

MODEL = "model"
MEAN, GATED = "mean", "gated"


@dataclass(frozen=True)
class Verdict:
    """Everything about one slide and geometry.

    Args:
        bench: The slide and what was scored.
        geometry: `scattered` or `region`.
        rows: (Q,) scored rows of the slide, ascending.
        round_number: (Q,) the round that hid each.
        distance_um: (Q,) to the nearest visible cell.
        truth: What was hidden.
        resampler: The bootstrap's blocks.
        scores: Predictor, then form, to its score.
        tuned: Predictor to what was chosen for it.
        types: Of the scored cells, where an annotator was asked for.
        agreement: Predictor, then form, to the share of cells given the type of their actual expression.
        kept: Predictor to its estimate, where it was asked for.
    """

    bench: Bench
    geometry: str
    rows: Rows
    round_number: NDArray[np.int64]
    distance_um: NDArray[np.float64]
    truth: Truth
    resampler: Resampler
    types: Types | None = None
    scores: dict[str, dict[str, Score]] = field(default_factory=dict)
    tuned: dict[str, Tuned] = field(default_factory=dict)
    agreement: dict[str, dict[str, float]] = field(default_factory=dict)
    kept: dict[str, Estimate] = field(default_factory=dict)

    def best_form(self, predictor: str, metric: str) -> str:
        """The form of a predictor that does better by a metric."""
        return min(self.scores[predictor], key=lambda form: _cost(self.scores[predictor][form], metric))

    def best_baseline(self, metric: str) -> str:
        """The baseline whose better form does best by a metric."""
        baselines = [name for name in self.scores if not is_model(name)]
        return min(baselines, key=lambda name: _cost(self.scores[name][self.best_form(name, metric)], metric))

    def paired(self, metric: str, model: str = MODEL) -> dict[str, Any]:
        """Best form of a model minus best form of the best baseline, with its 95 % interval."""
        baseline = self.best_baseline(metric)
        forms = [self.best_form(name, metric) for name in (model, baseline)]
        ours, theirs = (self.scores[name][form] for name, form in zip((model, baseline), forms, strict=True))
        low, high = interval(ours.draws[metric], theirs.draws[metric])
        return {
            "best_baseline": baseline,
            "form": forms[1],
            "model_form": forms[0],
            "difference": ours.metrics[metric] - theirs.metrics[metric],
            "low": low,
            "high": high,
        }

    def facts(self) -> dict[str, Any]:
        """The part of `metrics.json` that tells of this geometry."""
        facts: dict[str, Any] = {
            "num_cells": len(self.rows),
            "num_rounds": int(self.round_number.max()) + 1,
            "blocks": {"num": self.resampler.num_blocks, "side_um": self.resampler.side_um},
            "predictors": {
                name: {form: found.metrics for form, found in forms.items()} for name, forms in self.scores.items()
            },
            "tuned": {name: {**tuned.settings, "threshold": tuned.threshold} for name, tuned in self.tuned.items()},
            "paired": {metric: self.paired(metric) for metric in METRICS},
        }
        if self.types:
            facts["typing"] = {"num_typed": int(self.types.typed.sum()), "agreement": self.agreement}
        return facts


def is_model(name: str) -> bool:
    """Whether a predictor is a model, not a baseline."""
    return name.partition(":")[0] == MODEL


def _cost(found: Score, metric: str) -> float:
    return found.metrics[metric] * (1 if metric in LOWER_IS_BETTER else -1)


def judge(
    bench: Bench,
    geometry: str,
    predictors: Sequence[Predictor],
    rounds: Sequence[Round],
    tuning_rounds: Sequence[Round],
    keep: Sequence[str] = (),
    annotator: Annotator | None = None,
) -> Verdict:
    """Tune every predictor on some rounds and score it on others.

    Args:
        bench: The slide and what is scored.
        geometry: Name of the rounds' geometry.
        predictors: Models first, then baselines.
        rounds: What is scored.
        tuning_rounds: What is tuned on.
        keep: Predictors whose estimates stay in memory.
        annotator: Types actual and predicted cells, to see whether they agree.

    Returns:
        The verdict.
    """
    verdict = _open(bench, geometry, rounds, annotator)
    tuning_truth = bench.truth(hidden_rows(tuning_rounds))
    with progress(f"{bench.slide.name}, {geometry}", len(predictors) * len(rounds)) as advance:
        for predictor in predictors:
            advance(0, f"{bench.slide.name}, {geometry}: {predictor.name}")
            tuned = tune(predictor, bench, tuning_rounds, tuning_truth)
            estimate = infer_rounds(predictor, bench, rounds, tuned.settings, advance)
            verdict.tuned[predictor.name] = tuned
            forms = {MEAN: estimate, GATED: gate(estimate, tuned.threshold)}
            verdict.scores[predictor.name] = _score_forms(verdict, forms)
            if verdict.types:
                agree = verdict.types.agreement
                verdict.agreement[predictor.name] = {form: agree(found.mean) for form, found in forms.items()}
            if predictor.name in keep:
                verdict.kept[predictor.name] = estimate
    return verdict


def _score_forms(verdict: Verdict, forms: dict[str, Estimate]) -> dict[str, Score]:
    """Score both forms side by side."""
    with ThreadPoolExecutor() as pool:
        scores = pool.map(lambda found: score(verdict.truth, found, verdict.resampler), forms.values())
        return dict(zip(forms, scores, strict=True))


def _open(bench: Bench, geometry: str, rounds: Sequence[Round], annotator: Annotator | None) -> Verdict:
    rows = hidden_rows(rounds)
    round_number, distance_um = np.empty(len(rows), dtype=np.int64), np.empty(len(rows))
    for part in rounds:
        position = np.searchsorted(rows, part.hidden)
        round_number[position], distance_um[position] = part.number, distance_to_visible(bench.slide.xy_um, part)
    resampler = spatial_blocks(bench.slide.xy_um[rows], bench.radius_um, bench.seed)
    types = actual_types(annotator, bench, rows) if annotator else None
    return Verdict(bench, geometry, rows, round_number, distance_um, bench.truth(rows), resampler, types)
