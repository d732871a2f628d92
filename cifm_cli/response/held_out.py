"""Validation on real cells: all cells of one label in a region are hidden and inferred from the other cells around them.

The inferred expression of the hidden cells, relative to cells of their label elsewhere, is compared with the real one. No
cell of the label serves as a neighbour, so that nothing is copied from cells of its own kind. The inference is a regression on
the composition and the expression of the neighbours. It is not the regression on distances of `label_regression.py`, which
gives the effects of an edit, and it does not use the network: it measures what surroundings tell of a label here.

Letters: Q cells of the label, N cells of the slide, G genes, L labels, K radii, F predictors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.optimize import nnls
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.response.surroundings import LabelledCells

    Numbers = NDArray[np.float64]

RADII: Final = (2.0, 5.0, 12.0)  # of the neighbourhoods, in radii of the graph
REGION_RADII: Final = 20.0  # side of a region
MARGIN_RADII: Final = 5.0  # cells so near to a region are neither hidden nor fitted to
MIN_HIDDEN: Final = 30  # cells of the label in a region
MIN_ELSEWHERE: Final = 200  # and outside of it
MAX_REGIONS: Final = 6  # per label, those with most cells
MAX_CELLS: Final = 3_000  # of a label
MIN_COUNTS: Final = 50.0  # of a gene in the cells of a label
TOP_GENES: Final = 50  # genes that change most between the region and elsewhere
PRIOR_COUNTS: Final = 5.0  # added to observed and expected counts of neighbours
PENALTIES: Final = (np.inf, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1)  # relative to the number of cells
NUM_COMPONENTS: Final = 15  # of the neighbours' expression
NUM_FOLDS: Final = 5
PREDICTORS: Final = ("neighbour_regression", "mean_shift", "stratified_count", "slide_ridge", "no_change", "shuffled")


@dataclass(frozen=True)
class HeldOut:
    """The cells of a label with what surrounds them."""

    rows: Rows  # (Q,) rows of the slide
    genes: NDArray[np.int64]  # (G,) columns of the slide
    depth: Numbers  # (Q,) relative depth
    rates: Numbers  # (Q, G) counts divided by the depth
    shifts: Numbers  # (K, Q, G) by which the neighbours' counts exceed those expected of their labels, a fraction
    composition: Numbers  # (Q, K L) fractions of the labels among the neighbours
    ridge: Numbers  # (Q, G) inferred by a ridge regression on the slide, without the region that is hidden
    components: Numbers  # (Q, C) leading directions of the shifts at the middle radius


def held_out_neighbours(slide: Slide, cells: LabelledCells, seed: int, labels: tuple[int, ...]) -> list[dict[str, Any]]:
    """Hide the cells of each label in several regions and infer them.

    Args:
        slide: The slide.
        cells: Its cells with their labels.
        seed: Seed of the samples.
        labels: Codes of the labels.

    Returns:
        One entry per label and region: `label`, `centre_um`, `num_hidden`, and for each of `PREDICTORS` `pearson`,
        `signed_precision` and `energy_distance`; columns of the compared `genes`, and whether the `sign_is_right`.
    """
    results = []
    side = REGION_RADII * slide.radius_um
    square_of_cell = ((slide.xy_um - slide.xy_um.min(axis=0)) // side).astype(np.int64)
    ridges: dict[tuple[int, int], _SlideRidge] = {}  # fitted without a square, in which several labels may be hidden
    for code in labels:
        generator = numpy_generator(seed, "held-out", cells.names[code])
        rows = cells.of(code)
        rows = rows[slide.total_counts[rows] > 0]
        if len(rows) < MIN_ELSEWHERE + MIN_HIDDEN:
            continue
        rows = np.sort(generator.permutation(rows)[:MAX_CELLS])
        kinds, group, sizes = np.unique(square_of_cell[rows], axis=0, return_inverse=True, return_counts=True)
        group = group.ravel()
        largest = [number for number in np.argsort(-sizes, kind="stable")[:MAX_REGIONS] if sizes[number] >= MIN_HIDDEN]
        if not largest:
            continue
        held = _describe(slide, cells, code, rows)
        if len(held.genes) < TOP_GENES:
            continue
        for number in largest:
            hidden = group == number
            low = slide.xy_um.min(axis=0) + kinds[number] * side
            outside = np.maximum(low - slide.xy_um[rows], slide.xy_um[rows] - low - side).max(axis=1)
            fitted = ~hidden & (outside > MARGIN_RADII * slide.radius_um)
            if fitted.sum() < MIN_ELSEWHERE:
                continue
            x, y = kinds[number].tolist()
            if (x, y) not in ridges:
                is_outside = (square_of_cell != (x, y)).any(axis=1)
                ridges[x, y] = _SlideRidge.fit(slide, is_outside, numpy_generator(seed, "held-out ridge", x, y))
            ridge = ridges[x, y].predict(slide, _others(slide, cells, code), rows)
            results.append(
                {
                    "label": cells.names[code],
                    "centre_um": (low + side / 2).tolist(),
                    "num_hidden": int(hidden.sum()),
                    **_compare(replace(held, ridge=ridge[:, held.genes]), hidden, fitted, group, generator),
                }
            )
    return results


def _others(slide: Slide, cells: LabelledCells, code: int) -> Rows:
    """Cells of all other labels, which serve as neighbours."""
    return np.flatnonzero((cells.codes >= 0) & (cells.codes != code) & (slide.total_counts > 0))


def _describe(slide: Slide, cells: LabelledCells, code: int, rows: Rows) -> HeldOut:
    """All that is read of the cells of a label, but the ridge regression of a region."""
    counts = slide.counts(rows)
    genes = np.flatnonzero(np.asarray(counts.sum(axis=0)).ravel() >= MIN_COUNTS)
    depth = slide.total_counts / np.median(slide.total_counts[slide.total_counts > 0])
    others = _others(slide, cells, code)
    member = csr_matrix((depth[others], (np.arange(len(others)), cells.codes[others])), (len(others), len(cells.names)))
    of_others = slide.counts(others)[:, genes]
    sums = np.asarray((csr_matrix((np.ones(len(others)), (cells.codes[others], np.arange(len(others)))), member.shape[::-1]) @ of_others).todense())  # fmt: skip
    means = (sums + 0.5) / (np.asarray(member.sum(axis=0)).ravel()[:, None] + 1.0)
    shifts, composition = [], []
    for radius in RADII:
        near = _adjacency(slide.xy_um[rows], slide.xy_um[others], radius * slide.radius_um)
        observed = np.asarray((near @ of_others).todense(), dtype=np.float64)
        labels = np.asarray((near @ member).todense())
        shifts.append((observed + PRIOR_COUNTS) / (labels @ means + PRIOR_COUNTS) - 1)
        composition.append(labels / np.maximum(labels.sum(axis=1, keepdims=True), 1e-9))
    rates = counts[:, genes].toarray().astype(np.float64) / depth[rows, None]
    middle = shifts[1] * np.sqrt(_mean(rates, depth[rows]))
    left, size, _ = np.linalg.svd(middle - middle.mean(axis=0), full_matrices=False)
    return HeldOut(
        rows, genes, depth[rows], rates, np.stack(shifts), np.concatenate(composition, axis=1),
        np.zeros_like(rates), left[:, :NUM_COMPONENTS] * size[:NUM_COMPONENTS],
    )  # fmt: skip


def _adjacency(at_um: Numbers, cells_um: Numbers, radius_um: float) -> csr_matrix:
    """(Q, N) ones where a cell is within the radius of a place, and not at it."""
    found = cKDTree(at_um).sparse_distance_matrix(cKDTree(cells_um), radius_um, output_type="coo_matrix").tocsr()
    found.data = (found.data > 0).astype(np.float64)
    found.eliminate_zeros()
    return found


def _compare(
    held: HeldOut,
    hidden: NDArray[np.bool_],
    fitted: NDArray[np.bool_],
    group: NDArray[np.int64],
    generator: np.random.Generator,
) -> dict[str, Any]:
    """Scores of all predictors for one region, and where the first has the right sign."""
    base = _mean(held.rates[fitted], held.depth[fitted])
    real = _mean(held.rates[hidden], held.depth[hidden])
    regression = _Regression.fit(held, fitted, group)
    places = np.flatnonzero(hidden)
    elsewhere = generator.choice(np.flatnonzero(fitted), size=len(places))
    depths = {"shuffled": held.depth[elsewhere]}
    distance = _nearest_composition(held, places, np.flatnonzero(fitted))
    inferred = {
        "neighbour_regression": regression.predict(held, places),
        # Of all other cells of the region, at their labels
        "mean_shift": base * (1 + held.shifts[-1][places] - _mean(held.shifts[-1][fitted], held.depth[fitted])),
        "stratified_count": held.rates[distance],
        "slide_ridge": base + held.ridge[places] - _mean(held.ridge[fitted], held.depth[fitted]),
        "no_change": np.broadcast_to(base, (len(places), len(base))),
        "shuffled": regression.predict(held, elsewhere),
    }
    spread = held.rates[fitted].var(axis=0) / len(places) + 1e-6
    floor = 0.02 * base.mean()
    top = np.argsort(-np.abs(real - base) / np.sqrt(spread), kind="stable")[:TOP_GENES]
    actual = np.log2((real + floor) / (base + floor))[top]
    scores, signs = {}, np.zeros(len(top), dtype=bool)
    for name in PREDICTORS:
        mean = np.maximum(_mean(inferred[name], depths.get(name, held.depth[places])), 0)
        change = np.log2((mean + floor) / (base + floor))[top]
        is_named = np.abs(change) > 0.1
        if name == PREDICTORS[0]:
            signs = np.sign(change) == np.sign(actual)
        scores[name] = {
            "pearson": float(np.corrcoef(change, actual)[0, 1]) if change.std() > 1e-9 else 0.0,
            "signed_precision": float((np.sign(change) == np.sign(actual))[is_named].mean()) if is_named.any() else 0.0,
            "energy_distance": _energy(inferred[name][:, top], held.rates[places][:, top]),
        }
    return {"predictors": scores, "genes": held.genes[top].tolist(), "sign_is_right": signs.tolist()}


def _mean(rates: Numbers, depth: Numbers) -> Numbers:
    """(G,) mean of the rates, weighted by the depth."""
    return np.asarray(depth @ rates / depth.sum())


def _energy(x: Numbers, y: Numbers) -> float:
    """Energy distance between two sets of cells, on square roots of rates."""
    from scipy.spatial.distance import cdist

    a, b = np.sqrt(np.maximum(x[:300], 0)), np.sqrt(np.maximum(y[:300], 0))
    return float(2 * cdist(a, b).mean() - cdist(a, a).mean() - cdist(b, b).mean())


def _nearest_composition(held: HeldOut, places: Rows, fitted: Rows) -> Rows:
    """For each hidden cell, a cell elsewhere with the most similar composition of the surroundings."""
    return np.asarray(fitted[cKDTree(held.composition[fitted]).query(held.composition[places])[1]])


@dataclass(frozen=True)
class _Regression:
    """Rates of a label, given the shifts of the neighbours' genes and the composition and expression around it."""

    base: Numbers  # (G,) mean
    weights: Numbers  # (K + 1,) of the signals of a gene, shared by all genes
    signal_centre: Numbers  # (K + 1, G) mean of the signals
    centre: Numbers  # (F,) mean of the predictors
    scale: Numbers  # (F,)
    coefficients: Numbers  # (F, G)

    def predict(self, held: HeldOut, places: Rows) -> Numbers:
        """(n, G) inferred rates."""
        x = (_predictors(held, places) - self.centre) / self.scale
        return np.asarray(self._own(held, places) + x @ self.coefficients)

    def _own(self, held: HeldOut, places: Rows) -> Numbers:
        centred = _signals(held, places, self.base) - self.signal_centre[:, None]
        return np.asarray(self.base + np.tensordot(self.weights, centred, axes=1))

    @classmethod
    def fit(cls, held: HeldOut, fitted: NDArray[np.bool_], group: NDArray[np.int64]) -> _Regression:
        """Fit to cells elsewhere; the penalty is chosen on regions that are left out."""
        rows = np.flatnonzero(fitted)
        fold = group[rows] % NUM_FOLDS
        losses = np.zeros(len(PENALTIES))
        for number in range(NUM_FOLDS):
            train, test = rows[fold != number], rows[fold == number]
            if not len(test) or not len(train):
                continue
            fits = cls._fit(held, train, group, PENALTIES)
            # Means of regions, as these are what is inferred
            kinds, inverse, sizes = np.unique(group[test], return_inverse=True, return_counts=True)
            depth = held.depth[test]
            weight = depth / np.bincount(inverse, weights=depth)[inverse]
            member = csr_matrix((weight, (inverse, np.arange(len(test)))), shape=(len(kinds), len(test)))
            left = member @ (held.rates[test] - fits[0]._own(held, test))
            x = member @ ((_predictors(held, test) - fits[0].centre) / fits[0].scale)
            scale = sizes[:, None] / (fits[0].base + 0.02 * fits[0].base.mean())
            for position, one in enumerate(fits):
                losses[position] += float((scale * (left - x @ one.coefficients) ** 2).sum())
        return cls._fit(held, rows, group, (PENALTIES[int(losses.argmin())],))[0]

    @classmethod
    def _fit(
        cls, held: HeldOut, rows: Rows, group: NDArray[np.int64], penalties: tuple[float, ...]
    ) -> list[_Regression]:
        depth = held.depth[rows]
        base = _mean(held.rates[rows], depth)
        signals = _signals(held, rows, base)
        signal_centre = np.einsum("q,kqg->kg", depth / depth.sum(), signals)
        signals -= signal_centre[:, None]
        left = held.rates[rows] - base
        weights = _signal_weights(signals, left, depth, group[rows], base)
        left = left - np.tensordot(weights, signals, axes=1)
        x = _predictors(held, rows)
        centre, scale = depth @ x / depth.sum(), np.maximum(x.std(axis=0), 1e-6)
        x = (x - centre) / scale
        gram_x, moment_x = (x * depth[:, None]).T @ x, (x * depth[:, None]).T @ left
        found = []
        for penalty in penalties:
            coefficients = np.zeros((x.shape[1], len(base)))
            if np.isfinite(penalty):
                coefficients = np.linalg.solve(gram_x + penalty * depth.sum() * np.eye(len(gram_x)), moment_x)
            found.append(cls(base, weights, signal_centre, centre, scale, coefficients))
        return found


def _signals(held: HeldOut, rows: Rows, base: Numbers) -> Numbers:
    """(K + 1, n, G) what the neighbours say of each gene: their shifts at K radii, and the ridge of the slide."""
    return np.concatenate([held.shifts[:, rows] * base, held.ridge[None, rows]])


def _signal_weights(
    signals: Numbers, left: Numbers, depth: Numbers, group: NDArray[np.int64], base: Numbers
) -> Numbers:
    """(K + 1,) weights, not negative, fitted to means of regions, in which the noise of single cells averages out."""
    kinds, inverse = np.unique(group, return_inverse=True)
    totals = np.bincount(inverse, weights=depth)
    member = csr_matrix((depth / totals[inverse], (inverse, np.arange(len(group)))), shape=(len(kinds), len(group)))
    scale = np.sqrt(totals)[:, None] / np.sqrt(base + 0.02 * base.mean())
    x = np.stack([(member @ each * scale).ravel() for each in signals], axis=1)
    y = (member @ left * scale).ravel()
    gram = x.T @ x
    factor = np.linalg.cholesky(gram + 1e-6 * np.trace(gram) * np.eye(len(gram)))
    return np.asarray(nnls(factor.T, np.linalg.solve(factor, x.T @ y))[0])


def _predictors(held: HeldOut, rows: Rows) -> Numbers:
    return np.concatenate([held.composition[rows], held.components[rows]], axis=1)


@dataclass(frozen=True)
class _SlideRidge:
    """Ridge regression of the rates of any cell on the mean rates of its neighbours at several radii."""

    axes: Numbers  # (G, components)
    centre: Numbers
    coefficients: Numbers  # (F, G) of all genes
    mean: Numbers  # (G,)

    @classmethod
    def fit(cls, slide: Slide, is_visible: NDArray[np.bool_], generator: np.random.Generator) -> _SlideRidge:
        """Fit to a sample of the visible cells, with visible neighbours; the penalty is tuned on a fifth of them."""
        visible = np.flatnonzero(is_visible & (slide.total_counts > 0))
        rows = np.sort(generator.permutation(visible)[:MAX_CELLS])
        depth = slide.total_counts / np.median(slide.total_counts[slide.total_counts > 0])
        y = slide.counts(rows).toarray().astype(np.float64) / depth[rows, None]
        mean = _mean(y, depth[rows])
        raw = cls._means(slide, visible, rows)
        axes = np.linalg.svd(raw[0] - raw[0].mean(axis=0), full_matrices=False)[2][:50].T
        x = np.concatenate([part @ axes for part in raw], axis=1)
        centre = x.mean(axis=0)
        x = x - centre
        is_tuned = generator.random(len(rows)) < 0.2
        weight = np.sqrt(depth[rows])[:, None]
        best = (np.inf, 0.0)
        for penalty in (0.001, 0.01, 0.1, 1.0):
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
        depth = slide.total_counts[visible] / np.median(slide.total_counts[slide.total_counts > 0])
        for radius in RADII[:2]:
            near = _adjacency(slide.xy_um[rows], slide.xy_um[visible], radius * slide.radius_um)
            sums, depths = np.asarray((near @ counts).todense()), near @ depth
            parts.append(np.asarray(np.sqrt(sums / np.maximum(depths, 1e-9)[:, None])))
        return parts

    def predict(self, slide: Slide, visible: Rows, rows: Rows) -> Numbers:
        """(Q, G) inferred rates from the visible cells around."""
        x = np.concatenate([part @ self.axes for part in self._means(slide, visible, rows)], axis=1) - self.centre
        return np.asarray(self.mean + x @ self.coefficients)
