"""One slide before the judge: every predictor, mean and gated, on the same hidden cells."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cifm_cli.evaluation.agreement import actual_types
from cifm_cli.evaluation.board import MEAN, MODEL, Board, is_model
from cifm_cli.evaluation.breakdown import by_distance, distance_bins
from cifm_cli.evaluation.ceiling import noise_ceiling
from cifm_cli.evaluation.intervals import spatial_blocks
from cifm_cli.evaluation.predictors import hidden_rows
from cifm_cli.evaluation.protocols import distance_to_visible
from cifm_cli.evaluation.trial import Trial
from cifm_cli.report.terminal import progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from cifm_cli.celltype.base import Annotator
    from cifm_cli.data.slide import Rows
    from cifm_cli.evaluation.agreement import Types
    from cifm_cli.evaluation.bench import Bench
    from cifm_cli.evaluation.context import Estimate
    from cifm_cli.evaluation.distribution import Distributions
    from cifm_cli.evaluation.intervals import Resampler
    from cifm_cli.evaluation.metrics import Score
    from cifm_cli.evaluation.predictors import Predictor
    from cifm_cli.evaluation.protocols import Round
    from cifm_cli.evaluation.trial import Finding
    from cifm_cli.evaluation.truth import Truth
    from cifm_cli.evaluation.tuning import Tuned


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
    calibration: dict[str, Any] = field(default_factory=dict)
    tuned: dict[str, Tuned] = field(default_factory=dict)
    kept: dict[str, Estimate] = field(default_factory=dict)
    distributions: dict[str, Distributions] = field(default_factory=dict)

    @cached_property
    def ceiling(self) -> dict[str, Any]:
        """What noise leaves to be predicted."""
        return noise_ceiling(self.bench, self.rows, self.truth, self.resampler)

    @property
    def scores(self) -> dict[str, dict[str, Score]]:
        """Predictor, then form, to its score on all genes."""
        return self.board.scores

    def take(self, finding: Finding) -> None:
        """Put in what was found of one predictor."""
        name = finding.predictor
        self.tuned[name], self.calibration[name] = finding.tuned, finding.calibration
        for board, forms in zip(
            [self.board, *(part.board for part in self.subsets.values())], finding.scores, strict=True
        ):
            board.scores[name] = forms
        if finding.distributions:
            self.distributions[name] = finding.distributions
        if self.types:
            self.types.found[name] = finding.agreement
        if finding.kept:
            self.kept[name] = finding.kept

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


def open_verdict(bench: Bench, geometry: str, rounds: Sequence[Round], annotator: Annotator | None) -> Verdict:
    """See what is hidden, before any predictor.

    Args:
        bench: The slide and what is scored.
        geometry: Name of the rounds' geometry.
        rounds: What is scored.
        annotator: Types cells.

    Returns:
        A verdict without predictors.
    """
    rows = hidden_rows(rounds)
    round_number, distance_um = np.empty(len(rows), dtype=np.int64), np.empty(len(rows))
    for part in rounds:
        position = np.searchsorted(rows, part.hidden)
        round_number[position], distance_um[position] = part.number, distance_to_visible(bench.slide.xy_um, part)
    resampler = spatial_blocks(bench.slide.xy_um[rows], bench.radius_um, bench.seed)
    types = actual_types(annotator, bench, rows, resampler) if annotator else None
    truth = bench.truth(rows)
    verdict = Verdict(bench, geometry, rows, round_number, distance_um, truth, resampler, types)
    for name, genes in bench.subsets.items():
        verdict.subsets[name] = Subset(genes, truth.of_genes(genes), Board())
    return verdict


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
    trial = Trial(open_verdict(bench, geometry, rounds, annotator), rounds, tuning_rounds, keep)
    return run_trial(trial, predictors, trial.examine)


def run_trial(
    trial: Trial, predictors: Sequence[Predictor], examine: Callable[[Predictor, Callable[..., None]], Finding]
) -> Verdict:
    """Put all predictors through a trial.

    Args:
        trial: On one slide and geometry.
        predictors: Models first, then baselines.
        examine: `Trial.examine`, here or in another process.

    Returns:
        The verdict.
    """
    verdict, num_rounds = trial.verdict, len(trial.rounds)
    where = f"{verdict.bench.slide.name}, {verdict.geometry}"
    with progress(where, len(predictors) * num_rounds) as advance:
        for predictor in predictors:
            advance(0, f"{where}: {predictor.name}")
            verdict.take(examine(predictor, advance))
    return verdict
