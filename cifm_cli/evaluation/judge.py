"""One slide before the judge: every predictor, mean and gated, on the same hidden cells."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cifm_cli.evaluation.agreement import actual_types
from cifm_cli.evaluation.board import GATED, MEAN, MODEL, Board, is_model
from cifm_cli.evaluation.breakdown import by_distance, calibration, distance_bins
from cifm_cli.evaluation.ceiling import noise_ceiling
from cifm_cli.evaluation.cell_states import open_states
from cifm_cli.evaluation.distribution import judge_distribution
from cifm_cli.evaluation.intervals import spatial_blocks
from cifm_cli.evaluation.metrics import gate, score
from cifm_cli.evaluation.predictors import ModelPredictor, hidden_rows, infer_rounds
from cifm_cli.evaluation.protocols import distance_to_visible
from cifm_cli.evaluation.tuning import tune
from cifm_cli.report.terminal import progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.celltype.base import Annotator
    from cifm_cli.data.slide import Rows
    from cifm_cli.evaluation.agreement import Types
    from cifm_cli.evaluation.context import Estimate
    from cifm_cli.evaluation.distribution import Distributions
    from cifm_cli.evaluation.intervals import Resampler
    from cifm_cli.evaluation.metrics import Score
    from cifm_cli.evaluation.predictors import Bench, Predictor
    from cifm_cli.evaluation.protocols import Round
    from cifm_cli.evaluation.truth import Truth
    from cifm_cli.evaluation.tuning import Tuned

DRAWN, SAMPLED = "drawn", "sampled"


class Subset(NamedTuple):
    """Some of the genes, and how well they are predicted.

    Args:
        genes: Ascending positions among the P.
        truth: Of these genes.
        board: The scores.
    """

    genes: NDArray[np.int64]
    truth: Truth
    board: Board


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
        board: Scores on all genes.
        subsets: Scores on some of them.
        ceiling: What noise leaves to be predicted.
        calibration: Predictor to whether it means what it says.
        tuned: Predictor to what was chosen for it.
        types: Of the scored cells and of what is predicted for them, where an annotator was asked for.
        kept: Predictor to its estimate, where it was asked for.
        distributions: Model to its distribution over cell states, beside the neighbours', where it has one.
    """

    bench: Bench
    geometry: str
    rows: Rows
    round_number: NDArray[np.int64]
    distance_um: NDArray[np.float64]
    truth: Truth
    resampler: Resampler
    types: Types | None = None
    board: Board = field(default_factory=Board)
    subsets: dict[str, Subset] = field(default_factory=dict)
    ceiling: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    tuned: dict[str, Tuned] = field(default_factory=dict)
    kept: dict[str, Estimate] = field(default_factory=dict)
    distributions: dict[str, Distributions] = field(default_factory=dict)

    @property
    def scores(self) -> dict[str, dict[str, Score]]:
        """Predictor, then form, to its score on all genes."""
        return self.board.scores

    def facts(self) -> dict[str, Any]:
        """The part of `metrics.json` that tells of this geometry."""
        edges_um, place = distance_bins(self.distance_um, self.bench.radius_um)
        means = {name: forms[MEAN] for name, forms in self.scores.items()}
        facts: dict[str, Any] = {
            "num_cells": len(self.rows),
            "num_rounds": int(self.round_number.max()) + 1,
            "blocks": {"num": self.resampler.num_blocks, "side_um": self.resampler.side_um},
            **self.board.facts(),
            "tuned": {name: tuned.facts() for name, tuned in self.tuned.items()},
            "ceiling": self.ceiling,
            "by_distance": by_distance(means, edges_um, place),
            "calibration": self.calibration,
            "subsets": {
                name: {"num_genes": len(subset.genes), **subset.board.facts()} for name, subset in self.subsets.items()
            },
        }
        if self.distributions:
            facts["distribution"] = {name: found.facts() for name, found in self.distributions.items()}
        if self.types:
            baselines = [name for name in self.scores if not is_model(name)]
            facts["typing"] = self.types.facts() | {"paired": self.types.paired(MODEL, baselines)}
        return facts


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
            if tuned.count_settings != tuned.settings:
                counted = infer_rounds(predictor, bench, rounds, tuned.count_settings)
                estimate = replace(estimate, composition=counted.composition)
            verdict.tuned[predictor.name] = tuned
            forms = {MEAN: estimate, GATED: gate(estimate, tuned.threshold)}
            _score_forms(verdict, predictor.name, forms)
            verdict.calibration[predictor.name] = calibration(estimate, verdict.truth)
            book = open_states(bench, predictor.engine) if isinstance(predictor, ModelPredictor) else None
            if book and estimate.states is not None:
                verdict.distributions[predictor.name] = judge_distribution(
                    book, estimate.states, rounds, tuning_rounds, verdict.resampler
                )
            if verdict.types:
                drawn = verdict.types.draw_counts(estimate, verdict.truth, predictor.name)
                values = {form: found.mean for form, found in forms.items()} | {DRAWN: drawn}
                if distribution := verdict.distributions.get(predictor.name):
                    values[SAMPLED] = distribution.sampled
                verdict.types.compare(predictor.name, values)
            if predictor.name in keep:
                verdict.kept[predictor.name] = estimate
    return verdict


def _score_forms(verdict: Verdict, name: str, forms: dict[str, Estimate]) -> None:
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
        scores = list(pool.map(score_form, forms.values()))
    for number, board in enumerate([verdict.board, *(part.board for part in verdict.subsets.values())]):
        board.scores[name] = {form: found[number] for form, found in zip(forms, scores, strict=True)}


def _open(bench: Bench, geometry: str, rounds: Sequence[Round], annotator: Annotator | None) -> Verdict:
    rows = hidden_rows(rounds)
    round_number, distance_um = np.empty(len(rows), dtype=np.int64), np.empty(len(rows))
    for part in rounds:
        position = np.searchsorted(rows, part.hidden)
        round_number[position], distance_um[position] = part.number, distance_to_visible(bench.slide.xy_um, part)
    resampler = spatial_blocks(bench.slide.xy_um[rows], bench.radius_um, bench.seed)
    types = actual_types(annotator, bench, rows, resampler) if annotator else None
    truth = bench.truth(rows)
    verdict = Verdict(bench, geometry, rows, round_number, distance_um, truth, resampler, types)
    verdict.ceiling.update(noise_ceiling(truth, resampler, bench.seed))
    for name, genes in bench.subsets.items():
        verdict.subsets[name] = Subset(genes, truth.of_genes(genes), Board())
    return verdict
