"""Distance bands: the residents whose surroundings an edit changes, and by how much their predictors change.

Letters: R residents, L edited labels, F predictors, E replicates of the edit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.spatial import cKDTree

from cifm_cli.response.surroundings import NEAREST_REACH, NO_LABEL, STEPS, LabelledCells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows
    from cifm_cli.response.surroundings import Design

    Numbers = NDArray[np.float64]

BAND_RADII: Final = (0.0, 0.75, 1.5, 3.0, 6.0)  # edges of the distance bands, in radii of the graph
MIN_BAND_RESIDENTS: Final = 10  # whose surroundings the edit changes; fewer give no row
# Where the label is common, few residents are free of it. So many are enough before those count that have it in reach.
MIN_FREE_RESIDENTS: Final = 3


@dataclass(frozen=True)
class SurroundingsEdit:
    """The labels of a slide's cells before and after an edit."""

    before: LabelledCells  # the N cells of the slide
    after: LabelledCells  # the same cells, then added ones; positions of the slide's cells are unchanged
    residents: Rows  # (R,) rows of the cells whose response is estimated; edited cells are not among them
    places_um: Numbers  # (K, 2) places of the edit, from which distances are measured

    @property
    def edited(self) -> tuple[int, ...]:
        """Codes of the labels of which the edit adds or removes cells."""
        num_cells = len(self.before.codes)
        changed = np.flatnonzero(self.after.codes[:num_cells] != self.before.codes)
        codes = [self.before.codes[changed], self.after.codes[changed], self.after.codes[num_cells:]]
        return tuple(int(code) for code in np.unique(np.concatenate(codes)) if code != NO_LABEL)


@dataclass(frozen=True)
class Residents:
    """Residents of one label in the edited part of the slide, in one replicate of the edit."""

    rows: Rows  # (R,) of the slide
    differences: Numbers  # (R, F) predictors after minus before the edit
    distance: Numbers  # (R,) to the nearest edited place
    nearest: Numbers  # (2, L, R) distance to the nearest cell of each edited label, before and after
    other: Numbers  # (R,) distance to the nearest cell of the compared label, infinite without one


@dataclass(frozen=True)
class Band:
    """One distance band of a label."""

    low_um: float
    high_um: float
    differences: Numbers  # (E, F) mean over the residents of each replicate; replicates without residents are left out
    residents: tuple[Rows, ...]  # rows of these residents in every replicate
    unexposed_um: float  # distance within which they had no cell of the label
    signs: Numbers  # (L,) 1 for an edited label that the residents get, -1 for one that they lose
    other: Numbers | None  # (F,) mean difference if the compared label were at the places of the edit; None if unknown

    @property
    def num_residents(self) -> int:
        """Residents whose surroundings change, on average over the replicates."""
        return round(float(np.mean([len(rows) for rows in self.residents])))


def edited_residents(edits: Sequence[SurroundingsEdit], code: int, design: Design) -> list[Residents]:
    """Describe the residents of a label in every replicate of an edit.

    Args:
        edits: The replicates, of one tissue.
        code: The label.
        design: The predictors.

    Returns:
        One entry per replicate.
    """
    found = []
    for edit in edits:
        rows = edit.residents[edit.before.codes[edit.residents] == code]
        xy_um = edit.before.xy_um[rows]
        arms = (edit.before, edit.after)
        x_before, x_after = (design.predictors(cells, rows, xy_um) for cells in arms)
        nearest = np.array([[cells.distances(xy_um, rows, label) for label in design.stepped] for cells in arms])
        to_other = edit.before.distances(xy_um, rows, design.compared)
        distance = cKDTree(edit.places_um).query(xy_um)[0] if len(edit.places_um) else np.full(len(rows), np.inf)
        found.append(Residents(rows, x_after - x_before, distance, nearest, to_other))
    return found


def find_bands(replicates: Sequence[Residents], design: Design, reach: float) -> list[Band]:
    """Average the residents of each distance band whose surroundings change from without to with a label, or back.

    Without a label means: none within the band and within the reach of its effect. If hardly any resident is so far
    from the label, as where it is everywhere, a smaller distance has to do.

    Args:
        replicates: The residents of one label in each replicate of the edit.
        design: The predictors.
        reach: Reach of the effect, in radii.

    Returns:
        The bands with enough residents.
    """
    found = []
    radius_um = design.radius_um
    for low, high in zip(radius_um * np.array(BAND_RADII[:-1]), radius_um * np.array(BAND_RADII[1:]), strict=True):
        limits = sorted({max(high, step * radius_um) for step in STEPS if NEAREST_REACH <= step <= reach}, reverse=True)
        band = _widest_free_band(replicates, (float(low), float(high)), limits)
        if band is not None:
            found.append(_with_other(band, replicates, design))
    return found


def _widest_free_band(
    replicates: Sequence[Residents], edges: tuple[float, float], limits: Sequence[float]
) -> Band | None:
    """A band whose residents have no cell of an edited label within the largest possible limit."""
    fallback = _band(replicates, edges, edges[1], MIN_BAND_RESIDENTS)
    if fallback is None:
        return None
    for minimum in (MIN_BAND_RESIDENTS, MIN_FREE_RESIDENTS):
        for limit in limits:
            band = _band(replicates, edges, float(limit), minimum)
            if band is not None:
                return band
    return fallback


def _band(replicates: Sequence[Residents], edges: tuple[float, float], limit: float, minimum: int) -> Band | None:
    """A band whose residents have no cell of an edited label within a limit; None if there are too few of them."""
    low, high = edges
    rows, differences, signs = [], [], []
    for residents in replicates:
        before, after = residents.nearest
        in_band = (residents.distance >= low) & (residents.distance < high)
        gets = in_band & (before >= limit) & (after < high)
        loses = in_band & (after >= limit) & (before < high)
        chosen = (gets | loses).any(axis=0)
        rows.append(residents.rows[chosen])
        if chosen.any():
            signs.append((gets[:, chosen].astype(np.float64) - loses[:, chosen]).mean(axis=1))
            differences.append(residents.differences[chosen].mean(axis=0))
    if sum(map(len, rows)) < minimum:
        return None
    return Band(low, high, np.array(differences), tuple(rows), limit, np.mean(signs, axis=0), None)


def _with_other(band: Band, replicates: Sequence[Residents], design: Design) -> Band:
    """Add what the compared label at the same places would change, where the edit only adds cells, or only removes them.

    Residents that have the compared label nearby already are left out, as are those with the edited one for the edit.
    """
    gains = band.signs[band.signs != 0]
    if design.compared == NO_LABEL or not len(gains) or np.unique(np.sign(gains)).size > 1:
        return band
    distance, own = (np.concatenate([getattr(one, name) for one in replicates]) for name in ("distance", "other"))
    chosen = (distance >= band.low_um) & (distance < band.high_um) & (own >= band.unexposed_um)
    if chosen.sum() < MIN_BAND_RESIDENTS:
        return band
    columns = design.columns(design.compared)
    difference = np.zeros(band.differences.shape[1])
    with_cell, without = (design.of_label(one, design.compared) for one in (distance[chosen], own[chosen]))
    difference[columns] = np.sign(gains[0]) * (with_cell - without).mean(axis=0)
    return replace(band, other=difference)
