"""Distributions over cell states: those of a model, beside the frequencies of neighbours and of training cells.

A distribution has K probabilities for each hidden cell. Samples of it are real training cells, each of a state drawn from
the distribution. Only proper scores are used: log loss of the actual state, and the energy score of sampled cells.

Letters: Q hidden cells, V visible cells, T training cells, K states, P genes, m samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from scipy.sparse import csr_matrix

from cifm_cli import keys
from cifm_cli.evaluation.folds import hidden_rows
from cifm_cli.evaluation.predictors.base import MODEL
from cifm_cli.evaluation.predictors.local_averages import nearest
from cifm_cli.model.states import nearest_state
from cifm_cli.provenance import numpy_generator
from cifm_cli.statistics.bootstrap import Statistic
from cifm_cli.statistics.scores import calibration_error, log_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows
    from cifm_cli.evaluation.dataset import EvaluationDataset
    from cifm_cli.evaluation.folds import Fold
    from cifm_cli.evaluation.predictors.base import Parameters
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.statistics.bootstrap import Bootstrap

    Floats = NDArray[np.float64]
    Values = NDArray[np.float32]

NEIGHBOURS: Final = "neighbours"
TRAINING: Final = "training_frequency"
SCORES: Final = ("log_loss", "energy_score")
NUM_NEIGHBOURS: Final = (32, 128, 512)
WIDTHS: Final = (0.75, 1.0, 1.5, 2.0, 3.0, 5.0)  # of the kernel, radii
# Cells' worth of training frequencies in every frequency; with the largest, the neighbours have no weight.
PRIOR_COUNTS: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 32.0, 128.0, 1e6)
NUM_SAMPLES: Final = 8  # cells sampled for the energy score
_ROWS_AT_ONCE: Final = 20_000
_CELLS_AT_ONCE: Final = 1_000
_MIN_PROBABILITY: Final = 1e-9  # smaller ones are raised to this before the logarithm


@dataclass(frozen=True)
class SlideStates:
    """The states of one model, and the state of each cell of a slide."""

    dataset: EvaluationDataset
    model: LoadedModel  # a model that has states
    profiles: torch.Tensor  # (K, P) mean expression of each state over the genes that model and slide share

    @property
    def num_states(self) -> int:
        """K."""
        return len(self.profiles)

    @cached_property
    def state(self) -> NDArray[np.int64]:
        """(N,) state of each cell of the slide, from its own expression."""
        slide, columns = self.dataset.slide, self.model.panel(self.dataset.slide).columns
        state = np.empty(slide.num_cells, dtype=np.int64)
        for start in range(0, slide.num_cells, _ROWS_AT_ONCE):
            rows = np.arange(start, min(start + _ROWS_AT_ONCE, slide.num_cells))
            values = slide.expression(rows, self.dataset.target_sum)[:, columns].toarray()
            state[rows] = nearest_state(torch.from_numpy(values), self.profiles).numpy()
        return state

    def visible_rows(self, fold: Fold) -> Rows:
        """(V,) visible cells with counts, the columns of `neighbour_weights`."""
        return fold.visible[self.dataset.slide.total_counts[fold.visible] > 0]

    def training_rows(self, fold: Fold) -> Rows:
        """(T,) training cells with counts that are not hidden; the visible cells where there are none."""
        slide = self.dataset.slide
        rows = np.setdiff1d(slide.region(keys.TRAIN), fold.hidden, assume_unique=True)
        rows = rows[slide.total_counts[rows] > 0]
        return rows if len(rows) else self.visible_rows(fold)

    def training_frequency(self, fold: Fold) -> Floats:
        """(K,) fraction of the training cells in each state, with one cell added to each."""
        number = np.bincount(self.state[self.training_rows(fold)], minlength=self.num_states) + 1.0
        return np.asarray(number / number.sum())


def slide_states(dataset: EvaluationDataset, model: LoadedModel) -> SlideStates | None:
    """The states of a model on a slide; None for a model without states."""
    parameters = model.slide_parameters(dataset.slide)
    return SlideStates(dataset, model, parameters.state_profiles.cpu()) if parameters else None


def neighbour_parameter_grid() -> list[Parameters]:
    """Hyper-parameters of the neighbour frequencies: k, kernel width in radii, weight of the training frequencies."""
    return [
        {"k": k, "width": width, "belief": prior_count}
        for k in NUM_NEIGHBOURS
        for width in WIDTHS
        for prior_count in PRIOR_COUNTS
    ]


def neighbour_weights(states: SlideStates, fold: Fold, parameters: Parameters) -> csr_matrix:
    """Weights of the visible cells around each hidden cell: (Q, V), see `local_averages.nearest`."""
    dataset = states.dataset
    width_um = parameters["width"] * dataset.radius_um
    return nearest(dataset.visible_cells(fold), dataset.slide.xy_um[fold.hidden], int(parameters["k"]), width_um)


def neighbour_frequencies(states: SlideStates, fold: Fold, weights: csr_matrix, prior_count: float) -> Values:
    """Weighted frequency of each state among the visible cells around each hidden cell.

    Args:
        states: States of the slide.
        fold: Which cells are hidden.
        weights: (Q, V) from `neighbour_weights`.
        prior_count: Number of cells that the training frequencies count as.

    Returns:
        (Q, K) probabilities.
    """
    rows = states.visible_rows(fold)
    member = csr_matrix(
        (np.ones(len(rows)), states.state[rows], np.arange(len(rows) + 1)), shape=(len(rows), states.num_states)
    )
    sums = (weights @ member).toarray() + prior_count * states.training_frequency(fold)
    return np.asarray(sums / sums.sum(axis=1, keepdims=True), dtype=np.float32)


def sample_from_states(
    states: SlideStates, fold: Fold, probability: Values, num_samples: int, generator: np.random.Generator
) -> Rows:
    """Sample real training cells, each of a state drawn from the distribution; never a hidden one.

    Args:
        states: States of the slide.
        fold: Which cells are hidden.
        probability: (Q, K).
        num_samples: m.
        generator: Source of randomness; used up.

    Returns:
        (Q, m) rows of the slide.
    """
    pool = states.training_rows(fold)
    pool = pool[np.argsort(states.state[pool], kind="stable")]
    number = np.bincount(states.state[pool], minlength=states.num_states)
    cumulated = np.cumsum(probability.astype(np.float64) * (number > 0), axis=1)
    uniform = generator.random((len(probability), num_samples)) * cumulated[:, -1:]
    state = (uniform[:, :, None] >= cumulated[:, None, :]).sum(axis=2).clip(max=int(np.flatnonzero(number)[-1]))
    first = np.cumsum(number) - number
    return np.asarray(pool[first[state] + (generator.random(state.shape) * number[state]).astype(np.int64)])


def sample_neighbours(
    states: SlideStates,
    fold: Fold,
    weights: csr_matrix,
    prior_count: float,
    num_samples: int,
    generator: np.random.Generator,
) -> Rows:
    """Sample the neighbours themselves by weight, or with the probability of the prior a random training cell.

    Args:
        states: States of the slide.
        fold: Which cells are hidden; none of them is sampled.
        weights: (Q, V) from `neighbour_weights`.
        prior_count: Number of cells that the training cells count as.
        num_samples: m.
        generator: Source of randomness; used up.

    Returns:
        (Q, m) rows of the slide.
    """
    rows, pool = states.visible_rows(fold), states.training_rows(fold)
    mass = np.asarray(weights.sum(axis=1)).ravel()
    position = generator.random((len(mass), num_samples)) * (mass + prior_count)[:, None]
    # The cumulative sum over all weights is one ascending line, in which each hidden cell has a section of its own.
    line = np.cumsum(weights.data, dtype=np.float64)
    start = np.concatenate([[0.0], line])[weights.indptr[:-1]]
    own = np.minimum(np.searchsorted(line, start[:, None] + position, side="right"), weights.indptr[1:, None] - 1)
    random_cell = pool[(generator.random(position.shape) * len(pool)).astype(np.int64)]
    return np.asarray(np.where(position < mass[:, None], rows[weights.indices[own]], random_cell))


def energy_score(actual: Values, samples: Values) -> Floats:
    """Energy score, mean |X - y| - mean |X - X'| / 2 over different samples: lowest in expectation for the true law.

    Args:
        actual: (Q, P) y.
        samples: (Q, m, P) X, m at least 2.

    Returns:
        (Q,).
    """
    m = samples.shape[1]
    distance = np.linalg.norm(samples - actual[:, None], axis=2).mean(axis=1, dtype=np.float64)
    between = np.zeros(len(actual))
    for first in range(m):
        for second in range(first):
            between += np.linalg.norm(samples[:, first] - samples[:, second], axis=1)
    return np.asarray(distance - between / (m * (m - 1)))


@dataclass(frozen=True)
class StateScore:
    """Scores of one distribution."""

    per_cell: dict[str, Floats]  # score to its (Q,) values; lower is better
    confidence: Floats  # (Q,) probability of the likeliest state
    correct: NDArray[np.bool_]  # (Q,) whether it is the actual one
    tuned: Parameters = field(default_factory=dict)  # hyper-parameters that were chosen

    def to_json(self) -> dict[str, Any]:
        """For `metrics.json`: mean scores, perplexity, and whether the probabilities are calibrated."""
        means = {name: float(values.mean()) for name, values in self.per_cell.items()}
        return {
            **means,
            "perplexity": float(np.exp(means["log_loss"])),
            "accuracy": float(self.correct.mean()),
            "mean_confidence": float(self.confidence.mean()),
            "calibration_error": calibration_error(self.confidence, self.correct),
            **({"tuned": self.tuned} if self.tuned else {}),
        }


@dataclass(frozen=True)
class StateResult:
    """The distribution of a model beside the two that it must outperform."""

    num_states: int  # K
    scores: dict[str, StateScore]  # `model`, `neighbours` or `training_frequency` to its score
    sampled: Values  # (Q, P) log-normalised expression of one cell sampled from the model for each hidden cell
    bootstrap: Bootstrap  # of the scored cells

    def to_json(self) -> dict[str, Any]:
        """For `metrics.json`: scores, and model minus the better reference with 95 % intervals."""
        return {
            "num_states": self.num_states,
            "predictors": {name: score.to_json() for name, score in self.scores.items()},
            "paired": {name: self.paired(name) for name in SCORES},
        }

    def paired(self, name: str) -> dict[str, Any]:
        """Model minus the better of the two references, absolute with its interval, and relative to the reference."""

        def statistic(values: Floats) -> Statistic:
            """The mean with its bootstrap draws."""
            return Statistic(float(values.mean()), self.bootstrap.mean(values))

        model = self.scores[MODEL].per_cell[name]
        best = min((NEIGHBOURS, TRAINING), key=lambda other: float(self.scores[other].per_cell[name].mean()))
        reference = self.scores[best].per_cell[name]
        interval = self.bootstrap.compare(statistic(model), statistic(reference))
        difference = float((model - reference).mean())
        # Where all cells are in one state, the loss of the reference is zero, and nothing is relative to it.
        relative = difference / float(reference.mean()) if reference.any() else 0.0
        return {
            "rival": best,
            "difference": difference,
            "low": interval.low,
            "high": interval.high,
            "relative": relative,
        }


def evaluate_states(
    states: SlideStates,
    predicted: Values,
    folds: Sequence[Fold],
    tuning_folds: Sequence[Fold],
    bootstrap: Bootstrap,
) -> StateResult:
    """Score the states that a model predicts. The neighbours' kernel is tuned by log loss, as every baseline is tuned.

    Args:
        states: States of the model on the slide.
        predicted: (Q, K) probabilities, in the order of `hidden_rows(folds)`.
        folds: Folds that are scored.
        tuning_folds: Folds that are tuned on.
        bootstrap: Of the scored cells, in ascending order.

    Returns:
        The scores.
    """
    dataset = states.dataset
    rows = np.concatenate([fold.hidden for fold in folds])
    ascending = np.argsort(rows)
    of_model = [predicted[np.searchsorted(hidden_rows(folds), fold.hidden)] for fold in folds]
    parameters = _tune(states, tuning_folds)
    prior_count = parameters["belief"]
    weights = [neighbour_weights(states, fold, parameters) for fold in folds]
    of_neighbours = [
        neighbour_frequencies(states, fold, around, prior_count) for fold, around in zip(folds, weights, strict=True)
    ]
    of_training = [np.tile(states.training_frequency(fold).astype(np.float32), (len(fold.hidden), 1)) for fold in folds]
    samples = {
        MODEL: _sample(states, folds, MODEL, lambda n, fold, *how: sample_from_states(states, fold, of_model[n], *how)),
        NEIGHBOURS: _sample(
            states,
            folds,
            NEIGHBOURS,
            lambda n, fold, *how: sample_neighbours(states, fold, weights[n], prior_count, *how),
        ),
        TRAINING: _sample(
            states, folds, TRAINING, lambda n, fold, *how: sample_from_states(states, fold, of_training[n], *how)
        ),
    }
    probabilities = {MODEL: of_model, NEIGHBOURS: of_neighbours, TRAINING: of_training}
    actual = dataset.slide.expression(rows, dataset.target_sum)[:, dataset.columns].toarray()
    scores = {
        name: _score(
            np.concatenate(parts), states.state[rows], _energy_scores(dataset, actual, samples[name]), ascending
        )
        for name, parts in probabilities.items()
    }
    scores[NEIGHBOURS].tuned.update(parameters)
    first_sample = samples[MODEL][ascending, 0]
    sampled = dataset.slide.expression(first_sample, dataset.target_sum)[:, dataset.columns].toarray()
    return StateResult(states.num_states, scores, sampled, bootstrap)


def _score(probability: Values, state: NDArray[np.int64], energy: Floats, order: Rows) -> StateScore:
    correct = probability.argmax(axis=1) == state
    per_cell = {
        "log_loss": log_loss(probability, state, smallest=_MIN_PROBABILITY)[order],
        "energy_score": energy[order],
    }
    return StateScore(per_cell, probability.max(axis=1).astype(np.float64)[order], correct[order])


def _sample(states: SlideStates, folds: Sequence[Fold], name: str, sample: Callable[..., Rows]) -> Rows:
    """(Q, m) cells sampled fold by fold, each fold from a generator of its own."""
    seed = states.dataset.seed
    return np.concatenate(
        [
            sample(position, fold, NUM_SAMPLES, numpy_generator(seed, "distribution", name, fold.number))
            for position, fold in enumerate(folds)
        ]
    )


def _tune(states: SlideStates, folds: Sequence[Fold]) -> Parameters:
    """The hyper-parameters of the neighbour frequencies with the lowest log loss."""
    lowest, chosen = np.inf, neighbour_parameter_grid()[0]
    weights: dict[tuple[float, float], list[Any]] = {}
    for parameters in neighbour_parameter_grid():
        kernel = (parameters["k"], parameters["width"])
        if kernel not in weights:  # only the latest kernel stays in memory
            weights = {kernel: [neighbour_weights(states, fold, parameters) for fold in folds]}
        losses = [
            log_loss(
                neighbour_frequencies(states, fold, around, parameters["belief"]),
                states.state[fold.hidden],
                smallest=_MIN_PROBABILITY,
            )
            for fold, around in zip(folds, weights[kernel], strict=True)
        ]
        if (loss := float(np.concatenate(losses).mean())) < lowest:
            lowest, chosen = loss, parameters
    return chosen


def _energy_scores(dataset: EvaluationDataset, actual: Values, samples: Rows) -> Floats:
    """Energy score of every hidden cell, in log-normalised expression."""
    scores = []
    for start in range(0, len(actual), _CELLS_AT_ONCE):
        cells = slice(start, start + _CELLS_AT_ONCE)
        rows = samples[cells]
        values = dataset.slide.expression(rows.ravel(), dataset.target_sum)[:, dataset.columns].toarray()
        scores.append(energy_score(actual[cells], values.reshape(*rows.shape, -1)))
    return np.concatenate(scores)
