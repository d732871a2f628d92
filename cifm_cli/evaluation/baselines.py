"""The trivial predictors that a model must beat, behind one small interface.

A baseline sees the places of the hidden cells and nothing else of them: neither counts nor depth.

Letters: V visible cells, Q queries, P genes.
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cifm_cli.errors import CifmError
from cifm_cli.evaluation.blend import Blend
from cifm_cli.evaluation.context import Estimate
from cifm_cli.evaluation.neighbours import average, nearest, training_estimate, within
from cifm_cli.evaluation.ridge import Ridge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.evaluation.context import Context, Settings

GROUP = "cifm.baselines"  # entry points


class Baseline(Protocol):
    """A predictor to beat; yours is found through the entry points `cifm.baselines`."""

    name: str

    def candidates(self) -> Sequence[Settings]:
        """Hyper-parameters to choose among on the validation region; `[{}]` for none."""
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
        return training_estimate(context, len(query_um))


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
        return average(within(context, query_um, context.radius_um), context)


class RadiusMean(_WithoutSettings):
    """Mean of the visible cells within the model's full receptive field: it sees whom the model sees."""

    name = "radius_mean"

    def predict(self, context: Context, query_um: NDArray[np.float64], *_: object) -> Estimate:
        """See `Baseline`."""
        return average(within(context, query_um, context.reach_um), context)


class NearestNeighbours:
    """Mean of the k nearest visible cells."""

    name = "knn"

    def candidates(self) -> Sequence[Settings]:
        """Values of k."""
        return [{"k": k} for k in (4, 8, 16, 32, 48, 64, 96, 128, 256)]

    def predict(self, context: Context, query_um: NDArray[np.float64], settings: Settings, *_: object) -> Estimate:
        """See `Baseline`."""
        return average(nearest(context, query_um, int(settings["k"]), np.inf), context)


class WeightedNeighbours:
    """Mean of the k nearest visible cells, weighing exp(-(d^2 - d_1^2) / 2 w^2), d_1 the distance of the nearest."""

    name = "weighted_knn"

    def candidates(self) -> Sequence[Settings]:
        """Pairs of k and the kernel's width w, in radii."""
        return [{"k": k, "width": width} for k in (16, 64, 256) for width in (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)]

    def predict(self, context: Context, query_um: NDArray[np.float64], settings: Settings, *_: object) -> Estimate:
        """See `Baseline`."""
        width_um = settings["width"] * context.radius_um
        return average(nearest(context, query_um, int(settings["k"]), width_um), context)


BASELINES: tuple[Baseline, ...] = (
    Uniform(),
    Bernoulli(),
    NeighbourhoodAverage(),
    Zeros(),
    TrainingMean(),
    NearestNeighbours(),
    WeightedNeighbours(),
    RadiusMean(),
    Blend(),
    Ridge(),
)


def all_baselines() -> list[Baseline]:
    """Our baselines and those of installed packages.

    Returns:
        Instances; ours first.

    Raises:
        CifmError: A package's baseline does not load, or is called like another.
    """
    found: list[Baseline] = list(BASELINES)
    for entry in metadata.entry_points(group=GROUP):
        try:
            found.append(entry.load()())
        except (ImportError, AttributeError) as error:
            raise CifmError(
                f"baseline {entry.name} does not load: {error}", "install what its package needs, or remove the package"
            ) from error
    for name in {baseline.name for baseline in found}:
        if sum(baseline.name == name for baseline in found) > 1:
            raise CifmError(f"two baselines are called {name}", "remove one of the packages that bring them")
    return found
