"""Groups of samples, such as conditions: do samples of one group share more with each other than with others?

The samples are permuted over the groups, not the cells: the cells of a sample are one observation.

Letters: S samples, P pairs of groups.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.stats import false_discovery_control

from cifm_cli import provenance
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

MAX_EXACT: Final = 10_000  # different assignments up to which all are tried
MIN_SAMPLES: Final = 5  # of a group; with fewer, the page says that they are little evidence
_DRAWN: Final = 9_999


@dataclass(frozen=True)
class GroupPair:
    """Sharing between the samples of two groups, or within one group."""

    group: str
    other: str  # equal to `group` for sharing within it
    pairs: int  # pairs of samples
    log2_enrichment: float  # mean over the pairs
    difference: float  # from the mean over all other pairs
    p: float  # two-sided, from the permutations
    q: float  # p after correction for the number of group pairs (Benjamini and Hochberg)


@dataclass(frozen=True)
class GroupTest:
    """The comparison of groups."""

    within: float  # mean log2 enrichment of pairs of samples of the same group
    between: float  # and of pairs of samples of different groups
    p: float  # one-sided: permutations whose difference is at least as large
    exact: bool  # whether all assignments were tried
    permutations: int  # assignments that were tried
    smallest_p: float  # that this number of samples can reach
    pairs: tuple[GroupPair, ...]


def compare_groups(log2_enrichment: NDArray[np.float64], groups: Sequence[str], seed: int) -> GroupTest:
    """Compare sharing within groups with sharing between groups.

    Args:
        log2_enrichment: (S, S) log2 of observed over expected sharing; its diagonal is not used.
        groups: S names.
        seed: Seed of the permutations, if there are too many to try all.

    Returns:
        The comparison.

    Raises:
        CifmError: There is one group, or no group has two samples.
    """
    require_comparable(groups)
    sizes = Counter(groups)
    names = sorted(sizes)
    codes = np.array([names.index(group) for group in groups])
    values = (log2_enrichment + log2_enrichment.T) / 2
    number = math.factorial(len(codes)) // math.prod(math.factorial(size) for size in sizes.values())
    exact = number <= MAX_EXACT
    assignments = np.array(list(_all_assignments(codes)) if exact else list(_drawn_assignments(codes, seed)))
    one, other = np.triu_indices(len(codes), 1)
    values = values[one, other]
    # A permutation keeps the sizes of the groups, so every pair of groups keeps its number of pairs of samples.
    low = np.minimum(assignments[:, one], assignments[:, other])
    high = np.maximum(assignments[:, one], assignments[:, other])
    difference = _difference(low == high, values)
    is_same = codes[one] == codes[other]
    observed = _difference(is_same[None], values)[0]
    pairs = _test_pairs(codes, names, (low, high), values, exact=exact)
    at_least = int((difference >= observed - 1e-9).sum())
    return GroupTest(
        within=float(values[is_same].mean()),
        between=float(values[~is_same].mean()),
        p=_p_value(at_least, len(assignments), exact=exact),
        exact=exact,
        permutations=len(assignments),
        smallest_p=_p_value(
            int((difference >= difference.max() - 1e-9).sum()) if exact else 0, len(assignments), exact=exact
        ),
        pairs=pairs,
    )


def require_comparable(groups: Sequence[str]) -> None:
    """Raise an error if there is one group, or if no group has two samples."""
    sizes = Counter(groups)
    if len(sizes) < 2 or max(sizes.values()) < 2:
        problem = f"one group, {groups[0]}" if len(sizes) < 2 else "every sample has a group of its own"
        raise CifmError(f"groups of samples: {problem}", "two groups are needed, and two samples in one of them")


def _test_pairs(
    codes: NDArray[np.int64],
    names: list[str],
    assigned: tuple[NDArray[np.int64], NDArray[np.int64]],
    values: NDArray[np.float64],
    *,
    exact: bool,
) -> tuple[GroupPair, ...]:
    """Each pair of groups against all other pairs."""
    one, other = np.triu_indices(len(codes), 1)
    low, high = np.minimum(codes[one], codes[other]), np.maximum(codes[one], codes[other])
    rows = []
    for first, second in combinations_with_replacement(range(len(names)), 2):
        chosen = (low == first) & (high == second)
        if not chosen.any() or chosen.all():
            continue  # a group of one sample shares nothing within itself
        null = _difference((assigned[0] == first) & (assigned[1] == second), values)
        observed = _difference(chosen[None], values)[0]
        p = _p_value(int((np.abs(null) >= abs(observed) - 1e-9).sum()), len(null), exact=exact)
        rows.append((names[first], names[second], int(chosen.sum()), float(values[chosen].mean()), float(observed), p))
    corrected = false_discovery_control([row[-1] for row in rows])
    return tuple(GroupPair(*row, float(q)) for row, q in zip(rows, corrected, strict=True))


def _difference(chosen: NDArray[np.bool_], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(A,) mean of the chosen pairs minus mean of the others, for (A, P) choices."""
    number = chosen.sum(axis=1)
    total = chosen @ values
    return np.asarray(total / number - (values.sum() - total) / (len(values) - number))


def _p_value(at_least: int, number: int, *, exact: bool) -> float:
    """All assignments include the observed one; drawn ones do not, and it is added."""
    return at_least / number if exact else (1 + at_least) / (1 + number)


def _all_assignments(codes: NDArray[np.int64]) -> Iterator[list[int]]:
    """Every different order of the groups."""
    left = Counter(codes.tolist())

    def extend(begun: list[int]) -> Iterator[list[int]]:
        """All ways to go on."""
        if len(begun) == len(codes):
            yield list(begun)
            return
        for group in sorted(left):
            if left[group]:
                left[group] -= 1
                yield from extend([*begun, group])
                left[group] += 1

    yield from extend([])


def _drawn_assignments(codes: NDArray[np.int64], seed: int) -> Iterator[NDArray[np.int64]]:
    generator = provenance.numpy_generator(seed, "sharing groups")
    for _ in range(_DRAWN):
        yield generator.permutation(codes)
