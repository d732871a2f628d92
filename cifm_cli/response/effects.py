"""The response to an edit: a table of effects by gene, label of the resident, and distance to the edited cells.

Letters: N cells of the slide, C distance bands, F predictors, G genes, S draws of the shuffled control.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from scipy.stats import t as student

from cifm_cli.data.tiles import chunks
from cifm_cli.provenance import numpy_generator
from cifm_cli.response.association import associate
from cifm_cli.response.bands import SurroundingsEdit, edited_residents, find_bands
from cifm_cli.response.calls import Controls, call_effects, shuffled_p
from cifm_cli.response.label_regression import fit_label
from cifm_cli.response.shuffled import draw_shuffles, shuffled_changes
from cifm_cli.response.surroundings import NEAREST_REACH, NO_LABEL, choose_design
from cifm_cli.statistics.bootstrap import MIN_BLOCKS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.response.bands import Band
    from cifm_cli.response.label_regression import LabelRegression
    from cifm_cli.response.surroundings import LabelledCells

    Numbers = NDArray[np.float64]

MIN_SUPPORT: Final = 20  # residents of the slide that show the combination; effects with fewer are not called
SMALL_FRACTION: Final = 1e-5  # of the counts, added to both sides of a ratio
CELLS_AT_ONCE: Final = 20_000
CLEAR_SHIFT: Final = 0.1  # log2; no share of a smaller mean shift is reported
COLUMNS: Final = (
    "gene_id", "gene", "label", "band_low_um", "band_high_um", "log2_change", "low", "high", "p", "q", "called",
    "shuffled", "other_label", "other_change", "other_p", "difference_p", "mean_shift", "mean_shift_error",
    "stratified_count", "association_share",
    "num_residents", "unexposed_um", "support", "log2_edited_ratio", "model_log2_change",
)  # fmt: skip


@dataclass(frozen=True)
class ResponseEstimate:
    """The response to an edit."""

    effects: pd.DataFrame  # one row per gene, label and distance band; columns `COLUMNS`
    edited: tuple[str, ...]  # labels of which the edit adds or removes cells
    controls: Controls  # what the controls call
    skipped: dict[str, str] = field(default_factory=dict)  # labels without rows, with the reason
    # by label and upper edge of the band: rows of its residents in every replicate
    residents: Mapping[tuple[str, float], tuple[Rows, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class _LabelResponse:
    """Rows of one label, and what their calls need."""

    tables: list[pd.DataFrame]  # one per band
    shuffled_p: list[NDArray[np.float32]]  # (S, G) for each band


def estimate_response(
    slide: Slide,
    edit: SurroundingsEdit | Sequence[SurroundingsEdit],
    seed: int,
    advance: Callable[[], None] = lambda: None,
) -> ResponseEstimate:
    """Estimate which genes of which residents an edit changes, from how genes vary with surroundings on the slide.

    The change of a resident is the difference of its predicted expression with and without the edit, at its known label,
    before any drawing. It is averaged over the residents of a label in a distance band that get their first, or lose
    their last, cell of an edited label near them.

    Args:
        slide: The slide.
        edit: Labels before and after the edit; several replicates of it, with equal labels before, are averaged.
        seed: Seed of the sample of residents, on a slide with many, and of the shuffled control.
        advance: Called after every label.

    Returns:
        The table of effects; it is empty if nothing is edited.
    """
    edits = [edit] if isinstance(edit, SurroundingsEdit) else list(edit)
    before = edits[0].before
    edited = tuple(sorted({code for one in edits for code in one.edited}))
    found: list[_LabelResponse] = []
    skipped: dict[str, str] = {}
    residents: dict[tuple[str, float], tuple[Rows, ...]] = {}
    common = choose_design(before, slide.radius_um, edited)
    edited_fraction = _largest_fractions(slide, before, edited)
    labels = np.unique(np.concatenate([before.codes[one.residents] for one in edits])).tolist() if edited else []
    for code in labels:
        advance()
        if code == NO_LABEL:
            continue
        name = str(before.names[code])
        design = common.compare(before, code)
        replicates = edited_residents(edits, code, design)
        if not find_bands(replicates, design, NEAREST_REACH):
            skipped[name] = "too few residents near the edit"
            continue
        fitted = fit_label(slide, before, code, design, numpy_generator(seed, "response", name))
        if fitted is None:
            skipped[name] = "too few residents on the slide"
            continue
        bands = find_bands(replicates, design, fitted.reach)
        residents |= {(name, band.high_um): band.residents for band in bands}
        origin = draw_shuffles(fitted, numpy_generator(seed, "shuffled", name))
        found.append(_effects(slide, before, fitted, bands, origin, edited_fraction))
    tables = [table for one in found for table in one.tables]
    effects = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COLUMNS))
    draws = [p for one in found for p in one.shuffled_p]
    effects, controls = call_effects(effects, np.concatenate(draws, axis=1) if draws else np.zeros((0, 0)))
    return ResponseEstimate(
        effects[list(COLUMNS)], tuple(before.names[code] for code in edited), controls, skipped, residents
    )


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
    slide: Slide,
    cells: LabelledCells,
    fitted: LabelRegression,
    bands: list[Band],
    origin: NDArray[np.int64],
    edited_fraction: Numbers,
) -> _LabelResponse:
    """Rows of one label, without correction for the number of tests."""
    genes = fitted.genes
    observed = _Observed.of(slide, cells, fitted)
    own_fraction = np.asarray(observed.counts.sum(axis=0)).ravel() / max(float(observed.depth.sum()), 1.0)
    ratio = np.log2((edited_fraction[genes] + SMALL_FRACTION) / (own_fraction + SMALL_FRACTION))
    tables, draws = [], []
    # Bands with the same steps have the same regression, whose errors are estimated together.
    for up_to in dict.fromkeys(_up_to(band, slide.radius_um) for band in bands):
        own = [band for band in bands if _up_to(band, slide.radius_um) == up_to]
        differences = np.array([band.differences.mean(axis=0) for band in own])
        shuffles = shuffled_changes(fitted, origin, differences, up_to)
        for number, (band, estimate) in enumerate(zip(own, _estimates(fitted, own, up_to), strict=True)):
            shift, shift_error, stratified, support = observed.compare(band)
            is_decidable = fitted.num_blocks >= MIN_BLOCKS and support >= MIN_SUPPORT
            p, largest = shuffled_p(
                shuffles.values[:, number], shuffles.errors[:, number], fitted.num_blocks - 1, decidable=is_decidable
            )
            draws.append(p)
            if not is_decidable:
                estimate |= {"p": 1.0, "other_p": 1.0}
            facts = {
                "gene_id": np.array(slide.gene_ids, dtype=object)[genes],
                "gene": np.array(slide.symbols, dtype=object)[genes],
                "label": cells.names[fitted.code],
                "other_label": cells.names[fitted.design.compared] if band.other is not None else "",
                "band_low_um": band.low_um,
                "band_high_um": band.high_um,
                "shuffled": largest / np.log(2),
                "mean_shift": shift,
                "mean_shift_error": shift_error,
                "stratified_count": stratified,
                "association_share": _share(estimate["log2_change"], shift),
                "num_residents": band.num_residents,
                "unexposed_um": band.unexposed_um,
                "support": support,
                "log2_edited_ratio": ratio,
                "model_log2_change": np.nan,
            }
            tables.append(pd.DataFrame(facts | estimate))
    return _LabelResponse(tables, draws)


def _up_to(band: Band, radius_um: float) -> float:
    """Distance in radii up to which the regression of a band has steps."""
    return max(band.unexposed_um, band.high_um) / radius_um


def _estimates(fitted: LabelRegression, bands: list[Band], up_to: float) -> list[dict[str, Any]]:
    """Columns of each band: the change, its interval and p value, and the change by the other label."""
    weights = []
    for band in bands:
        own = band.differences.mean(axis=0)
        weights += [own] if band.other is None else [own, band.other, own - band.other]
    values, errors = (found / np.log(2) for found in fitted.changes(np.array(weights), up_to))
    degrees, position, found = fitted.num_blocks - 1, 0, []
    for band in bands:
        value, error = values[position], errors[position]
        # Replicates have other places; the variance of their mean is added.
        spread = fitted.values(band.differences, up_to) / np.log(2)
        if len(spread) > 1:
            error = np.where(error > 0, np.sqrt(error**2 + spread.var(axis=0, ddof=1) / len(spread)), error)
        # Without a cell that shows the combination, the change and its error are zero: nothing is known of it.
        is_known = (error > 0) & (degrees > 0)
        margin = np.where(is_known, student.ppf(0.975, max(degrees, 1)) * error, np.inf)
        columns: dict[str, Any] = {
            "log2_change": value,
            "low": value - margin,
            "high": value + margin,
            "p": _p(value, error, degrees),
            "other_change": np.nan,
            "difference_p": np.nan,
            "other_p": np.nan,
        }
        if band.other is not None:
            columns |= {
                "other_change": values[position + 1],
                "difference_p": _p(values[position + 2], errors[position + 2], degrees),
                "other_p": _p(values[position + 1], errors[position + 1], degrees),
            }
        position += 1 if band.other is None else 3
        found.append(columns)
    return found


def _p(value: Numbers, error: Numbers, degrees: int) -> Numbers:
    """(G,) two-sided p values; 1 where there are no degrees of freedom."""
    if not degrees:
        return np.ones(len(error))
    return np.asarray(2 * student.sf(np.abs(value) / np.maximum(error, 1e-12), degrees))


@dataclass(frozen=True)
class _Observed:
    """All cells of a label with counts, for comparisons without the regression."""

    counts: Any  # (N', G) CSR
    depth: Numbers  # (N',)
    nearest: list[Numbers]  # (N',) distance to each edited label
    others: Numbers  # (N', F) predictors of the other labels

    @classmethod
    def of(cls, slide: Slide, cells: LabelledCells, fitted: LabelRegression) -> _Observed:
        """Read the cells of the label of a regression."""
        rows = cells.of(fitted.code)
        rows = rows[slide.total_counts[rows] > 0]
        xy_um, design = slide.xy_um[rows], fitted.design
        nearest = [cells.distances(xy_um, rows, label) for label in design.stepped]
        others = design.predictors(cells, rows, xy_um)[:, design.num_steps :]
        return cls(slide.counts(rows)[:, fitted.genes], slide.total_counts[rows], nearest, others)

    def compare(self, band: Band) -> tuple[Numbers, Numbers, Numbers, int]:
        """Mean shift and its standard error, stratified count, and the number of cells that show the combination."""
        shift, variance, stratified = np.zeros((3, self.counts.shape[1]))
        support = len(self.depth)
        for sign, distance in zip(band.signs, self.nearest, strict=True):
            if not sign:
                continue
            near = (distance >= band.low_um) & (distance < band.high_um)
            compared = near | (distance >= band.unexposed_um)
            support = min(support, int(near.sum()))
            found = associate(self.counts[compared], self.depth[compared], near[compared], self.others[compared])
            if found is not None:
                shift, stratified = shift + sign * found.mean_shift, stratified + sign * found.stratified
                variance = variance + (sign * found.error) ** 2
        return shift, np.sqrt(variance), stratified, support


def _share(value: Numbers, shift: Numbers) -> Numbers:
    """Share of the mean shift that other surroundings explain, 0 to 1; NaN where there is no clear shift."""
    is_clear = np.abs(shift) >= CLEAR_SHIFT
    share = 1 - value / np.where(is_clear, shift, 1.0)
    return np.where(is_clear, np.clip(share, 0, 1), np.nan)
