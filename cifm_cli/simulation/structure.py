"""The structure of a tissue during a simulation: which types are neighbours, and how often a neighbour has the same type.

Composition alone does not show that a tissue dissolves: a lobe whose cells are shuffled has the composition of the lobe.

Letters: N residents, E pairs of neighbours, T cell types and `unassigned`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.simulation.experiment import Trajectory

RADII: Final = (1.0, 2.5)  # distances of neighbours in radii of the graph: 20 and 50 um for single cells


def neighbour_pairs(xy_um: NDArray[np.float64], within_um: float) -> NDArray[np.int64]:
    """(E, 2) pairs of cells within a distance, each pair once."""
    return np.asarray(cKDTree(xy_um).query_pairs(within_um, output_type="ndarray"), dtype=np.int64).reshape(-1, 2)


def like_neighbour_share(codes: NDArray[Any], pairs: NDArray[np.int64]) -> float | None:
    """Fraction of the pairs of neighbours that have one type; None without any pair.

    Args:
        codes: (N,) types.
        pairs: (E, 2) from `neighbour_pairs`.

    Returns:
        The fraction.
    """
    return float((codes[pairs[:, 0]] == codes[pairs[:, 1]]).mean()) if len(pairs) else None


def join_counts(codes: NDArray[Any], pairs: NDArray[np.int64], num_types: int) -> NDArray[np.int64]:
    """(T, T) number of pairs of neighbours by type, symmetric; a pair of one type counts twice.

    Args:
        codes: (N,) types.
        pairs: (E, 2) from `neighbour_pairs`.
        num_types: T.
    """
    first, second = codes[pairs[:, 0]].astype(np.int64), codes[pairs[:, 1]].astype(np.int64)
    counts = np.bincount(first * num_types + second, minlength=num_types**2).reshape(num_types, num_types)
    return np.asarray(counts + counts.T)


def structure_facts(trajectories: Sequence[Trajectory], radius_um: float) -> list[dict[str, Any]]:
    """Summarise the structure before the first step and after the last step of each arm.

    Args:
        trajectories: All trajectories.
        radius_um: Radius of the graph, micrometres.

    Returns:
        For each distance: `within_um`, and the share of neighbours of the same type `before` the first step, and after the
        last step in each arm (means over replicates). Residents that an edit changed are left out.
    """
    facts = []
    for within_um in (radii * radius_um for radii in RADII):
        shares: dict[str, list[float | None]] = {}
        for trajectory in trajectories:
            pairs = _pairs(trajectory, within_um)
            shares.setdefault("before", []).append(like_neighbour_share(trajectory.compared_codes[0], pairs))
            shares.setdefault(trajectory.arm, []).append(like_neighbour_share(trajectory.compared_codes[-1], pairs))
        means = {name: [share for share in values if share is not None] for name, values in shares.items()}
        entry = {name: float(np.mean(values)) if values else None for name, values in means.items()}
        facts.append({"within_um": within_um, "like_neighbour_share": entry})
    return facts


def neighbour_table(trajectories: Sequence[Trajectory], names: Sequence[str], radius_um: float) -> pd.DataFrame:
    """Pairs of neighbours by their types, before the first step and after the last step.

    Args:
        trajectories: All trajectories.
        names: T names of the types.
        radius_um: Radius of the graph, micrometres.

    Returns:
        One row per arm, replicate, distance and pair of types that occurred: `arm`, `replicate`, `within_um`, `cell_type`,
        `neighbour_type`, `before`, `after`. A pair of two types is in two rows; a pair of one type counts twice.
    """
    rows = []
    for trajectory in trajectories:
        for within_um in (radii * radius_um for radii in RADII):
            pairs, codes = _pairs(trajectory, within_um), trajectory.compared_codes
            before, after = (join_counts(codes[step], pairs, len(names)) for step in (0, -1))
            rows += [
                (
                    trajectory.arm,
                    trajectory.replicate,
                    within_um,
                    names[i],
                    names[j],
                    int(before[i, j]),
                    int(after[i, j]),
                )
                for i, j in zip(*np.nonzero(before + after), strict=True)
            ]
    columns = ["arm", "replicate", "within_um", "cell_type", "neighbour_type", "before", "after"]
    return pd.DataFrame(rows, columns=columns)


def _pairs(trajectory: Trajectory, within_um: float) -> NDArray[np.int64]:
    """Pairs of the residents whose types are compared."""
    xy_um = trajectory.final.slide.xy_um[: trajectory.codes.shape[1]]
    return neighbour_pairs(xy_um if trajectory.compared is None else xy_um[trajectory.compared], within_um)
