"""Groups of cells of a label: the hidden ones, and practice regions elsewhere, in which nothing is hidden.

What is inferred is the mean of a region, in which the noise of single cells averages out. Therefore regressions are fitted to
means of regions too: squares as large as the hidden one, which overlap, and smaller ones.

Letters: R regions, Q cells of the label, N cells of other labels, G genes, L labels, P labels of neighbours, K radii.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.sparse import csr_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows
    from cifm_cli.response.held_out.neighbourhoods import Neighbourhoods

    Numbers = NDArray[np.float64]

NUM_TARGETS: Final = 2  # the first regions, which are inferred: the hidden cells, and the same with other surroundings
MAX_NEIGHBOUR_LABELS: Final = 13  # that are described one by one, those with most cells
MIN_CELLS: Final = 5  # of the label in an overlapping square
MAX_SMALL: Final = 200  # small squares, those with most cells
OFFSETS: Final = ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5))  # of grids of squares, in sides
SMALL_OFFSETS: Final = ((0.0, 0.0), (0.5, 0.5))


@dataclass(frozen=True)
class Grid:
    """Squares on a slide."""

    low_um: Numbers  # (2,) corner of the first square
    side_um: float


@dataclass(frozen=True)
class Groups:
    """Which cells of the label each region has."""

    cells: list[Rows]  # R times rows among the Q cells
    centre_um: Numbers  # (R, 2)
    half_um: Numbers  # (R,) half the side
    is_square: NDArray[np.bool_]  # (R,) squares of the hidden region's grid, which do not overlap


@dataclass(frozen=True)
class Regions:
    """Means over the cells of regions, weighted by the depth; the first `NUM_TARGETS` are inferred."""

    groups: Groups
    num_cells: Numbers  # (R,)
    depth: Numbers  # (R,) sum over the cells
    rates: Numbers  # (R, G)
    squares: Numbers  # (R, G) squares of the rates
    shifts: Numbers  # (K, R, G)
    ridge: Numbers  # (R, G)
    adjacent: Numbers  # (R, G)
    composition: Numbers  # (R, K L)
    observed: Numbers  # (P, R, G) counts around a cell, of the neighbours of a label within the largest radius
    expected: Numbers  # (P, R, G) counts expected of these, given their label alone
    has_own_label: bool = False  # the last of the P labels is the own one, of cells outside each region

    @property
    def is_practice(self) -> NDArray[np.bool_]:
        """(R,) regions elsewhere."""
        return np.arange(len(self.depth)) >= NUM_TARGETS

    def do_not_overlap(self, others: Rows) -> NDArray[np.bool_]:
        """(R,) practice regions that have no place in common with some other regions."""
        groups = self.groups
        distance = np.abs(groups.centre_um[:, None] - groups.centre_um[others]).max(axis=-1)
        apart = distance > 0.99 * (groups.half_um[:, None] + groups.half_um[others])
        return np.asarray(self.is_practice & apart.all(axis=1))


def group_cells(held: Neighbourhoods, targets: list[Rows], fitted: NDArray[np.bool_], grid: Grid) -> Groups:
    """Divide the cells that may be fitted to into practice regions.

    Args:
        held: Cells of the label.
        targets: Rows of the cells of the regions that are inferred, among the cells of the label.
        fitted: (Q,) cells that may be fitted to.
        grid: The squares, one of which is hidden.

    Returns:
        The targets, followed by the practice regions.
    """
    rows = np.flatnonzero(fitted)
    cells, centres, halves, is_square = list(targets), [], [], []
    small: list[tuple[Rows, Numbers]] = []
    for share, offsets in ((1.0, OFFSETS), (0.5, SMALL_OFFSETS)):
        side = share * grid.side_um
        for number, offset in enumerate(offsets):
            start = grid.low_um - np.array(offset) * side
            corner, group = np.unique((held.xy_um[rows] - start) // side, axis=0, return_inverse=True)
            members = [rows[group.ravel() == one] for one in range(len(corner))]
            found = [(own, start + (at + 0.5) * side) for own, at in zip(members, corner, strict=True)]
            if share < 1:
                small += [one for one in found if len(one[0]) >= MIN_CELLS]
                continue
            kept = [one for one in found if number == 0 or len(one[0]) >= MIN_CELLS]
            cells += [own for own, _ in kept]
            centres += [at for _, at in kept]
            halves += [side / 2] * len(kept)
            is_square += [number == 0] * len(kept)
    small = sorted(small, key=lambda one: -len(one[0]))[:MAX_SMALL]
    unused = np.full((len(targets), 2), -1e12)  # the places of targets do not matter
    return Groups(
        cells=cells + [own for own, _ in small],
        centre_um=np.concatenate([unused, np.array(centres), np.array([at for _, at in small]).reshape(-1, 2)]),
        half_um=np.array([0.0] * len(targets) + halves + [grid.side_um / 4] * len(small)),
        is_square=np.array([False] * len(targets) + is_square + [False] * len(small)),
    )


def summarise(held: Neighbourhoods, ridge: Numbers, groups: Groups) -> Regions:
    """Average what is known of the cells of a label over regions.

    Args:
        held: Cells of the label.
        ridge: (Q, G) what the ridge regression of the slide infers of them.
        groups: The regions.

    Returns:
        The averages.
    """
    member = _member(held, groups)
    observed, expected = _by_label(held, csr_matrix(member @ held.near))
    return Regions(
        groups=groups,
        num_cells=np.array([len(own) for own in groups.cells], dtype=np.float64),
        depth=np.array([held.depth[own].sum() for own in groups.cells]),
        rates=member @ held.rates,
        squares=member @ held.rates**2,
        shifts=np.stack([member @ shift for shift in held.shifts]),
        ridge=member @ ridge,
        adjacent=member @ held.adjacent,
        composition=member @ held.composition,
        observed=observed,
        expected=expected,
    )


def add_own_label(regions: Regions, held: Neighbourhoods, hidden: NDArray[np.bool_]) -> Regions:
    """Also describe the neighbours of the own label that are outside each region.

    Args:
        regions: Regions without them.
        held: Cells of the label.
        hidden: (Q,) cells that may not be used, which are no neighbours of any region.

    Returns:
        The regions, with one more label of neighbours.
    """
    groups = regions.groups
    distance = np.abs(held.xy_um[None] - groups.centre_um[:, None]).max(axis=-1)
    is_visible = ~hidden & (distance >= groups.half_um[:, None])
    near = csr_matrix(_member(held, groups) @ held.near_own).multiply(is_visible).tocsr()
    mean = (held.depth * ~hidden) @ held.rates / held.depth[~hidden].sum()
    observed = near @ (held.rates * held.depth[:, None])
    return replace(
        regions,
        observed=np.concatenate([regions.observed, observed[None]]),
        expected=np.concatenate([regions.expected, (near @ held.depth)[None, :, None] * mean]),
        has_own_label=True,
    )


def _member(held: Neighbourhoods, groups: Groups) -> csr_matrix:
    """(R, Q) share of the depth of a region that each of its cells has."""
    sizes = [len(own) for own in groups.cells]
    column = np.concatenate(groups.cells)
    member = csr_matrix(
        (held.depth[column], (np.repeat(np.arange(len(sizes)), sizes), column)), (len(sizes), len(held.depth))
    )
    return csr_matrix(member.multiply(1 / np.asarray(member.sum(axis=1))))


def _by_label(held: Neighbourhoods, near: csr_matrix) -> tuple[Numbers, Numbers]:
    """(P, R, G) observed and expected counts of the neighbours, one label at a time."""
    neighbours = held.neighbours
    sizes = np.bincount(neighbours.codes, minlength=len(neighbours.means))
    codes = [code for code in np.argsort(-sizes, kind="stable")[:MAX_NEIGHBOUR_LABELS] if sizes[code]]
    columns = near.tocsc()
    observed, expected = [], []
    for code in codes:
        own = np.flatnonzero(neighbours.codes == code)
        part = columns[:, own]
        observed.append(np.asarray((part @ neighbours.counts[own]).todense(), dtype=np.float64))
        expected.append((part @ neighbours.depth[own])[:, None] * neighbours.means[code])
    return np.stack(observed), np.stack(expected)
