"""Evaluation of predictors on one slide and geometry: tune each on some folds, score it on others.

The result of a predictor depends on no other predictor, so predictors can be evaluated in any order or process.

Letters: Q scored cells, P scored genes.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from cifm_cli.errors import CifmError
from cifm_cli.evaluation.comparison import GATED, MEAN, Comparison
from cifm_cli.evaluation.folds import distance_to_visible, hidden_rows
from cifm_cli.evaluation.metrics.calibration import by_distance, calibration, distance_bins
from cifm_cli.evaluation.metrics.cell_states import evaluate_states, slide_states
from cifm_cli.evaluation.metrics.cell_types import type_cells
from cifm_cli.evaluation.metrics.counts import mean_deviance
from cifm_cli.evaluation.metrics.expression import score
from cifm_cli.evaluation.metrics.noise_ceiling import noise_ceiling
from cifm_cli.evaluation.metrics.ranking import correlations, order_gated, rank_in_order, row_slices
from cifm_cli.evaluation.predictors.base import MODEL, ModelPredictor, is_model, predict_folds
from cifm_cli.statistics.bootstrap import spatial_bootstrap

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from cifm_cli.celltype.base import Annotator
    from cifm_cli.data.slide import Rows
    from cifm_cli.evaluation.dataset import EvaluationDataset
    from cifm_cli.evaluation.examples import Targets
    from cifm_cli.evaluation.folds import Fold
    from cifm_cli.evaluation.metrics.cell_states import StateResult
    from cifm_cli.evaluation.metrics.cell_types import CellTypes, TypeAgreement
    from cifm_cli.evaluation.metrics.expression import Score
    from cifm_cli.evaluation.predictors.base import Parameters, Predictor
    from cifm_cli.inference.prediction import Prediction
    from cifm_cli.statistics.bootstrap import Bootstrap

    Values = NDArray[np.float32]

# The mean form has the lowest squared error. The gated form is sparse, as measured cells are, and ranks genes better:
# gating alone raises the Spearman correlation of a plain k-NN by half, so baselines are gated as models are.
COUNTS_SAMPLED, STATES_SAMPLED = "drawn", "sampled"  # further forms, of which only cell types are evaluated
MIN_SHOWN_FRACTION = 0.05  # of the cells that express a gene of the maps: the map of a rarer one is all but empty
THRESHOLDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6)  # of P(expressed), for the gated form


@dataclass(frozen=True)
class Tuned:
    """What was chosen for a predictor."""

    parameters: Parameters  # hyper-parameters with the lowest squared error
    count_parameters: Parameters  # hyper-parameters with the lowest deviance, for the composition
    threshold: float  # of the gate, with the highest Spearman correlation per cell

    def to_json(self) -> dict[str, Any]:
        """For `metrics.json`."""
        composition = {} if self.count_parameters == self.parameters else {"composition": self.count_parameters}
        return {**self.parameters, "threshold": self.threshold, **composition}


@dataclass(frozen=True)
class PredictorResult:
    """The result of one predictor."""

    predictor: str  # its name
    tuned: Tuned  # what was chosen for it
    scores: list[dict[str, Score]]  # form to its score, on all genes and then on each of the gene sets
    calibration: dict[str, Any]  # calibration of its probabilities and sums
    states: StateResult | None  # its distribution over cell states, where it has one
    agreement: dict[str, TypeAgreement]  # form to the agreement of its cell types, where there is an annotator
    prediction: Prediction | None  # the mean form, where it is to be saved
    shown: ShownGenes | None = None  # of the first model
    adaptation: dict[str, Any] | None = None  # what the adaptation of a model chose; None if it was used as trained


class ShownGenes(NamedTuple):
    """A few genes of the first model, for maps: those that it predicts best, middling and worst."""

    genes: NDArray[np.int64]  # their positions among the P genes, the best first
    values: Values  # (Q, genes) their predicted expression, mean form


class GeneSetResult(NamedTuple):
    """Scores on some of the genes."""

    genes: NDArray[np.int64]  # ascending positions among the P genes
    targets: Targets  # actual expression of these genes
    comparison: Comparison


@dataclass(frozen=True)
class EvaluationResult:
    """The results of all predictors on one slide and geometry."""

    dataset: EvaluationDataset
    geometry: str  # name of the geometry
    rows: Rows  # (Q,) scored rows of the slide, ascending
    fold_number: NDArray[np.int64]  # (Q,) the fold that hid each cell
    distance_um: NDArray[np.float64]  # (Q,) distance to the nearest visible cell
    targets: Targets  # actual expression
    bootstrap: Bootstrap  # of the scored cells
    comparison: Comparison  # scores on all genes
    cell_types: CellTypes | None = None  # types of the scored cells, where there is an annotator
    gene_sets: dict[str, GeneSetResult] = field(default_factory=dict)  # scores on some of the genes
    calibration: dict[str, Any] = field(default_factory=dict)  # predictor to its calibration
    tuned: dict[str, Tuned] = field(default_factory=dict)  # predictor to what was chosen for it
    # predictor to its mean form, where it is to be saved
    predictions: dict[str, Prediction] = field(default_factory=dict)
    # model to its distribution over cell states, where it has one
    states: dict[str, StateResult] = field(default_factory=dict)
    shown: list[ShownGenes] = field(default_factory=list)  # of the first model, once it is there
    adaptations: dict[str, Any] = field(default_factory=dict)  # adapted model to what its adaptation chose

    @cached_property
    def ceiling(self) -> dict[str, Any]:
        """The limit that shot noise sets to each metric."""
        return noise_ceiling(self.dataset, self.rows, self.targets, self.bootstrap)

    @property
    def scores(self) -> dict[str, dict[str, Score]]:
        """Predictor, then form, to its score on all genes."""
        return self.comparison.scores

    def add(self, result: PredictorResult) -> None:
        """Add the result of one predictor."""
        name = result.predictor
        self.tuned[name], self.calibration[name] = result.tuned, result.calibration
        comparisons = [self.comparison, *(gene_set.comparison for gene_set in self.gene_sets.values())]
        for comparison, forms in zip(comparisons, result.scores, strict=True):
            comparison.scores[name] = forms
        if result.states:
            self.states[name] = result.states
        if self.cell_types:
            self.cell_types.agreement[name] = result.agreement
        if result.prediction:
            self.predictions[name] = result.prediction
        if result.shown:
            self.shown.append(result.shown)
        if result.adaptation:
            self.adaptations[name] = result.adaptation

    def to_json(self) -> dict[str, Any]:
        """The part of `metrics.json` about this geometry."""
        edges_um, position = distance_bins(self.distance_um, self.dataset.radius_um)
        means = {name: forms[MEAN] for name, forms in self.scores.items()}
        facts: dict[str, Any] = {
            "num_cells": len(self.rows),
            "num_rounds": int(self.fold_number.max()) + 1,
            "blocks": {"num": self.bootstrap.num_blocks, "side_um": self.bootstrap.side_um},
            **self.comparison.to_json(),
            "tuned": {name: tuned.to_json() for name, tuned in self.tuned.items()},
            "ceiling": self.ceiling,
            "by_distance": by_distance(means, edges_um, position),
            "calibration": self.calibration,
            "subsets": {
                name: {"num_genes": len(gene_set.genes), **gene_set.comparison.to_json()}
                for name, gene_set in self.gene_sets.items()
            },
        }
        if self.states:
            facts["distribution"] = {name: states.to_json() for name, states in self.states.items()}
        if self.cell_types:
            baselines = [name for name in self.scores if not is_model(name)]
            facts["typing"] = self.cell_types.to_json() | {"paired": self.cell_types.paired(MODEL, baselines)}
        return facts


def open_result(
    dataset: EvaluationDataset, geometry: str, folds: Sequence[Fold], annotator: Annotator | None
) -> EvaluationResult:
    """Collect the actual values of the scored cells, before any predictor."""
    rows = hidden_rows(folds)
    fold_number, distance_um = np.empty(len(rows), dtype=np.int64), np.empty(len(rows))
    for fold in folds:
        position = np.searchsorted(rows, fold.hidden)
        fold_number[position], distance_um[position] = fold.number, distance_to_visible(dataset.slide.xy_um, fold)
    bootstrap = spatial_bootstrap(dataset.slide.xy_um[rows], dataset.radius_um, dataset.seed)
    cell_types = type_cells(annotator, dataset, rows, bootstrap) if annotator else None
    targets = dataset.targets(rows)
    gene_sets = {
        name: GeneSetResult(genes, targets.take_genes(genes), Comparison(bootstrap))
        for name, genes in dataset.gene_sets.items()
    }
    comparison = Comparison(bootstrap)
    return EvaluationResult(
        dataset, geometry, rows, fold_number, distance_um, targets, bootstrap, comparison, cell_types, gene_sets
    )


@dataclass(frozen=True)
class Evaluator:
    """Tunes and scores predictors on one slide and geometry."""

    result: EvaluationResult  # without predictors at first; `EvaluationResult.add` adds theirs
    folds: Sequence[Fold]  # folds that are scored
    tuning_folds: Sequence[Fold]  # folds that are tuned on
    save: Sequence[str] = ()  # names of the predictors whose predictions are to be saved

    @cached_property
    def tuning_targets(self) -> Targets:
        """Actual expression in the folds that are tuned on."""
        return self.result.dataset.targets(hidden_rows(self.tuning_folds))

    def num_passes(self, predictor: Predictor) -> int:
        """Number of folds that `evaluate` predicts: those it tunes on, once for each candidate, and those it scores."""
        return len(predictor.parameter_grid()) * len(self.tuning_folds) + len(self.folds)

    def evaluate(self, predictor: Predictor, advance: Callable[..., None] | None = None) -> PredictorResult:
        """Tune a predictor and score it; `advance` is called `num_passes` times, after each fold."""
        result, dataset = self.result, self.result.dataset
        tuned = tune(predictor, dataset, self.tuning_folds, self.tuning_targets, advance)
        prediction = predict_folds(predictor, dataset, self.folds, tuned.parameters, advance)
        # The composition is scored by its deviance, for which other hyper-parameters can be better than for the mean.
        if tuned.count_parameters != tuned.parameters:
            counts = predict_folds(predictor, dataset, self.folds, tuned.count_parameters)
            prediction = replace(prediction, composition=counts.composition)
        forms = {MEAN: prediction, GATED: prediction.gated(tuned.threshold)}
        scores = _score_forms(result, forms)
        states = adaptation = None
        if isinstance(predictor, ModelPredictor):
            # Where each fold has an adaptation of its own, only that of the last one is still there.
            adaptation = predictor.model_for(dataset, self.folds[-1]).adaptation
        if isinstance(predictor, ModelPredictor) and prediction.states is not None:
            of_slide = slide_states(dataset, predictor.model_for(dataset, self.folds[0]))
            if of_slide:
                states = evaluate_states(of_slide, prediction.states, self.folds, self.tuning_folds, result.bootstrap)
        return PredictorResult(
            predictor.name,
            tuned,
            scores,
            calibration(prediction, result.targets),
            states,
            _type_agreement(result, predictor.name, forms, states),
            prediction if predictor.name in self.save else None,
            _choose_genes(result.targets, scores[0][MEAN], prediction) if predictor.name == MODEL else None,
            adaptation.facts if adaptation else None,
        )


def _choose_genes(targets: Targets, score: Score, prediction: Prediction) -> ShownGenes | None:
    """The genes of the highest, the median and the lowest correlation, among those that enough cells express."""
    is_expressed = targets.by_gene > 0
    candidates = np.flatnonzero(is_expressed.mean(axis=1) >= MIN_SHOWN_FRACTION)
    candidates = candidates if len(candidates) else np.flatnonzero(is_expressed.any(axis=1))
    if not len(candidates):
        return None
    order = candidates[np.argsort(-score.per_gene["pearson"][candidates], kind="stable")]
    genes = order[list(dict.fromkeys((0, len(order) // 2, len(order) - 1)))]
    return ShownGenes(genes, prediction.mean[:, genes])


def _score_forms(result: EvaluationResult, forms: dict[str, Prediction]) -> list[dict[str, Score]]:
    """Score both forms at the same time, on all genes and on the gene sets."""

    def score_form(prediction: Prediction) -> list[Score]:
        """Score one form on all genes, then on every gene set."""
        return [
            score(result.targets, prediction, result.bootstrap),
            *(
                score(gene_set.targets, prediction.take_genes(gene_set.genes), result.bootstrap).without_tables()
                for gene_set in result.gene_sets.values()
            ),
        ]

    # NumPy and the compiled loops release the interpreter lock, so two threads use two cores.
    with ThreadPoolExecutor() as pool:
        by_form = list(pool.map(score_form, forms.values()))
    return [dict(zip(forms, scores, strict=True)) for scores in zip(*by_form, strict=True)]


def _type_agreement(
    result: EvaluationResult, name: str, forms: dict[str, Prediction], states: StateResult | None
) -> dict[str, TypeAgreement]:
    """Agreement of the types of a predictor's forms and samples, where there is an annotator."""
    if not result.cell_types:
        return {}
    values = {form: prediction.mean for form, prediction in forms.items()}
    values[COUNTS_SAMPLED] = result.cell_types.sample_counts(forms[MEAN], result.targets, name)
    if states:
        values[STATES_SAMPLED] = states.sampled
    return result.cell_types.compare(values)


def tune(
    predictor: Predictor,
    dataset: EvaluationDataset,
    folds: Sequence[Fold],
    targets: Targets,
    advance: Callable[..., None] | None = None,
) -> Tuned:
    """Choose hyper-parameters by squared error and by deviance, then the gate by Spearman's correlation per cell.

    Args:
        predictor: The predictor to tune.
        dataset: The slide.
        folds: Folds of the tuning region.
        targets: Actual expression of `hidden_rows(folds)`.
        advance: Called after each fold of each candidate.

    Returns:
        The choice; of equals the first, and the same hyper-parameters for both where they are equally good.

    Raises:
        CifmError: No candidate predicts finite numbers.
    """
    grid = predictor.parameter_grid()
    lowest_error, best, chosen = np.inf, None, 0
    deviances = []
    for number, parameters in enumerate(grid):
        prediction = predict_folds(predictor, dataset, folds, parameters, advance)
        error = float(np.square(prediction.mean - targets.values).mean(dtype=np.float64))
        if error < lowest_error:  # never true for NaN
            lowest_error, best, chosen = error, prediction, number
        # With a single candidate there is nothing to choose.
        deviance = mean_deviance(prediction, targets) if len(grid) > 1 else 0.0
        deviances.append(deviance if np.isfinite(deviance) else np.inf)
    if best is None:
        raise CifmError(
            f"{predictor.name}: its predictions are not finite numbers", "train it again, or name another run"
        )
    for_counts = chosen if deviances[chosen] == min(deviances) else int(np.argmin(deviances))
    return Tuned(grid[chosen], grid[for_counts], choose_threshold(best, targets))


def choose_threshold(prediction: Prediction, targets: Targets) -> float:
    """Choose the threshold of P(expressed) with the highest Spearman correlation per cell."""
    ranks = targets.cell_ranks

    def gains(cells: slice) -> NDArray[np.float64]:
        """Correlations of a slice of cells at every threshold."""
        return _gated_correlations(prediction.mean[cells], prediction.expressed[cells], ranks[cells])

    # As many threads as torch may use: with several processes, each has its part of the cores.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        by_slice = list(pool.map(gains, row_slices(prediction.mean)))
    return THRESHOLDS[int(np.argmax(np.concatenate(by_slice, axis=1).mean(axis=1)))]


def _gated_correlations(mean: Values, expressed: Values, target_ranks: Values) -> NDArray[np.float64]:
    """(T, n) Spearman's correlation of n cells at each threshold; their genes are sorted only once."""
    order, ranks = np.argsort(mean, axis=1), np.empty_like(mean)
    by_threshold = []
    for threshold in THRESHOLDS:
        gated, gated_order = mean * (expressed > threshold), order.copy()
        order_gated(gated, order, gated_order)
        rank_in_order(gated, gated_order, ranks)
        by_threshold.append(correlations(ranks, target_ranks))
    return np.stack(by_threshold)
