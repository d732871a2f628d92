"""A ridge regression of any cell of a slide on its neighbours: a simple rule, and a signal of the regression.

Letters: Q cells, G genes, C components, F predictors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from cifm_cli.response.held_out.neighbourhoods import RADII, adjacency, relative_depth, weighted_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide

    Numbers = NDArray[np.float64]

MAX_FITTED: Final = 3_000  # cells
NUM_COMPONENTS: Final = 50  # of the neighbours' expression
PENALTIES: Final = (0.001, 0.01, 0.1, 1.0)
TUNED_SHARE: Final = 0.2  # of the cells, by which the penalty is chosen


@dataclass(frozen=True)
class SlideRidge:
    """Ridge regression of the rates of any cell on the mean rates of its neighbours at two radii."""

    axes: Numbers  # (G, C)
    centre: Numbers  # (F,)
    coefficients: Numbers  # (F, G) of all genes
    mean: Numbers  # (G,)

    @classmethod
    def fit(cls, slide: Slide, is_visible: NDArray[np.bool_], generator: np.random.Generator) -> SlideRidge:
        """Fit to a sample of the visible cells, with visible neighbours; the penalty is tuned on a fifth of them."""
        visible = np.flatnonzero(is_visible & (slide.total_counts > 0))
        rows = np.sort(generator.permutation(visible)[:MAX_FITTED])
        depth = relative_depth(slide)
        y = slide.counts(rows).toarray().astype(np.float64) / depth[rows, None]
        mean = weighted_mean(y, depth[rows])
        raw = cls._means(slide, visible, rows)
        left = raw[0] - raw[0].mean(axis=0)
        axes = np.linalg.eigh(left.T @ left)[1][:, -NUM_COMPONENTS:]
        x = np.concatenate([part @ axes for part in raw], axis=1)
        centre = x.mean(axis=0)
        x = x - centre
        is_tuned = generator.random(len(rows)) < TUNED_SHARE
        weight = np.sqrt(depth[rows])[:, None]
        best = (np.inf, 0.0)
        for penalty in PENALTIES:
            solved = cls._solve((x * weight)[~is_tuned], ((y - mean) * weight)[~is_tuned], penalty)
            error = ((((y - mean) - x @ solved) * weight)[is_tuned] ** 2 / (mean + 0.02 * mean.mean())).sum()
            best = min(best, (float(error), penalty))
        return cls(axes, centre, cls._solve(x * weight, (y - mean) * weight, best[1]), mean)

    @staticmethod
    def _solve(x: Numbers, y: Numbers, penalty: float) -> Numbers:
        gram = x.T @ x
        return np.asarray(np.linalg.solve(gram + penalty * np.trace(gram) * np.eye(len(gram)), x.T @ y))

    @staticmethod
    def _means(slide: Slide, visible: Rows, rows: Rows) -> list[Numbers]:
        parts = []
        counts = slide.counts(visible)
        depth = relative_depth(slide)[visible]
        for radius in RADII[:2]:
            near = adjacency(slide.xy_um[rows], slide.xy_um[visible], radius * slide.radius_um)
            sums, depths = np.asarray((near @ counts).todense()), near @ depth
            parts.append(np.asarray(np.sqrt(sums / np.maximum(depths, 1e-9)[:, None])))
        return parts

    def predict(self, slide: Slide, visible: Rows, rows: Rows) -> Numbers:
        """(Q, G) inferred rates from the visible cells around."""
        x = np.concatenate([part @ self.axes for part in self._means(slide, visible, rows)], axis=1) - self.centre
        return np.asarray(self.mean + x @ self.coefficients)
