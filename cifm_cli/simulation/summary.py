"""What a simulation says in numbers: composition over the steps, transitions, and the change beside no injection.

Letters: T types, then `unassigned`; R replicates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli.simulation.experiment import ARMS, CONTROL, TREATED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.simulation.experiment import Course


def compositions(course: Course, num_types: int) -> NDArray[np.int64]:
    """Count the residents of each type.

    Args:
        course: A run.
        num_types: T + 1.

    Returns:
        (steps + 1, T + 1).
    """
    return np.array([np.bincount(codes, minlength=num_types) for codes in course.codes])


def transitions(course: Course, num_types: int) -> NDArray[np.int64]:
    """Count the residents that went from one type to another.

    Args:
        course: A run.
        num_types: T + 1.

    Returns:
        (T + 1, T + 1), before by after.
    """
    pairs = course.codes[0].astype(np.int64) * num_types + course.codes[-1]
    return np.bincount(pairs, minlength=num_types**2).reshape(num_types, num_types)


def mean_transitions(courses: Sequence[Course], arm: str, num_types: int) -> NDArray[np.float64]:
    """Share of each type that went to each type, over all replicates of an arm.

    Args:
        courses: All runs.
        arm: `treated` or `control`.
        num_types: T + 1.

    Returns:
        (T + 1, T + 1), rows sum to 1; NaN for a type nobody had.
    """
    counts = sum((transitions(course, num_types) for course in courses if course.arm == arm), np.zeros(()))
    sums = np.asarray(counts).sum(axis=1, keepdims=True)
    return np.where(sums > 0, counts / np.maximum(sums, 1), np.nan)


def composition_rows(courses: Sequence[Course], names: Sequence[str]) -> list[tuple[str, int, int, str, int, float]]:
    """Rows of `composition.csv`: arm, replicate, step, cell_type, num_cells, share."""
    return [
        (course.arm, course.replicate, step, name, int(number), round(float(number) / course.codes.shape[1], 6))
        for course in courses
        for step, counts in enumerate(compositions(course, len(names)))
        for name, number in zip(names, counts, strict=True)
    ]


def transition_rows(courses: Sequence[Course], names: Sequence[str]) -> list[tuple[str, int, str, str, int, float]]:
    """Rows of `transitions.csv`: arm, replicate, from, to, num_cells, share of those it came from; no empty ones."""
    rows = []
    for course in courses:
        counts = transitions(course, len(names))
        for i, j in zip(*np.nonzero(counts), strict=True):
            share = round(float(counts[i, j] / counts[i].sum()), 6)
            rows.append((course.arm, course.replicate, names[i], names[j], int(counts[i, j]), share))
    return rows


def change(courses: Sequence[Course], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What the injection changed: shares of the residents, treated minus control.

    Args:
        courses: All runs.
        names: T + 1 names.

    Returns:
        By type, the commonest first: share before, and after in each arm (means over replicates); their difference, that
        of every replicate, and its standard deviation over replicates (None for one).
    """
    shares = {arm: _final_shares(courses, arm, len(names)) for arm in ARMS}
    before = np.bincount(courses[0].codes[0], minlength=len(names)) / courses[0].codes.shape[1]
    difference = shares[TREATED] - shares[CONTROL]
    spread = difference.std(axis=0, ddof=1) if len(difference) > 1 else None
    return {
        names[i]: {
            "before": float(before[i]),
            CONTROL: float(shares[CONTROL][:, i].mean()),
            TREATED: float(shares[TREATED][:, i].mean()),
            "difference": float(difference[:, i].mean()),
            "replicates": difference[:, i].tolist(),
            "standard_deviation": None if spread is None else float(spread[i]),
        }
        for i in np.argsort(-before, kind="stable")
        if before[i] or shares[TREATED][:, i].any() or shares[CONTROL][:, i].any()
    }


def drift(courses: Sequence[Course], names: Sequence[str]) -> float:
    """How far the composition went without any injection: half the summed change of shares, mean over replicates."""
    before = np.bincount(courses[0].codes[0], minlength=len(names)) / courses[0].codes.shape[1]
    return float(np.abs(_final_shares(courses, CONTROL, len(names)) - before).sum(axis=1).mean() / 2)


def _final_shares(courses: Sequence[Course], arm: str, num_types: int) -> NDArray[np.float64]:
    """(R, T + 1) shares at the end."""
    last = [course.codes[-1] for course in courses if course.arm == arm]
    return np.array([np.bincount(codes, minlength=num_types) / len(codes) for codes in last])
