"""The regression and the simple rules that it is compared with, for one hidden region, and their scores.

Letters: Q cells of the label, n hidden cells, G genes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from cifm_cli.response.held_out.log_changes import correlation, log_change, most_changed
from cifm_cli.response.held_out.neighbourhoods import Neighbourhoods, weighted_mean
from cifm_cli.response.held_out.regions import Grid, group_cells, summarise
from cifm_cli.response.held_out.regression import infer
from cifm_cli.response.held_out.signals import FLOOR_SHARE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows

    Numbers = NDArray[np.float64]

PREDICTORS: Final = ("neighbour_regression", "mean_shift", "stratified_count", "slide_ridge", "no_change", "shuffled")
NAMED_CHANGE: Final = 0.1  # log2 change from which the sign counts
MAX_COMPARED: Final = 300  # cells of which the distribution is compared


def compare(
    held: Neighbourhoods,
    ridge: Numbers,
    hidden: NDArray[np.bool_],
    fitted: NDArray[np.bool_],
    grid: Grid,
    generator: np.random.Generator,
) -> dict[str, Any]:
    """Infer the hidden cells of a region by all predictors and score them.

    Args:
        held: Cells of the label.
        ridge: (Q, G) what the ridge regression of the slide infers, fitted without the region.
        hidden: (Q,) cells of the region.
        fitted: (Q,) cells elsewhere.
        grid: Squares, one of which is the region.
        generator: Draws the other surroundings of `shuffled`, and the folds of the regression.

    Returns:
        Scores of each of `PREDICTORS`, the columns of the compared `genes`, and where the first predictor has the
        right sign (`sign_is_right`).
    """
    places = np.flatnonzero(hidden)
    elsewhere = generator.choice(np.flatnonzero(fitted), size=len(places))
    base = weighted_mean(held.rates[fitted], held.depth[fitted])
    real = weighted_mean(held.rates[places], held.depth[places])
    floor = FLOOR_SHARE * float(base.mean())
    top = most_changed(real, base, held.rates[fitted].var(axis=0), len(places))
    actual = log_change(real, base, floor)[top]
    scores, signs = {}, np.zeros(len(top), dtype=bool)
    similar = _most_similar(held, places, np.flatnonzero(fitted))
    for name, mean in _infer_all(held, ridge, places, elsewhere, similar, fitted, grid, generator).items():
        change = log_change(mean, base, floor)[top]
        is_right, is_named = np.sign(change) == np.sign(actual), np.abs(change) > NAMED_CHANGE
        if name == PREDICTORS[0]:
            signs = is_right
        ratio = np.maximum(mean, 0) / np.maximum(base, 1e-12)
        drawn = held.rates[similar] if name == "stratified_count" else held.rates[elsewhere] * ratio
        scores[name] = {
            "pearson": correlation(change, actual),
            "signed_precision": float(is_right[is_named].mean()) if is_named.any() else 0.0,
            "energy_distance": _energy(drawn[:, top], held.rates[places][:, top]),
        }
    return {"predictors": scores, "genes": held.genes[top].tolist(), "sign_is_right": signs.tolist()}


def _infer_all(
    held: Neighbourhoods,
    ridge: Numbers,
    places: Rows,
    elsewhere: Rows,
    similar: Rows,
    fitted: NDArray[np.bool_],
    grid: Grid,
    generator: np.random.Generator,
) -> dict[str, Numbers]:
    """(G,) mean rates that each of `PREDICTORS` infers."""
    depth = held.depth[places]

    def centred(values: Numbers) -> Numbers:
        return weighted_mean(values[places], depth) - weighted_mean(values[fitted], held.depth[fitted])

    base = weighted_mean(held.rates[fitted], held.depth[fitted])
    groups = group_cells(held, [places, elsewhere], fitted, grid)
    inferred, shuffled = infer(summarise(held, ridge, groups), generator)
    means = (
        inferred,
        base * (1 + centred(held.shifts[-1])),  # of all other cells of the region, at their labels
        weighted_mean(held.rates[similar], depth),
        base + centred(ridge),
        base,
        shuffled,
    )
    return dict(zip(PREDICTORS, means, strict=True))


def _most_similar(held: Neighbourhoods, places: Rows, fitted: Rows) -> Rows:
    """(n,) for each hidden cell, the cell elsewhere with the most similar composition of the surroundings."""
    return np.asarray(fitted[cKDTree(held.composition[fitted]).query(held.composition[places])[1]])


def _energy(x: Numbers, y: Numbers) -> float:
    """Energy distance between two sets of cells, on square roots of rates."""
    a, b = (np.sqrt(np.maximum(each[:MAX_COMPARED], 0)) for each in (x, y))
    return float(2 * cdist(a, b).mean() - cdist(a, a).mean() - cdist(b, b).mean())
