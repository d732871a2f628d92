"""The regression of one label: the counts of its cells, given the labels around them.

Letters: Q residents, F predictors, G genes that are tested.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.stats import false_discovery_control
from scipy.stats import t as student

from cifm_cli.response.surroundings import MIN_ROWS, NEAREST_REACH, STEPS
from cifm_cli.statistics.bootstrap import cut_blocks
from cifm_cli.statistics.poisson_regression import Contrasts, fit_poisson

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.response.surroundings import Design, LabelledCells
    from cifm_cli.statistics.poisson_regression import PoissonRegression

    Numbers = NDArray[np.float64]

MIN_RESIDENTS: Final = 100  # of a label; fewer are not regressed
MAX_RESIDENTS: Final = 8_000  # of a label; of more, those near an edited label and a random sample of the others
ALWAYS_RESIDENTS: Final = 4_000  # of a label, however many genes there are
MAX_VALUES: Final = 4_000_000  # residents times genes; with more genes there are fewer residents, down to the above
NEAR_RADII: Final = 3.0  # how near, in radii of the graph
MIN_COUNTS: Final = 20.0  # of a gene in the residents of a label; genes with fewer are not tested
MAX_BLOCKS: Final = 50  # of the jackknife, each of which costs a solution of the normal equations
# Precisions of the prior, in natural logarithms: a step by a factor of 3 is plausible, and so are gentle slopes.
STEP_PRECISION: Final = 0.5
KNOT_PRECISION: Final = 1.0
REACH_LEVEL: Final = 0.01  # false discovery rate of the genes that step at a distance
REACH_GENES: Final = 0.01  # share of the genes that must, for the distance to be within reach
MAX_REACH_GENES: Final = 100  # with which the reach is looked for
MIN_BEYOND: Final = 30.0  # residents beyond a step, with which it is tested
MIN_BEYOND_SHARE: Final = 0.01  # and of all residents
_TINY: Final = 1e-12


@dataclass(frozen=True)
class LabelRegression:
    """The residents of one label with their surroundings, and the regressions on them."""

    code: int  # the label
    design: Design
    x: Numbers  # (Q, F) predictors
    y: Numbers  # (Q, G) counts
    exposure: Numbers  # (Q,) depth of each resident, relative to that of a typical cell
    genes: NDArray[np.int64]  # (G,) columns of the slide
    block: NDArray[np.int64]  # (Q,) spatial block of each resident
    xy_um: Numbers  # (Q, 2) positions of the residents, micrometres
    _latest: dict[str, Numbers] = field(default_factory=dict)  # coefficients of the latest fit, 0 where not fitted

    @property
    def num_blocks(self) -> int:
        """Number of blocks of the jackknife."""
        return int(self.block.max()) + 1

    @cached_property
    def reach(self) -> float:
        """Largest distance within which an edited label changes genes, in radii; at least `NEAREST_REACH`.

        The residents beyond it serve as the reference of those within. A distance belongs to the reach if expression
        steps there, in more genes than chance explains, given all nearer steps and no farther one.
        """
        tested = replace(self, **self._most_counts(MAX_REACH_GENES))
        reached = NEAREST_REACH
        for number, step in enumerate(STEPS):
            if step <= NEAREST_REACH:
                continue
            columns = number + len(STEPS) * np.arange(len(self.design.stepped))
            is_beyond = self.x[:, columns] == 0
            if is_beyond.sum(axis=0).min() < MIN_BEYOND + MIN_BEYOND_SHARE * len(self.x):
                break
            change = tested.changes(np.eye(self.x.shape[1])[columns], step)
            p = 2 * student.sf(np.abs(change.values) / np.maximum(change.errors, _TINY), max(self.num_blocks - 1, 1))
            num_called = (false_discovery_control(p, axis=1) <= REACH_LEVEL).sum(axis=1)
            if num_called.max() >= max(2, REACH_GENES * p.shape[1]):
                reached = step
        return reached

    def _most_counts(self, max_genes: int) -> dict[str, Any]:
        """Fields with the genes that have most counts."""
        order = np.sort(np.argsort(-self.y.sum(axis=0), kind="stable")[:max_genes])
        return {"y": self.y[:, order], "genes": self.genes[order], "_latest": {}}

    def changes(self, differences: Numbers, up_to: float) -> Contrasts:
        """Estimate changes of expression, in natural logarithms and relative to the median gene.

        Counts are relative to the depth of a cell, so that genes that rise make all others appear to fall. The change
        of the median gene is what depth alone explains.

        Args:
            differences: (C, F) differences of the predictors.
            up_to: Distance in radii beyond which an edited label is taken to change nothing.

        Returns:
            (C, G) changes and standard errors.
        """
        kept, regression = self.fit(up_to)
        weights = np.concatenate([np.zeros((len(differences), 1)), differences[:, kept]], axis=1)
        found = regression.contrasts(weights, self.block)
        return found._replace(values=found.values - np.median(found.values, axis=1, keepdims=True))

    def values(self, differences: Numbers, up_to: float) -> Numbers:
        """(C, G) changes as those of `changes`, without their standard errors, which take longer."""
        kept, regression = self.fit(up_to)
        values = differences[:, kept] @ regression.coefficients[1:]
        return np.asarray(values - np.median(values, axis=1, keepdims=True))

    def fit(self, up_to: float) -> tuple[NDArray[np.bool_], PoissonRegression]:
        """The regression with the steps up to a distance.

        Args:
            up_to: Distance in radii; with 0, the edited labels are left out.

        Returns:
            (F,) whether each predictor is in the regression, and the regression.
        """
        return self._fit(int((np.array(STEPS) <= up_to + _TINY).sum()))

    @cached_property
    def _fit(self) -> Callable[[int], tuple[NDArray[np.bool_], PoissonRegression]]:
        """Fits with the first steps of every edited label, which are made once."""
        return lru_cache(self._fit_steps)

    def _fit_steps(self, num_steps: int) -> tuple[NDArray[np.bool_], PoissonRegression]:
        kept = np.minimum((self.x > 0).sum(axis=0), (self.x < 1).sum(axis=0)) >= MIN_ROWS
        num_stepped = self.design.num_steps
        kept[:num_stepped] &= np.arange(num_stepped) % len(STEPS) < num_steps
        precision = np.full(len(kept), KNOT_PRECISION)
        precision[:num_stepped] = STEP_PRECISION
        # A fit with other steps has nearly the same coefficients.
        start = self._latest.get("coefficients")
        rows = np.concatenate([[True], kept])
        fitted = fit_poisson(
            self.x[:, kept], self.y, self.exposure, precision[kept], None if start is None else start[rows]
        )
        self._latest["coefficients"] = np.zeros((len(rows), self.y.shape[1]))
        self._latest["coefficients"][rows] = fitted.coefficients
        return kept, fitted


def fit_label(
    slide: Slide, cells: LabelledCells, code: int, design: Design, generator: np.random.Generator
) -> LabelRegression | None:
    """Describe the residents of a label.

    Args:
        slide: The slide.
        cells: All of its cells with their labels.
        code: The label.
        design: The predictors.
        generator: Source of the sample, if there are many residents.

    Returns:
        The regression; None if there are too few residents, or too few counts in them.
    """
    rows = cells.of(code)
    most = max(ALWAYS_RESIDENTS, min(MAX_RESIDENTS, MAX_VALUES // slide.num_genes))
    rows = _sample(cells, rows[slide.total_counts[rows] > 0], design, most, generator)
    if len(rows) < MIN_RESIDENTS:
        return None
    x = design.predictors(cells, rows, slide.xy_um[rows])
    counts = slide.counts(rows)
    genes = np.flatnonzero(np.asarray(counts.sum(axis=0)).ravel() >= MIN_COUNTS)
    if not len(genes):
        return None
    exposure = slide.total_counts[rows] / np.median(slide.total_counts[slide.total_counts > 0])
    y = counts[:, genes].toarray().astype(np.float64)
    return LabelRegression(code, design, x, y, exposure, genes, _blocks(slide, rows), slide.xy_um[rows])


def _sample(cells: LabelledCells, rows: Rows, design: Design, most: int, generator: np.random.Generator) -> Rows:
    """At most so many residents. They are chosen by their surroundings alone, which does not bias a regression."""
    if len(rows) <= most:
        return rows
    distance = np.min([cells.distances(cells.xy_um[rows], rows, code) for code in design.stepped], axis=0)
    is_near = distance < NEAR_RADII * design.radius_um
    # Cells near an edited label are what decides on its effect, and the others on everything else.
    near = generator.permutation(rows[is_near])[: most // 2]
    far = generator.permutation(rows[~is_near])[: most - len(near)]
    return np.sort(np.concatenate([near, far]))


def _blocks(slide: Slide, rows: Rows) -> NDArray[np.int64]:
    """(Q,) square blocks that are wide compared with the radius, not too many of them."""
    xy_um = slide.xy_um[rows]
    radius_um = slide.radius_um
    _, block = cut_blocks(xy_um, radius_um)
    while block.max() >= MAX_BLOCKS:
        radius_um *= 1.2
        square = ((xy_um - xy_um.min(axis=0)) // (10 * radius_um)).astype(np.int64)
        block = np.unique(square, axis=0, return_inverse=True)[1].ravel()
    return block
