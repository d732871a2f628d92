"""The regression and the simple rules that it is compared with, for one hidden region, and their scores.

Letters: Q cells of the label, n hidden cells, G genes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from cifm_cli.response.held_out.log_changes import correlation, log_change, most_changed
from cifm_cli.response.held_out.neighbourhoods import Neighbourhoods, weighted_mean
from cifm_cli.response.held_out.regions import Grid, add_own_label, group_cells, summarise
from cifm_cli.response.held_out.regression import infer
from cifm_cli.response.held_out.signals import FLOOR_SHARE
from cifm_cli.response.held_out.state_regression import RegionStates

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows

    Numbers = NDArray[np.float64]

PREDICTORS: Final = (
    "neighbour_regression",
    "with_own_label",
    "mean_shift",
    "stratified_count",
    "slide_ridge",
    "no_change",
    "shuffled",
)
NAMED_CHANGE: Final = 0.1  # log2 change from which the sign counts
MAX_COMPARED: Final = 300  # cells of which the distribution is compared


@dataclass(frozen=True)
class HiddenRegion:
    """Cells of a label of which some are hidden, and what may be used to infer these."""

    held: Neighbourhoods  # Q cells of the label
    ridge: Numbers  # (Q, G) what the ridge regression of the slide infers, fitted without the region
    inside: NDArray[np.bool_]  # (Q,) cells of the region, none of which may be used
    hidden: NDArray[np.bool_]  # (Q,) a sample of them, which is inferred
    fitted: NDArray[np.bool_]  # (Q,) cells elsewhere
    grid: Grid  # squares, one of which is the region

    @property
    def places(self) -> Rows:
        """(n,) rows of the hidden cells."""
        return np.flatnonzero(self.hidden)

    @property
    def base(self) -> Numbers:
        """(G,) mean rates elsewhere."""
        return weighted_mean(self.held.rates[self.fitted], self.held.depth[self.fitted])

    def difference(self, values: Numbers) -> Numbers:
        """Mean of (Q, G) values of the hidden cells minus that elsewhere."""
        depth = self.held.depth
        means = [weighted_mean(values[which], depth[which]) for which in (self.hidden, self.fitted)]
        return means[0] - means[1]


def compare(region: HiddenRegion, generator: np.random.Generator) -> dict[str, Any]:
    """Infer the hidden cells of a region by all predictors and score them.

    Args:
        region: The hidden cells and those elsewhere.
        generator: Draws cells elsewhere, and the folds of the regression.

    Returns:
        Scores of each of `PREDICTORS`, the columns of the compared `genes`, and where the first predictor has the
        right sign (`sign_is_right`).
    """
    held, places, base = region.held, region.places, region.base
    elsewhere = generator.choice(np.flatnonzero(region.fitted), size=len(places))
    similar = _most_similar(region)
    real = weighted_mean(held.rates[places], held.depth[places])
    floor = FLOOR_SHARE * float(base.mean())
    top = most_changed(real, base, held.rates[region.fitted].var(axis=0), len(places))
    actual = log_change(real, base, floor)[top]
    scores, signs = {}, np.zeros(len(top), dtype=bool)
    for name, mean in _infer_all(region, elsewhere, similar, generator).items():
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
    region: HiddenRegion, elsewhere: Rows, similar: Rows, generator: np.random.Generator
) -> dict[str, Numbers]:
    """(G,) mean rates that each of `PREDICTORS` infers."""
    held, base = region.held, region.base
    groups = group_cells(held, [region.places, elsewhere], region.fitted, region.grid)
    regions = summarise(held, region.ridge, groups)
    states = RegionStates.describe(regions, base)
    inferred, shuffled = infer(regions, states, generator)
    with_own = infer(add_own_label(regions, held, region.inside), states, generator)[0]
    return {
        "neighbour_regression": inferred,
        "with_own_label": with_own,
        # Of all other cells of the region, at their labels
        "mean_shift": base * (1 + region.difference(held.shifts[-1])),
        "stratified_count": weighted_mean(held.rates[similar], held.depth[region.places]),
        "slide_ridge": base + region.difference(region.ridge),
        "no_change": base,
        "shuffled": shuffled,
    }


def _most_similar(region: HiddenRegion) -> Rows:
    """(n,) for each hidden cell, the cell elsewhere with the most similar composition of the surroundings."""
    composition, fitted = region.held.composition, np.flatnonzero(region.fitted)
    return np.asarray(fitted[cKDTree(composition[fitted]).query(composition[region.places])[1]])


def _energy(x: Numbers, y: Numbers) -> float:
    """Energy distance between two sets of cells, on square roots of rates."""
    a, b = (np.sqrt(np.maximum(each[:MAX_COMPARED], 0)) for each in (x, y))
    return float(2 * cdist(a, b).mean() - cdist(a, a).mean() - cdist(b, b).mean())
