"""The response to an edit: a table of effects by gene, label of the resident, and distance to the edited cells.

Letters: N cells of the slide, K edited places, R residents, C distance bands, F predictors, G genes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree
from scipy.stats import false_discovery_control
from scipy.stats import t as student

from cifm_cli.data.tiles import chunks
from cifm_cli.provenance import numpy_generator
from cifm_cli.response.association import associate
from cifm_cli.response.label_regression import NEAREST_REACH, LabelRegression, fit_label
from cifm_cli.response.surroundings import NO_LABEL, STEPS, LabelledCells, choose_design
from cifm_cli.statistics.bootstrap import MIN_BLOCKS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.response.surroundings import Design

    Numbers = NDArray[np.float64]

BAND_RADII: Final = (0.0, 0.75, 1.5, 3.0, 6.0)  # edges of the distance bands, in radii of the graph
MIN_BAND_RESIDENTS: Final = 10  # whose surroundings the edit changes; fewer give no row
MIN_SUPPORT: Final = 20  # residents of the slide that show the combination; effects with fewer are not called
FALSE_DISCOVERY_RATE: Final = 0.05
SMALL_FRACTION: Final = 1e-5  # of the counts, added to both sides of a ratio
CELLS_AT_ONCE: Final = 20_000
CLEAR_SHIFT: Final = 0.1  # log2; no share of a smaller mean shift is reported
COLUMNS: Final = (
    "gene_id", "gene", "label", "band_low_um", "band_high_um", "log2_change", "low", "high", "p", "q", "called",
    "mean_shift", "stratified_count", "association_share", "num_residents", "unexposed_um", "support",
    "log2_edited_ratio",
)  # fmt: skip


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
class _Residents:
    """Residents of one label in the edited part of the slide."""

    differences: Numbers  # (R, F) predictors after minus before the edit
    distance: Numbers  # (R,) to the nearest edited place
    nearest: Numbers  # (2, labels, R) distance to the nearest cell of each edited label, before and after


@dataclass(frozen=True)
class _Band:
    """One distance band of a label."""

    low_um: float
    high_um: float
    difference: Numbers  # (F,) mean over the residents whose surroundings change
    num_residents: int  # such residents
    unexposed_um: float  # distance within which they had no cell of the label
    signs: Numbers  # (labels,) 1 for an edited label that the residents get, -1 for one that they lose


@dataclass(frozen=True)
class ResponseEstimate:
    """The response to an edit."""

    effects: pd.DataFrame  # one row per gene, label and distance band; columns `COLUMNS`
    edited: tuple[str, ...]  # labels of which the edit adds or removes cells
    skipped: dict[str, str] = field(default_factory=dict)  # labels without rows, with the reason


def estimate_response(
    slide: Slide, edit: SurroundingsEdit, seed: int, advance: Callable[[], None] = lambda: None
) -> ResponseEstimate:
    """Estimate which genes of which residents an edit changes, from how genes vary with surroundings on the slide.

    The change of a resident is the difference of its predicted expression with and without the edit, at its known label,
    before any drawing. It is averaged over the residents of a label in a distance band that get their first, or lose
    their last, cell of an edited label near them.

    Args:
        slide: The slide.
        edit: Labels before and after the edit.
        seed: Seed of the sample of residents, on a slide with many.
        advance: Called after every label.

    Returns:
        The table of effects; it is empty if nothing is edited.
    """
    edited = edit.edited
    names = edit.before.names
    tables: list[pd.DataFrame] = []
    skipped: dict[str, str] = {}
    design = choose_design(edit.before, slide.radius_um, edited)
    edited_fraction = _largest_fractions(slide, edit.before, edited)
    for code in np.unique(edit.before.codes[edit.residents]).tolist() if edited else ():
        advance()
        if code == NO_LABEL:
            continue
        residents = _residents(slide, edit, code, design)
        if not _bands(residents, slide.radius_um, NEAREST_REACH):
            skipped[names[code]] = "too few residents near the edit"
            continue
        fitted = fit_label(slide, edit.before, code, design, numpy_generator(seed, "response", names[code]))
        if fitted is None:
            skipped[names[code]] = "too few residents on the slide"
            continue
        bands = _bands(residents, slide.radius_um, fitted.reach)
        tables += _effects(slide, edit.before, fitted, bands, edited_fraction)
    effects = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COLUMNS))
    return ResponseEstimate(_call(effects), tuple(names[code] for code in edited), skipped)


def _residents(slide: Slide, edit: SurroundingsEdit, code: int, design: Design) -> _Residents:
    rows = edit.residents[edit.before.codes[edit.residents] == code]
    xy_um = slide.xy_um[rows]
    arms = (edit.before, edit.after)
    x_before, x_after = (design.predictors(cells, rows, xy_um) for cells in arms)
    nearest = np.array([[cells.distances(xy_um, rows, label) for label in design.stepped] for cells in arms])
    return _Residents(x_after - x_before, cKDTree(edit.places_um).query(xy_um)[0], nearest)


def _bands(residents: _Residents, radius_um: float, reach: float) -> list[_Band]:
    """Average the residents of each distance band whose surroundings change from without to with a label, or back.

    Without a label means: none within the band and within the reach of its effect. If too few residents are so far
    from the label, as where it is everywhere, a smaller distance has to do.
    """
    found = []
    before, after = residents.nearest
    for low, high in zip(radius_um * np.array(BAND_RADII[:-1]), radius_um * np.array(BAND_RADII[1:]), strict=True):
        in_band = (residents.distance >= low) & (residents.distance < high)
        limits = sorted({max(high, step * radius_um) for step in STEPS if NEAREST_REACH <= step <= reach}, reverse=True)
        for limit in (*limits, high):
            gets = in_band & (before >= limit) & (after < high)
            loses = in_band & (after >= limit) & (before < high)
            chosen = (gets | loses).any(axis=0)
            if chosen.sum() >= MIN_BAND_RESIDENTS:
                signs = (gets[:, chosen].astype(np.float64) - loses[:, chosen]).mean(axis=1)
                difference = residents.differences[chosen].mean(axis=0)
                found.append(_Band(float(low), float(high), difference, int(chosen.sum()), float(limit), signs))
                break
    return found


def _largest_fractions(slide: Slide, cells: LabelledCells, labels: Sequence[int]) -> Numbers:
    """(G,) fraction of the counts that each gene has in the cells of a label, the largest over some labels."""
    largest = np.zeros(slide.num_genes)
    for code in labels:
        total = np.zeros(slide.num_genes)
        for rows in chunks(cells.of(code), CELLS_AT_ONCE):
            total += np.asarray(slide.counts(rows).sum(axis=0)).ravel()
        largest = np.maximum(largest, total / max(total.sum(), 1.0))
    return largest


def _effects(
    slide: Slide, cells: LabelledCells, fitted: LabelRegression, bands: list[_Band], edited_fraction: Numbers
) -> list[pd.DataFrame]:
    """Rows of one label, without correction for the number of tests."""
    rows = cells.of(fitted.code)
    rows = rows[slide.total_counts[rows] > 0]
    xy_um = slide.xy_um[rows]
    nearest = [cells.distances(xy_um, rows, label) for label in fitted.design.stepped]
    counts, depth = slide.counts(rows)[:, fitted.genes], slide.total_counts[rows]
    x = fitted.design.predictors(cells, rows, xy_um)
    own_fraction = np.asarray(counts.sum(axis=0)).ravel() / max(float(depth.sum()), 1.0)
    ratio = np.log2((edited_fraction[fitted.genes] + SMALL_FRACTION) / (own_fraction + SMALL_FRACTION))
    tables = []
    degrees = fitted.num_blocks - 1
    for band in bands:
        up_to = max(band.unexposed_um, band.high_um) / slide.radius_um
        value, error = (found / np.log(2) for found in fitted.change(band.difference, up_to))
        shift, stratified, support = np.zeros(len(value)), np.zeros(len(value)), len(rows)
        for sign, distance in zip(band.signs, nearest, strict=True):
            if not sign:
                continue
            near = (distance >= band.low_um) & (distance < band.high_um)
            compared = near | (distance >= band.unexposed_um)
            support = min(support, int(near.sum()))
            found = associate(
                counts[compared], depth[compared], near[compared], x[compared][:, fitted.design.num_steps :]
            )
            if found is not None:
                shift, stratified = shift + sign * found.mean_shift, stratified + sign * found.stratified
        # Without a cell that shows the combination, the change and its error are zero: nothing is known of it.
        is_known = (error > 0) & (degrees > 0)
        margin = np.where(is_known, student.ppf(0.975, max(degrees, 1)) * error, np.inf)
        p = 2 * student.sf(np.abs(value) / np.maximum(error, 1e-12), degrees) if degrees else np.ones(len(error))
        is_decidable = fitted.num_blocks >= MIN_BLOCKS and support >= MIN_SUPPORT
        table = pd.DataFrame(
            {
                "gene_id": np.array(slide.gene_ids, dtype=object)[fitted.genes],
                "gene": np.array(slide.symbols, dtype=object)[fitted.genes],
                "label": cells.names[fitted.code],
                "band_low_um": band.low_um,
                "band_high_um": band.high_um,
                "log2_change": value,
                "low": value - margin,
                "high": value + margin,
                "p": p if is_decidable else 1.0,
                "mean_shift": shift,
                "stratified_count": stratified,
                "association_share": _share(value, shift),
                "num_residents": band.num_residents,
                "unexposed_um": band.unexposed_um,
                "support": support,
                "log2_edited_ratio": ratio,
            }
        )
        tables.append(table)
    return tables


def _share(value: Numbers, shift: Numbers) -> Numbers:
    """Share of the mean shift that other surroundings explain, 0 to 1; NaN where there is no clear shift."""
    is_clear = np.abs(shift) >= CLEAR_SHIFT
    share = 1 - value / np.where(is_clear, shift, 1.0)
    return np.where(is_clear, np.clip(share, 0, 1), np.nan)


def _call(effects: pd.DataFrame) -> pd.DataFrame:
    """Correct the p-values of all rows together (Benjamini and Hochberg 1995)."""
    q = false_discovery_control(effects["p"].to_numpy(dtype=np.float64)) if len(effects) else np.zeros(0)
    return effects.assign(q=q, called=q <= FALSE_DISCOVERY_RATE)[list(COLUMNS)]
