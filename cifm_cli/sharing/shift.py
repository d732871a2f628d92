"""Shifts between samples, estimated from the microenvironments that they share.

A batch effect moves all embeddings of a sample alike. The mean of a sample does not show it: it also depends on which
microenvironments the sample has. Here the embeddings of two samples are summarised by centroids, and the translation is found
under which most centroids of one sample lie near centroids of the other. Any single cluster of one sample can be moved onto any
cluster of the other, so a translation only counts if it matches more than is matched when one sample is reflected, which keeps
all its clusters and destroys the correspondence. Samples without such a match are not moved with respect to each other.

Letters: S samples, D features, m centroids of a sample, d principal components.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from threadpoolctl import threadpool_limits

from cifm_cli import provenance
from cifm_cli.report.terminal import progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.sharing.cells import Cells

NUM_REFLECTIONS: Final = 39
_CENTROIDS = 24
_COMPONENTS = 20
_DRAWN_CELLS = 2_000  # of a sample
_MIN_REFLECTED = 1 / 3  # fraction of the variance that a reflection reverses; less leaves the correspondence in place
_ROUNDS = 10  # of the refinement of a translation


@dataclass(frozen=True)
class Match:
    """The best translation between two samples."""

    one: int  # position of the sample that is moved
    other: int  # and of the sample onto which it is moved
    matched: float  # fraction of the cells of both whose centroids match, 0 to 1
    reflected: float  # the largest such fraction among the reflections
    translation: NDArray[np.float64]  # (D,)

    @property
    def is_evident(self) -> bool:
        """Whether more is matched than by any reflection."""
        return self.matched > self.reflected


@dataclass(frozen=True)
class _Summary:
    """Centroids of one sample."""

    full: NDArray[np.float64]  # (m, D)
    reduced: NDArray[np.float64]  # (m, d)
    weights: NDArray[np.float64]  # (m,) fractions of the cells


def estimate_shifts(cells: Cells, seed: int) -> tuple[NDArray[np.float64], list[Match]]:
    """Estimate what a batch effect has added to the embeddings of each sample.

    Args:
        cells: The cells, with the same shift of all samples.
        seed: Seed of the draws.

    Returns:
        (S, D) shifts to subtract, and the match of each pair of samples. The mean shift of samples that are
        linked by matches, weighted by their cells, is zero; so is the shift of a sample without a match.
    """
    with threadpool_limits(1):  # the sums of several threads are added in an order that changes
        summaries = _summarise(cells, seed)
        number = len(summaries)
        pairs = [(one, other) for one in range(number) for other in range(one + 1, number)]
        matches = []
        with progress("matching samples", len(pairs)) as advance:
            for one, other in pairs:
                generator = provenance.numpy_generator(seed, "sharing reflections", one, other)
                matches.append(_match(summaries, one, other, generator))
                advance(1)
    return _solve(matches, cells.sizes.astype(np.float64), cells.width), matches


def _summarise(cells: Cells, seed: int) -> list[_Summary]:
    """Centroids of every sample, in all features and in the principal components within samples."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    found = []
    covariance = np.zeros((cells.width, cells.width))
    for code, name in enumerate(cells.samples):
        generator = provenance.numpy_generator(seed, "sharing centroids", name)
        rows = np.flatnonzero(cells.codes == code)
        drawn = np.sort(generator.permutation(rows)[:_DRAWN_CELLS])
        values = cells.read(drawn).astype(np.float64)
        covariance += np.cov(values, rowvar=False, bias=True).reshape(covariance.shape)
        num_centroids = min(_CENTROIDS, len(np.unique(values, axis=0)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = KMeans(num_centroids, n_init=2, random_state=int(generator.integers(2**31))).fit(values)
        weights = np.bincount(fitted.labels_, minlength=num_centroids) / len(values)
        found.append((fitted.cluster_centers_.astype(np.float64), weights))
    basis = np.linalg.eigh(covariance)[1][:, ::-1][:, :_COMPONENTS]
    return [_Summary(full, full @ basis, weights) for full, weights in found]


def _match(summaries: list[_Summary], one: int, other: int, generator: np.random.Generator) -> Match:
    first, second = summaries[one], summaries[other]
    scale = (_spacing(first.reduced) + _spacing(second.reduced)) / 2
    matched, best = _best_translation(first, second, second.reduced, scale)
    reflected = 0.0
    variance = np.average((second.reduced - second.weights @ second.reduced) ** 2, axis=0, weights=second.weights)
    for _ in range(NUM_REFLECTIONS):
        signs = _draw_signs(variance, generator)
        reflected = max(reflected, _best_translation(first, second, second.reduced * signs, scale)[0])
    return Match(one, other, matched, reflected, _refine(first, second, best, scale))


def _draw_signs(variance: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """(d,) signs that reverse at least a part of the variance."""
    while True:
        signs = generator.choice([-1.0, 1.0], len(variance))
        if variance[signs < 0].sum() >= _MIN_REFLECTED * variance.sum():
            return signs


def _spacing(centroids: NDArray[np.float64]) -> float:
    """Median distance of a centroid to the nearest other one."""
    if len(centroids) < 2:
        return 1.0
    distance = np.sqrt(_squared_distances(centroids, centroids))
    np.fill_diagonal(distance, np.inf)
    return float(np.maximum(np.median(distance.min(axis=1)), 1e-12))


def _best_translation(
    first: _Summary, second: _Summary, reduced: NDArray[np.float64], scale: float
) -> tuple[float, tuple[int, int]]:
    """The translation that moves one centroid onto another and matches most cells; the fraction, and the two centroids."""
    num_first, num_second = len(first.reduced), len(reduced)
    # The difference between centroid i' and centroid j', once i is moved onto j, is (i' - i) - (j' - j).
    offsets_first = (first.reduced[None] - first.reduced[:, None]).reshape(-1, first.reduced.shape[1])  # i, i'
    offsets_second = (reduced[None] - reduced[:, None]).reshape(-1, reduced.shape[1])  # j, j'
    squared = _squared_distances(offsets_first, offsets_second).reshape(num_first, num_first, num_second, num_second)
    near = np.exp(-squared / (2 * scale**2))
    # The smaller of both: a broad sample covers much of any other one.
    matched = np.minimum(
        _matched_variance(near.max(axis=3).transpose(0, 2, 1), first.reduced, first.weights),
        _matched_variance(near.max(axis=1).transpose(0, 1, 2), reduced, second.weights),
    )
    i, j = np.unravel_index(int(matched.argmax()), matched.shape)
    return float(matched[i, j]), (int(i), int(j))


def _matched_variance(
    near: NDArray[np.float64], centroids: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(i, j) fraction of the variance of a sample that lies between matched cells, for (i, j, m) degrees of match.

    The variance is half the mean squared distance of two cells; pairs count where both are matched. A single cluster of
    cells, which can be moved onto any other, has little variance, and two clusters far apart much.
    """
    mass = near * weights
    total = mass.sum(axis=2)
    squares = mass @ (centroids**2).sum(axis=1)
    variance = total * squares - ((mass @ centroids) ** 2).sum(axis=2)
    whole = weights @ (centroids**2).sum(axis=1) - ((weights @ centroids) ** 2).sum()
    return np.asarray(variance / max(float(whole), 1e-12))


def _refine(first: _Summary, second: _Summary, begin: tuple[int, int], scale: float) -> NDArray[np.float64]:
    """(D,) translation: the mean difference of centroids that match under it, and are nearest to each other."""
    reduced = second.reduced[begin[1]] - first.reduced[begin[0]]
    full: NDArray[np.float64] = second.full[begin[1]] - first.full[begin[0]]
    for _ in range(_ROUNDS):
        near = np.exp(-_squared_distances(first.reduced + reduced, second.reduced) / (2 * scale**2))
        # Each centroid is compared with the average of those near it, as clusters are divided differently in two samples.
        weights = near * first.weights[:, None] * second.weights[None]
        if weights.sum() <= 0:
            break
        weights /= weights.sum()
        reduced = weights.sum(axis=0) @ second.reduced - weights.sum(axis=1) @ first.reduced
        full = weights.sum(axis=0) @ second.full - weights.sum(axis=1) @ first.full
    return full


def _squared_distances(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(a, b) squared distances."""
    return np.asarray(np.maximum((a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2 * a @ b.T, 0.0))


def _solve(matches: list[Match], sizes: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """(S, D) shifts that agree best with the translations of the evident matches."""
    evident = [match for match in matches if match.is_evident]
    links = coo_matrix(
        (np.ones(len(evident)), ([match.one for match in evident], [match.other for match in evident])),
        shape=(len(sizes), len(sizes)),
    )
    _, component = connected_components(links, directed=False)
    equations = np.zeros((len(evident), len(sizes)))
    translations = np.zeros((len(evident), width))
    for number, match in enumerate(evident):
        # What is subtracted from `other` exceeds what is subtracted from `one` by the translation.
        equations[number, [match.one, match.other]] = np.array([-1.0, 1.0]) * match.matched
        translations[number] = match.translation * match.matched
    shifts = np.linalg.lstsq(equations, translations, rcond=None)[0] if evident else np.zeros((len(sizes), width))
    for number in np.unique(component):
        members = component == number
        shifts[members] -= np.average(shifts[members], axis=0, weights=sizes[members])
    return np.asarray(shifts)
