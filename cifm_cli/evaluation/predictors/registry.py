"""All baselines: those of cifm and those of installed packages."""

from __future__ import annotations

from importlib import metadata

from cifm_cli.errors import CifmError
from cifm_cli.evaluation.predictors.base import Baseline
from cifm_cli.evaluation.predictors.local_averages import (
    Bernoulli,
    NearestNeighbours,
    NeighbourhoodAverage,
    RadiusMean,
    TrainingMean,
    Uniform,
    WeightedNeighbours,
    Zeros,
)
from cifm_cli.evaluation.predictors.regression import Blend, Ridge

GROUP = "cifm.baselines"  # entry points

BASELINES: tuple[type[Baseline], ...] = (
    Uniform,
    Bernoulli,
    NeighbourhoodAverage,
    Zeros,
    TrainingMean,
    NearestNeighbours,
    WeightedNeighbours,
    RadiusMean,
    Blend,
    Ridge,
)


def all_baselines() -> list[Baseline]:
    """Create every baseline.

    Returns:
        Unfitted baselines, those of cifm first.

    Raises:
        CifmError: A baseline of an installed package does not load, is no `Baseline`, or has the name of another one.
    """
    baselines: list[Baseline] = [baseline() for baseline in BASELINES]
    for entry in metadata.entry_points(group=GROUP):
        try:
            baseline = entry.load()()
        except (ImportError, AttributeError) as error:
            raise CifmError(
                f"baseline {entry.name} does not load: {error}", "install what its package needs, or remove the package"
            ) from error
        if not isinstance(baseline, Baseline):
            raise CifmError(
                f"baseline {entry.name} is not a cifm_cli.evaluation.predictors.base.Baseline",
                "update its package, or remove it",
            )
        baselines.append(baseline)
    names = [baseline.name for baseline in baselines]
    for name in names:
        if names.count(name) > 1:
            raise CifmError(f"two baselines are called {name}", "remove one of the packages that define them")
    return baselines
