"""Scores of distributions: a model's states beside the tuned frequencies of the neighbours and of the training cells.

Proper scores only: log loss of the actual state, and the energy score of cells drawn from the distribution.

Letters: Q hidden cells, K states, P genes, m draws.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli.evaluation.board import MODEL
from cifm_cli.evaluation.cell_states import (
    draw_of_neighbours,
    draw_of_states,
    log_loss,
    neighbour_frequencies,
    neighbour_settings,
    neighbour_weights,
)
from cifm_cli.evaluation.intervals import interval
from cifm_cli.evaluation.predictors import hidden_rows
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows
    from cifm_cli.evaluation.bench import Bench
    from cifm_cli.evaluation.cell_states import StateBook
    from cifm_cli.evaluation.context import Settings
    from cifm_cli.evaluation.intervals import Resampler
    from cifm_cli.evaluation.protocols import Round

NEIGHBOURS: Final = "neighbours"
TRAINING: Final = "training_frequency"
SCORES: Final = ("log_loss", "energy_score")
NUM_DRAWS: Final = 8  # cells drawn for the energy score
NUM_BINS: Final = 10  # of the reliability curve
_CELLS_AT_ONCE: Final = 1_000


@dataclass(frozen=True)
class DistributionScore:
    """How good a distribution is.

    Args:
        per_cell: Score to its (Q,) values; lower is better.
        top: (Q,) probability of the likeliest state.
        right: (Q,) whether that is the actual one.
        tuned: What was chosen, for those that are tuned.
    """

    per_cell: dict[str, NDArray[np.float64]]
    top: NDArray[np.float64]
    right: NDArray[np.bool_]
    tuned: Settings = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """For `metrics.json`: mean scores, perplexity, and whether the probabilities mean what they say."""
        means = {name: float(values.mean()) for name, values in self.per_cell.items()}
        return {
            **means,
            "perplexity": float(np.exp(means["log_loss"])),
            "accuracy": float(self.right.mean()),
            "mean_confidence": float(self.top.mean()),
            "calibration_error": calibration_error(self.top, self.right),
            **({"tuned": self.tuned} if self.tuned else {}),
        }


@dataclass(frozen=True)
class Distributions:
    """A model's distribution beside what it must beat.

    Args:
        num_states: K.
        scores: `model`, `neighbours` or `training_frequency` to its score.
        sampled: (Q, P) log-normalised expression of one cell drawn from the model for each hidden cell.
        resampler: The bootstrap's blocks.
    """

    num_states: int
    scores: dict[str, DistributionScore]
    sampled: NDArray[np.float32]
    resampler: Resampler

    def facts(self) -> dict[str, Any]:
        """For `metrics.json`: scores, and model minus its best rival with 95 % intervals over spatial blocks."""
        return {
            "num_states": self.num_states,
            "predictors": {name: found.facts() for name, found in self.scores.items()},
            "paired": {name: self.paired(name) for name in SCORES},
        }

    def paired(self, name: str) -> dict[str, Any]:
        """Model minus the better of the two others.

        Args:
            name: Of `SCORES`.

        Returns:
            The rival, the difference, its interval, and the difference as a share of the rival's score.
        """
        ours = self.scores[MODEL].per_cell[name]
        rival = min((NEIGHBOURS, TRAINING), key=lambda other: float(self.scores[other].per_cell[name].mean()))
        theirs = self.scores[rival].per_cell[name]
        low, high = interval(self.resampler.mean(ours), self.resampler.mean(theirs))
        difference = float((ours - theirs).mean())
        # Where all cells are in one state nobody is surprised, and there is nothing to be relative to.
        relative = difference / float(theirs.mean()) if theirs.any() else 0.0
        return {"rival": rival, "difference": difference, "low": low, "high": high, "relative": relative}


def judge_distribution(
    book: StateBook,
    states: NDArray[np.float32],
    rounds: Sequence[Round],
    tuning_rounds: Sequence[Round],
    resampler: Resampler,
) -> Distributions:
    """Score a model's states; the neighbours' kernel is tuned by log loss on other rounds, as every baseline is.

    Args:
        book: The model's states, and the slide's.
        states: (Q, K) what the model says of `hidden_rows(rounds)`.
        rounds: What is scored.
        tuning_rounds: What is tuned on.
        resampler: Blocks of the scored cells, ascending.

    Returns:
        The scores.
    """
    bench = book.bench
    rows = np.concatenate([part.hidden for part in rounds])
    back = np.argsort(rows)
    state = book.state[rows]
    ours = [states[np.searchsorted(hidden_rows(rounds), part.hidden)] for part in rounds]
    settings = _tune(book, tuning_rounds)
    belief = settings["belief"]
    around = [neighbour_weights(book, part, settings) for part in rounds]
    frequencies = [
        neighbour_frequencies(book, part, weights, belief) for part, weights in zip(rounds, around, strict=True)
    ]
    training = [np.tile(book.frequency(part).astype(np.float32), (len(part.hidden), 1)) for part in rounds]
    drawn = {
        MODEL: _draw(book, rounds, MODEL, lambda n, part, *how: draw_of_states(book, part, ours[n], *how)),
        NEIGHBOURS: _draw(
            book, rounds, NEIGHBOURS, lambda n, part, *how: draw_of_neighbours(book, part, around[n], belief, *how)
        ),
        TRAINING: _draw(book, rounds, TRAINING, lambda n, part, *how: draw_of_states(book, part, training[n], *how)),
    }
    said = {MODEL: ours, NEIGHBOURS: frequencies, TRAINING: training}
    truth = bench.slide.expression(rows, bench.target_sum)[:, bench.columns].toarray()
    scores = {
        name: _score(np.concatenate(probability), state, _energy_scores(bench, truth, drawn[name]), back)
        for name, probability in said.items()
    }
    scores[NEIGHBOURS].tuned.update(settings)
    sampled = bench.slide.expression(drawn[MODEL][back, 0], bench.target_sum)[:, bench.columns].toarray()
    return Distributions(book.num_states, scores, sampled, resampler)


def _score(
    probability: NDArray[np.float32], state: NDArray[np.int64], energy: NDArray[np.float64], order: Rows
) -> DistributionScore:
    right = probability.argmax(axis=1) == state
    per_cell = {"log_loss": log_loss(probability, state)[order], "energy_score": energy[order]}
    return DistributionScore(per_cell, probability.max(axis=1).astype(np.float64)[order], right[order])


def _draw(book: StateBook, rounds: Sequence[Round], name: str, draw: Callable[..., Rows]) -> Rows:
    """(Q, m) cells drawn round by round, each round from a generator of its own."""
    seed = book.bench.seed
    return np.concatenate(
        [
            draw(number, part, NUM_DRAWS, numpy_generator(seed, "distribution", name, part.number))
            for number, part in enumerate(rounds)
        ]
    )


def energy_score(truth: NDArray[np.float32], draws: NDArray[np.float32]) -> NDArray[np.float64]:
    """Energy score, mean |X - y| - mean |X - X'| / 2 over different draws: lowest in expectation for the true law.

    Args:
        truth: (Q, P) y.
        draws: (Q, m, P) X, m at least 2.

    Returns:
        (Q,).
    """
    m = draws.shape[1]
    far = np.linalg.norm(draws - truth[:, None], axis=2).mean(axis=1, dtype=np.float64)
    apart = np.zeros(len(truth))
    for first in range(m):
        for second in range(first):
            apart += np.linalg.norm(draws[:, first] - draws[:, second], axis=1)
    return np.asarray(far - apart / (m * (m - 1)))


def calibration_error(top: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Expected calibration error of the likeliest state: |mean probability - share right|, over equal bins.

    Args:
        top: (Q,) probability of the likeliest state.
        right: (Q,) whether it is the actual one.

    Returns:
        The mean over the cells.
    """
    bins = np.minimum((top * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    gaps = np.bincount(bins, weights=top - right, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(top))


def _tune(book: StateBook, rounds: Sequence[Round]) -> Settings:
    """The neighbours' settings with the least log loss."""
    best, chosen = np.inf, neighbour_settings()[0]
    weights: dict[tuple[float, float], list[Any]] = {}
    for settings in neighbour_settings():
        kernel = (settings["k"], settings["width"])
        if kernel not in weights:
            weights = {kernel: [neighbour_weights(book, part, settings) for part in rounds]}
        losses = [
            log_loss(neighbour_frequencies(book, part, around, settings["belief"]), book.state[part.hidden])
            for part, around in zip(rounds, weights[kernel], strict=True)
        ]
        if (loss := float(np.concatenate(losses).mean())) < best:
            best, chosen = loss, settings
    return chosen


def _energy_scores(bench: Bench, truth: NDArray[np.float32], drawn: Rows) -> NDArray[np.float64]:
    """Energy score of every hidden cell, in log-normalised expression."""
    found = []
    for start in range(0, len(truth), _CELLS_AT_ONCE):
        part = slice(start, start + _CELLS_AT_ONCE)
        rows = drawn[part]
        values = bench.slide.expression(rows.ravel(), bench.target_sum)[:, bench.columns].toarray()
        found.append(energy_score(truth[part], values.reshape(*rows.shape, -1)))
    return np.concatenate(found)
