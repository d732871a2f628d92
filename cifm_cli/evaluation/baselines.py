"""The trivial predictors that a model must beat, behind one small interface.

A baseline sees the places of the hidden cells and nothing else of them: neither counts nor depth.

Letters: V visible cells, Q queries, P genes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide

Settings = dict[str, float]
"""Hyper-parameters of a predictor by name."""

_BLOCK = 50_000  # cells read at a time when a whole region is summed


@dataclass(frozen=True)
class Estimate:
    """What a predictor says of some cells.

    Args:
        mean: (Q, P) float32 log-normalised expression.
        share: (Q, P) float32 probability that the gene is expressed: for baselines, the share of neighbours that
            express it.
    """

    mean: NDArray[np.float32]
    share: NDArray[np.float32]


@dataclass(frozen=True)
class Profile:
    """What is known of each gene from the training cells.

    Args:
        mean: (P,) mean log-normalised expression.
        share: (P,) share of expressing cells.
        counts: (P,) total counts.
    """

    mean: NDArray[np.float64]
    share: NDArray[np.float64]
    counts: NDArray[np.float64]


def train_profile(slide: Slide, rows: Rows, columns: Rows, target_sum: float) -> Profile:
    """Sum up the training cells of a slide.

    Args:
        slide: Any slide.
        rows: Training cells, at least one.
        columns: (P,) columns of the slide.
        target_sum: Of the normalisation.

    Returns:
        The profile.
    """
    totals = np.zeros((3, len(columns)))
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        expression = slide.expression(block, target_sum)[:, columns]
        totals[0] += np.asarray(expression.sum(axis=0, dtype=np.float64)).ravel()
        totals[1] += expression.getnnz(axis=0)
        totals[2] += np.asarray(slide.counts(block)[:, columns].sum(axis=0, dtype=np.float64)).ravel()
    return Profile(totals[0] / len(rows), totals[1] / len(rows), totals[2])


@dataclass(frozen=True)
class Context:
    """What a baseline may use.

    Args:
        xy_um: (V, 2) places of the visible cells, void ones left out, micrometres.
        expression: (V, P) log-normalised.
        training: The training cells, for who has no neighbours.
        radius_um: Radius of the graph.
        reach_um: Full receptive field of the model.
    """

    xy_um: NDArray[np.float64]
    expression: csr_matrix
    training: Profile
    radius_um: float
    reach_um: float

    @cached_property
    def tree(self) -> cKDTree:
        """For neighbour searches."""
        return cKDTree(self.xy_um)

    @cached_property
    def expressed(self) -> csr_matrix:
        """(V, P) ones where a gene is expressed."""
        x = self.expression
        return csr_matrix((np.ones_like(x.data), x.indices, x.indptr), x.shape)


class Baseline(Protocol):
    """A predictor to beat; add yours to `BASELINES`."""

    name: str

    def candidates(self) -> Sequence[Settings]:
        """Hyper-parameters to choose among, by squared error on the validation region; `[{}]` for none."""
        ...

    def predict(
        self, context: Context, query_um: NDArray[np.float64], settings: Settings, generator: np.random.Generator
    ) -> Estimate:
        """Infer the cells at some places.

        Args:
            context: Visible cells and training profile.
            query_um: (Q, 2) micrometres.
            settings: One of the candidates.
            generator: For those that draw.

        Returns:
            Mean and share, (Q, P).
        """
        ...


class _WithoutSettings:
    def candidates(self) -> Sequence[Settings]:
        """Nothing to choose."""
        return [{}]


class Zeros(_WithoutSettings):
    """Nobody expresses anything."""

    name = "zeros"

    def predict(self, context: Context, query_um: NDArray[np.float64], *_: object) -> Estimate:
        """See `Baseline`."""
        nothing = np.zeros((len(query_um), context.expression.shape[1]), dtype=np.float32)
        return Estimate(nothing, nothing)


class TrainingMean(_WithoutSettings):
    """Every cell is the mean training cell."""

    name = "training_mean"

    def predict(self, context: Context, query_um: NDArray[np.float64], *_: object) -> Estimate:
        """See `Baseline`."""
        ones = np.ones((len(query_um), 1), dtype=np.float32)
        training = context.training
        return Estimate(ones * training.mean.astype(np.float32), ones * training.share.astype(np.float32))


class Uniform(_WithoutSettings):
    """Per gene, uniform between zero and twice its training mean (paper, section 4)."""

    name = "uniform"

    def predict(
        self, context: Context, query_um: NDArray[np.float64], _settings: Settings, generator: np.random.Generator
    ) -> Estimate:
        """See `Baseline`."""
        training = context.training
        draw = 2 * generator.random((len(query_um), len(training.mean)), dtype=np.float32)
        share = np.minimum(draw * training.share, 1)
        return Estimate((draw * training.mean).astype(np.float32), share.astype(np.float32))


class Bernoulli(_WithoutSettings):
    """Per gene, expressed with its training share, then at its mean among expressing cells (paper, section 4)."""

    name = "bernoulli"

    def predict(
        self, context: Context, query_um: NDArray[np.float64], _settings: Settings, generator: np.random.Generator
    ) -> Estimate:
        """See `Baseline`."""
        training = context.training
        draw = generator.random((len(query_um), len(training.mean)), dtype=np.float32) < training.share
        magnitude = training.mean / np.maximum(training.share, np.finfo(np.float64).tiny)
        return Estimate((draw * magnitude).astype(np.float32), draw.astype(np.float32))


class NeighbourhoodAverage(_WithoutSettings):
    """Mean of the visible cells within the radius of the graph (paper, section 4)."""

    name = "neighbourhood_average"

    def predict(self, context: Context, query_um: NDArray[np.float64], *_: object) -> Estimate:
        """See `Baseline`."""
        return _average(_within(context, query_um, context.radius_um), context)


class RadiusMean(_WithoutSettings):
    """Mean of the visible cells within the model's full receptive field: it sees whom the model sees."""

    name = "radius_mean"

    def predict(self, context: Context, query_um: NDArray[np.float64], *_: object) -> Estimate:
        """See `Baseline`."""
        return _average(_within(context, query_um, context.reach_um), context)


class NearestNeighbours:
    """Mean of the k nearest visible cells."""

    name = "knn"

    def candidates(self) -> Sequence[Settings]:
        """Values of k."""
        return [{"k": k} for k in (4, 8, 16, 32, 48, 64, 96, 128, 256)]

    def predict(self, context: Context, query_um: NDArray[np.float64], settings: Settings, *_: object) -> Estimate:
        """See `Baseline`."""
        return _average(_nearest(context, query_um, int(settings["k"]), np.inf), context)


class WeightedNeighbours:
    """Mean of the k nearest visible cells, weighing exp(-(d^2 - d_1^2) / 2 w^2), d_1 the distance of the nearest."""

    name = "weighted_knn"

    def candidates(self) -> Sequence[Settings]:
        """Pairs of k and the kernel's width w, in radii."""
        return [{"k": k, "width": width} for k in (16, 64, 256) for width in (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)]

    def predict(self, context: Context, query_um: NDArray[np.float64], settings: Settings, *_: object) -> Estimate:
        """See `Baseline`."""
        width_um = settings["width"] * context.radius_um
        return _average(_nearest(context, query_um, int(settings["k"]), width_um), context)


BASELINES: tuple[Baseline, ...] = (
    Uniform(),
    Bernoulli(),
    NeighbourhoodAverage(),
    Zeros(),
    TrainingMean(),
    NearestNeighbours(),
    WeightedNeighbours(),
    RadiusMean(),
)


def _within(context: Context, query_um: NDArray[np.float64], radius_um: float) -> csr_matrix:
    """(Q, V) ones where a visible cell is at most one radius away."""
    pairs = cKDTree(query_um).sparse_distance_matrix(context.tree, radius_um, output_type="ndarray")
    ones = np.ones(len(pairs), dtype=np.float32)
    return csr_matrix((ones, (pairs["i"], pairs["j"])), shape=(len(query_um), len(context.xy_um)))


def _nearest(context: Context, query_um: NDArray[np.float64], k: int, width_um: float) -> csr_matrix:
    """(Q, V) Gaussian weights of the k nearest visible cells; ones for an infinite width."""
    k = min(k, len(context.xy_um))
    distance, column = context.tree.query(query_um, k=range(1, k + 1))
    weight = np.exp(-0.5 * (distance**2 - distance[:, :1] ** 2) / width_um**2).astype(np.float32)
    indptr = np.arange(len(query_um) + 1) * k
    return csr_matrix((weight.ravel(), column.ravel(), indptr), shape=(len(query_um), len(context.xy_um)))


def _average(weights: csr_matrix, context: Context) -> Estimate:
    """Weighted mean and share; the training cells' where nobody has weight."""
    mass = np.asarray(weights.sum(axis=1), dtype=np.float32)
    lonely = mass[:, 0] == 0
    mass[lonely] = 1
    mean = (weights @ context.expression).toarray() / mass
    share = (weights @ context.expressed).toarray() / mass
    mean[lonely], share[lonely] = context.training.mean, context.training.share
    return Estimate(mean.astype(np.float32), np.minimum(share, 1).astype(np.float32))
