"""The regression of hidden cells on their surroundings: several predictions, combined as did best on practice regions.

Predictions are the signals (`signals.py`), their sum with weights, and what states of regions add (`state_regression.py`). Practice
squares are left out in turn and inferred from the others; the weights of the predictions are those with which the log changes of
the genes that change most in a left-out square are inferred best. Nothing of the hidden cells is used.

Letters: R regions, n inferred regions, G genes, J predictions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from cifm_cli.response.held_out.log_changes import log_change, most_changed, rates_of
from cifm_cli.response.held_out.regions import NUM_TARGETS
from cifm_cli.response.held_out.signals import NUM_POOLED, Split, non_negative_least_squares, shared_weights, signals
from cifm_cli.response.held_out.state_regression import state_changes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows
    from cifm_cli.response.held_out.regions import Regions
    from cifm_cli.response.held_out.state_regression import RegionStates

    Numbers = NDArray[np.float64]

NUM_FOLDS: Final = 6
NUM_DIVISIONS: Final = 2  # into folds, at random
MIN_CELLS: Final = 10  # of a practice square that is left out
MIN_SQUARES: Final = 3  # that remain when others are left out
MAX_CELLS: Final = 100  # beyond which a square counts no more than another
STACK_PENALTY: Final = 0.1  # relative to the sum of squares of a prediction
CURVE_PENALTY: Final = 0.3


def infer(regions: Regions, states: RegionStates, generator: np.random.Generator) -> Numbers:
    """Infer the regions that are not practice regions.

    Args:
        regions: All regions.
        states: Their states.
        generator: Divides the practice squares into folds, several times.

    Returns:
        (targets, G) rates, not negative.
    """
    split = Split(regions, regions.is_practice)
    left_out = [one for _ in range(NUM_DIVISIONS) for one in _left_out(regions, states, generator)]
    predictions = _predictions(split, states, np.arange(NUM_TARGETS))
    # Without a square that can be left out, the sum of the signals alone
    weights = _stack(left_out) if left_out else np.eye(len(predictions))[0]
    curve = _curve(left_out, weights)
    found = []
    for changes in np.moveaxis(predictions, 1, 0):
        change = log_change(split.base * np.exp(weights @ changes), split.base, split.floor)
        found.append(rates_of(curve @ _bent(change), split.base, split.floor))
    return np.stack(found)


def _predictions(split: Split, states: RegionStates, rows: Rows) -> Numbers:
    """(J, n, G) changes of log rates that each prediction infers."""
    of_signals = signals(split)
    said = np.tensordot(shared_weights(split, of_signals), of_signals, axes=1)
    alone = of_signals[:NUM_POOLED, rows]
    if split.regions.has_own_label:
        alone = np.concatenate([alone, of_signals[-1:, rows]])
    return np.stack([said[rows], *alone, *state_changes(split, states, said, rows)])


def _left_out(
    regions: Regions, states: RegionStates, generator: np.random.Generator
) -> list[tuple[Numbers, Numbers, float]]:
    """Predictions (J, genes) and real log2 changes (genes,) of the most changed genes, and the weight of each square."""
    squares = np.flatnonzero(regions.groups.is_square & (regions.num_cells >= MIN_CELLS))
    fold = generator.permutation(len(squares)) % NUM_FOLDS
    found = []
    for number in range(NUM_FOLDS):
        rows = squares[fold == number]
        if not len(rows):
            continue
        split = Split(regions, regions.do_not_overlap(rows))
        if (split.fitted & regions.groups.is_square).sum() < MIN_SQUARES:
            continue
        changes = _predictions(split, states, rows)
        for position, row in enumerate(rows):
            real, size = regions.rates[row], regions.num_cells[row]
            top = most_changed(real, split.base, split.variance, size)
            base = split.base[top]
            inferred = log_change(base * np.exp(changes[:, position, top]), base, split.floor)
            weight = float(np.sqrt(min(size, MAX_CELLS)))
            found.append((inferred, log_change(real[top], base, split.floor), weight))
    return found


def _stack(left_out: list[tuple[Numbers, Numbers, float]]) -> Numbers:
    """(J,) weights of the predictions, not negative."""
    gram, moment = _products(left_out)
    return non_negative_least_squares(gram + STACK_PENALTY * np.diag(np.diag(gram)), moment)


def _curve(left_out: list[tuple[Numbers, Numbers, float]], weights: Numbers) -> Numbers:
    """(2,) weights of a log change and of its square root, shrunk towards a straight line; both signs are treated alike."""
    straight = np.array([1.0, 0.0])
    if not left_out or not weights.any():
        return straight
    gram, moment = _products([(_bent(weights @ x), y, weight) for x, y, weight in left_out])
    slope = max(moment[0], 0.0) / max(gram[0, 0], 1e-12)
    prior = CURVE_PENALTY * np.diag(np.diag(gram))
    solved = np.linalg.solve(gram + prior + 1e-12 * np.eye(2), moment + slope * prior @ straight)
    return np.asarray(np.maximum(solved, 0.0))


def _bent(change: Numbers) -> Numbers:
    """(2, genes) log changes, and their square roots with the sign."""
    return np.stack([change, np.sign(change) * np.sqrt(np.abs(change))])


def _products(left_out: list[tuple[Numbers, Numbers, float]]) -> tuple[Numbers, Numbers]:
    """(J, J) and (J,) sums of products for a regression of real on inferred log changes, around the mean of a square.

    Squares are weighted such that all have the same variance of the real changes, as in a correlation.
    """
    gram, moment = 0.0, 0.0
    for inferred, real, weight in left_out:
        x = inferred - inferred.mean(axis=1, keepdims=True)
        y = real - real.mean()
        scaled = x * (weight / max(float(y.var()), 1e-9))
        gram, moment = gram + scaled @ x.T, moment + scaled @ y
    return np.asarray(gram), np.asarray(moment)
