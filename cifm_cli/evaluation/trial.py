"""What one predictor goes through: it is tuned, it infers, and all that there is to say of that is written down."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cifm_cli.evaluation.board import GATED, MEAN
from cifm_cli.evaluation.breakdown import calibration
from cifm_cli.evaluation.cell_states import open_states
from cifm_cli.evaluation.distribution import judge_distribution
from cifm_cli.evaluation.metrics import gate, score
from cifm_cli.evaluation.predictors import ModelPredictor, hidden_rows, infer_rounds
from cifm_cli.evaluation.tuning import tune

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cifm_cli.evaluation.context import Estimate
    from cifm_cli.evaluation.distribution import Distributions
    from cifm_cli.evaluation.judge import Verdict
    from cifm_cli.evaluation.metrics import Score
    from cifm_cli.evaluation.predictors import Predictor
    from cifm_cli.evaluation.protocols import Round
    from cifm_cli.evaluation.truth import Truth
    from cifm_cli.evaluation.tuning import Tuned
    from cifm_cli.evaluation.type_overlap import Agreement

DRAWN, SAMPLED = "drawn", "sampled"


@dataclass(frozen=True)
class Finding:
    """What was found of one predictor.

    Args:
        predictor: Its name.
        tuned: What was chosen for it.
        scores: Form to its score, on all genes and then on each of the subsets.
        calibration: Whether it means what it says.
        distributions: Its distribution over cell states beside the neighbours', where it has one.
        agreement: Form to the agreement of its types, where an annotator was asked for.
        kept: Its estimate, where it was asked for.
    """

    predictor: str
    tuned: Tuned
    scores: list[dict[str, Score]]
    calibration: dict[str, Any]
    distributions: Distributions | None
    agreement: dict[str, Agreement]
    kept: Estimate | None


@dataclass(frozen=True)
class Trial:
    """What every predictor goes through on one slide and geometry.

    Args:
        verdict: Without a predictor yet.
        rounds: What is scored.
        tuning_rounds: What is tuned on.
        keep: Predictors whose estimates stay in memory.
    """

    verdict: Verdict
    rounds: Sequence[Round]
    tuning_rounds: Sequence[Round]
    keep: Sequence[str] = ()

    @cached_property
    def tuning_truth(self) -> Truth:
        """What is hidden in the rounds that are tuned on."""
        return self.verdict.bench.truth(hidden_rows(self.tuning_rounds))

    def examine(self, predictor: Predictor, advance: Callable[..., None] | None = None) -> Finding:
        """Tune a predictor and score it.

        Args:
            predictor: A model or a baseline.
            advance: Called after each scored round.

        Returns:
            What was found; nothing of it depends on other predictors.
        """
        verdict, name = self.verdict, predictor.name
        bench = verdict.bench
        tuned = tune(predictor, bench, self.tuning_rounds, self.tuning_truth)
        estimate = infer_rounds(predictor, bench, self.rounds, tuned.settings, advance)
        if tuned.count_settings != tuned.settings:
            counted = infer_rounds(predictor, bench, self.rounds, tuned.count_settings)
            estimate = replace(estimate, composition=counted.composition)
        forms = {MEAN: estimate, GATED: gate(estimate, tuned.threshold)}
        scores = _score_forms(verdict, forms)
        book = open_states(bench, predictor.engine) if isinstance(predictor, ModelPredictor) else None
        distributions = None
        if book and estimate.states is not None:
            distributions = judge_distribution(
                book, estimate.states, self.rounds, self.tuning_rounds, verdict.resampler
            )
        return Finding(
            name,
            tuned,
            scores,
            calibration(estimate, verdict.truth),
            distributions,
            _agreement(verdict, name, forms, distributions),
            estimate if name in self.keep else None,
        )


def _score_forms(verdict: Verdict, forms: dict[str, Estimate]) -> list[dict[str, Score]]:
    """Score both forms side by side, on all genes and on the subsets."""

    def score_form(found: Estimate) -> list[Score]:
        everything = score(verdict.truth, found, verdict.resampler)
        return [
            everything,
            *(
                score(part.truth, found.of_genes(part.genes), verdict.resampler).without_details()
                for part in verdict.subsets.values()
            ),
        ]

    with ThreadPoolExecutor() as pool:
        by_form = list(pool.map(score_form, forms.values()))
    return [dict(zip(forms, scores, strict=True)) for scores in zip(*by_form, strict=True)]


def _agreement(
    verdict: Verdict, name: str, forms: dict[str, Estimate], distributions: Distributions | None
) -> dict[str, Agreement]:
    """Type what a predictor says, where an annotator was asked for."""
    if not verdict.types:
        return {}
    drawn = verdict.types.draw_counts(forms[MEAN], verdict.truth, name)
    values = {form: found.mean for form, found in forms.items()} | {DRAWN: drawn}
    if distributions:
        values[SAMPLED] = distributions.sampled
    verdict.types.compare(name, values)
    return verdict.types.found[name]
