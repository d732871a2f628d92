"""Summaries of a simulation: composition at every step, transitions between types, and the effect of the edits.

Residents that an edit removed, replaced or changed are left out in both arms, as their change is no effect.

Letters: N residents, T cell types and `unassigned`, R replicates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from cifm_cli.simulation.experiment import ARMS, CONTROL, TREATED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.simulation.experiment import Trajectory


def count_types(trajectory: Trajectory, num_types: int) -> NDArray[np.int64]:
    """(steps + 1, T) number of residents of each type before the first step and after each step."""
    return np.array([np.bincount(codes, minlength=num_types) for codes in trajectory.compared_codes])


def count_transitions(trajectory: Trajectory, num_types: int) -> NDArray[np.int64]:
    """(T, T) number of residents by type before the first step (rows) and after the last step (columns)."""
    # Each pair of types is one number, so that a single bincount gives the matrix; int16 codes would overflow.
    codes = trajectory.compared_codes
    pairs = codes[0].astype(np.int64) * num_types + codes[-1]
    return np.bincount(pairs, minlength=num_types**2).reshape(num_types, num_types)


def mean_transitions(trajectories: Sequence[Trajectory], arm: str, num_types: int) -> NDArray[np.float64]:
    """Fraction of each type that became each type, pooled over the replicates of an arm.

    Args:
        trajectories: All trajectories.
        arm: `treated` or `control`.
        num_types: T.

    Returns:
        (T, T), rows sum to 1; NaN for types that no resident had.
    """
    counts = sum(
        (count_transitions(trajectory, num_types) for trajectory in trajectories if trajectory.arm == arm), np.zeros(())
    )
    sums = np.asarray(counts).sum(axis=1, keepdims=True)
    return np.where(sums > 0, counts / np.maximum(sums, 1), np.nan)


def composition_table(trajectories: Sequence[Trajectory], names: Sequence[str]) -> pd.DataFrame:
    """Composition of the residents over time.

    Args:
        trajectories: All trajectories.
        names: T names of the types.

    Returns:
        One row per arm, replicate, step and type: `arm`, `replicate`, `step`, `cell_type`, `num_cells`, `share`
        (fraction of the residents).
    """
    rows = [
        (
            trajectory.arm,
            trajectory.replicate,
            step,
            name,
            int(number),
            round(float(number) / trajectory.compared_codes.shape[1], 6),
        )
        for trajectory in trajectories
        for step, counts in enumerate(count_types(trajectory, len(names)))
        for name, number in zip(names, counts, strict=True)
    ]
    return pd.DataFrame(rows, columns=["arm", "replicate", "step", "cell_type", "num_cells", "share"])


def transition_table(trajectories: Sequence[Trajectory], names: Sequence[str]) -> pd.DataFrame:
    """Transitions of the residents from the first to the last state.

    Args:
        trajectories: All trajectories.
        names: T names of the types.

    Returns:
        One row per arm, replicate and transition that occurred: `arm`, `replicate`, `from`, `to`, `num_cells`, `share`
        (fraction of the residents of the type `from`).
    """
    rows = []
    for trajectory in trajectories:
        counts = count_transitions(trajectory, len(names))
        for i, j in zip(*np.nonzero(counts), strict=True):
            fraction = round(float(counts[i, j] / counts[i].sum()), 6)
            rows.append((trajectory.arm, trajectory.replicate, names[i], names[j], int(counts[i, j]), fraction))
    return pd.DataFrame(rows, columns=["arm", "replicate", "from", "to", "num_cells", "share"])


def composition_change(trajectories: Sequence[Trajectory], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The effect of the edits on the composition: treated minus control, after the last step.

    Args:
        trajectories: All trajectories.
        names: T names of the types.

    Returns:
        By type, in descending order of their initial frequency: the fraction of the residents `before` the first step
        and after the last step in each arm (means over replicates); `difference`, treated minus control; the difference
        in each of the `replicates`; `kept`, the fraction of the residents of the type that keep it without the edits, None
        where no resident has it; and over replicates its `standard_deviation` and the ends `low` and `high` of its 95 %
        interval (Student's t), None for one replicate.
    """
    final = {arm: _final_fractions(trajectories, arm, len(names)) for arm in ARMS}
    before = _initial_fractions(trajectories, len(names))
    kept = mean_transitions(trajectories, CONTROL, len(names)).diagonal()
    # Arms of one replicate share their random numbers, so differences are taken by replicate before they are averaged.
    difference = final[TREATED] - final[CONTROL]
    occurs = before.astype(bool) | final[TREATED].any(axis=0) | final[CONTROL].any(axis=0)
    return {
        names[i]: {
            "before": float(before[i]),
            CONTROL: float(final[CONTROL][:, i].mean()),
            TREATED: float(final[TREATED][:, i].mean()),
            "difference": float(difference[:, i].mean()),
            "replicates": difference[:, i].tolist(),
            "kept": float(kept[i]) if np.isfinite(kept[i]) else None,
            **_spread(difference[:, i]),
        }
        for i in np.argsort(-before, kind="stable")
        if occurs[i]
    }


def _spread(differences: NDArray[np.float64]) -> dict[str, float | None]:
    """Standard deviation over (R,) replicates, and 95 % interval of their mean; None for a single one."""
    if len(differences) == 1:
        return {"standard_deviation": None, "low": None, "high": None}
    mean, deviation = differences.mean(), differences.std(ddof=1)
    margin = deviation * _t_quantile(len(differences)) / np.sqrt(len(differences))
    return {"standard_deviation": float(deviation), "low": float(mean - margin), "high": float(mean + margin)}


def _t_quantile(num_replicates: int) -> float:
    """The 97.5 % quantile of Student's t for a mean over replicates."""
    return float(student.ppf(0.975, num_replicates - 1))


def stability(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """How many residents keep their type, cell by cell.

    A composition may be stable although every cell changes, so that drift alone says little.

    Args:
        trajectories: All trajectories.

    Returns:
        Fractions of the residents, means over replicates: `control` and `treated` that have the same type after the last
        step as before the first one, and `changed_by_edits`, whose type after the last step differs between the arms;
        the latter also for each of the `replicates`.
    """
    kept = {arm: float(np.mean([(own[0] == own[-1]).mean() for own in _codes(trajectories, arm)])) for arm in ARMS}
    pairs = zip(_codes(trajectories, CONTROL), _codes(trajectories, TREATED), strict=True)
    changed = [float((control[-1] != treated[-1]).mean()) for control, treated in pairs]
    return {**kept, "changed_by_edits": float(np.mean(changed)), "replicates": changed}


def _codes(trajectories: Sequence[Trajectory], arm: str) -> list[NDArray[np.int16]]:
    """Types of the residents in each replicate of an arm."""
    return [trajectory.compared_codes for trajectory in trajectories if trajectory.arm == arm]


def control_drift(trajectories: Sequence[Trajectory], names: Sequence[str]) -> float:
    """Total variation distance between initial and final composition without edits, mean over replicates."""
    change = _final_fractions(trajectories, CONTROL, len(names)) - _initial_fractions(trajectories, len(names))
    # A cell that changes its type changes two fractions, hence the half.
    return float(np.abs(change).sum(axis=1).mean() / 2)


def _initial_fractions(trajectories: Sequence[Trajectory], num_types: int) -> NDArray[np.float64]:
    """(T,) fractions of the residents before the first step, the same in all trajectories."""
    codes = trajectories[0].compared_codes
    fractions: NDArray[np.float64] = np.bincount(codes[0], minlength=num_types) / codes.shape[1]
    return fractions


def _final_fractions(trajectories: Sequence[Trajectory], arm: str, num_types: int) -> NDArray[np.float64]:
    """(R, T) fractions of the residents after the last step."""
    last = [trajectory.compared_codes[-1] for trajectory in trajectories if trajectory.arm == arm]
    return np.array([np.bincount(codes, minlength=num_types) / len(codes) for codes in last])


def change_frame(change: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """The content of `composition_change` as a table.

    Args:
        change: Dictionary from `composition_change`.

    Returns:
        One row per type: `cell_type`, `before`, `control`, `treated`, `difference`, `standard_deviation`, `low`, `high`.
    """
    columns = ["before", CONTROL, TREATED, "difference", "standard_deviation", "low", "high"]
    table = pd.DataFrame.from_dict(change, orient="index", columns=[*columns, "replicates", "kept"])[columns].astype(
        float
    )
    return table.rename_axis("cell_type").reset_index()
