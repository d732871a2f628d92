"""Plan of an evaluation: the folds that are scored, and the folds that hyper-parameters are tuned on.

No cell is both tuned on and scored. Folds are limited so that their values fit into memory.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cifm_cli import keys
from cifm_cli.errors import CifmError
from cifm_cli.evaluation.folds import (
    REGION,
    SCATTERED,
    WHOLE,
    Fold,
    exceeds_counts,
    hidden_rows,
    make_folds,
    make_folds_around,
    training_geometry,
)
from cifm_cli.provenance import numpy_generator
from cifm_cli.statistics.bootstrap import MIN_BLOCKS, cut_blocks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.evaluation.dataset import EvaluationDataset

NUM_TUNING_FOLDS = 2
MAX_VALUES = 16_000_000  # cells times genes scored at once unless the user sets --rounds: 64 MB for each array
MAX_VISIBLE_COUNTS = 10_000_000  # counts of the visible cells of a fold in a region too large to score: 200 MB
MAX_PIECE_CELLS = 16_000  # cells scored in the piece that is cut out of such a region
PIECE_FACTOR = 4  # the piece has this many times as many cells, so that several folds of it are scored


class FoldPlan(NamedTuple):
    """The folds of one slide and geometry."""

    tuning: list[Fold]  # folds on which hyper-parameters and thresholds are chosen
    scored: list[Fold]  # folds on which every predictor is scored
    notes: tuple[tuple[bool, str], ...]  # what the user should know, as (is a warning, text)


def tuning_region(slide: Slide, scored: str) -> tuple[str, str | None]:
    """Choose the region that predictors are tuned on, and a warning where it is not `validation`.

    `validation` is used unless it is scored or empty, else `train`. A scored region `all` excludes the cells tuned on.
    """
    if scored != keys.VALIDATION and len(slide.region(keys.VALIDATION)):
        return keys.VALIDATION, None
    reason = "is the scored region" if scored == keys.VALIDATION else "has no cells"
    return keys.TRAIN, (
        f"slide {slide.name}: its validation region {reason}; baselines and gates are tuned on the training region"
    )


def plan_folds(dataset: EvaluationDataset, geometry: str, scored: str, tuned: str, max_folds: int | None) -> FoldPlan:
    """Choose the folds to tune on and the folds to score.

    Args:
        dataset: The slide.
        geometry: Name of the geometry.
        scored: Region that is scored.
        tuned: Region that is tuned on.
        max_folds: Most folds to score; absent: as many as fit into memory.

    Returns:
        The plan.

    Raises:
        CifmError: There are too few cells, or no visible cell would have counts.
    """
    overlapping = scored in (keys.ALL, tuned)
    if overlapping:
        tuning, folds = _plan_overlapping(dataset, geometry, scored, tuned, max_folds)
    else:
        tuning = _tuning_folds(dataset, geometry, tuned, scored)
        folds = _folds_of_region(dataset, geometry, scored, whole=max_folds is not None)
    tuning = _limit(tuning, dataset)[:NUM_TUNING_FOLDS]
    _require_visible_cells(dataset, geometry, tuning, tuned)
    _require_visible_cells(dataset, geometry, folds, scored)
    limited = _limit(folds, dataset) if max_folds is None else folds[:max_folds]
    notes = [(True, note) for note in _block_notes(dataset, geometry, limited)]
    num_cells = len(dataset.slide.region(scored)) - (_num_hidden(tuning) if overlapping else 0)
    num_scored = _num_hidden(limited)
    if max_folds is None and num_scored < num_cells:
        where = ", in one piece of the tissue" if _num_hidden(folds) < num_cells else ""
        name = dataset.slide.name
        notes.append(
            (False, f"{name}, {geometry}: scoring {num_scored:,} of {num_cells:,} cells{where}; more with --rounds")
        )
    return FoldPlan(tuning, limited, tuple(notes))


def _require_visible_cells(dataset: EvaluationDataset, geometry: str, folds: Sequence[Fold], region: str) -> None:
    """Refuse a plan without folds, or with a fold in which no visible cell has counts."""
    where = f"slide {dataset.slide.name}, {region} region"
    if not folds:
        narrower = f"narrower blocks: --block-radii; or --geometry {SCATTERED}"
        raise CifmError(
            f"{where}: too few cells to hide some in the {geometry} geometry",
            narrower if geometry.startswith(REGION) else "evaluate a larger slide, or all of its cells: --region all",
        )
    if not all(map(dataset.has_visible_counts, folds)):
        raise CifmError(
            f"{where}: hiding cells in the {geometry} geometry leaves none visible that has counts",
            "evaluate another region, or prepare a larger piece of the tissue",
        )


def _block_notes(dataset: EvaluationDataset, geometry: str, folds: Sequence[Fold]) -> list[str]:
    """Warn where there are too few spatial blocks for any interval to decide."""
    xy_um = dataset.slide.xy_um[np.concatenate([fold.hidden for fold in folds])]
    num_blocks = len(np.unique(cut_blocks(xy_um, dataset.radius_um)[1]))
    if num_blocks >= MIN_BLOCKS:
        return []
    note = (
        f"slide {dataset.slide.name}, {geometry}: {num_blocks} spatial blocks of scored cells, fewer than the {MIN_BLOCKS} "
        "that a bootstrap needs; every difference is undecided, and intervals include zero"
    )
    return [note]


def _folds_of_region(
    dataset: EvaluationDataset, geometry: str, region: str, visible: Rows | None = None, *, whole: bool = False
) -> list[Fold]:
    """Folds of a region; in `whole` the cells of all other regions are visible unless `visible` is given."""
    slide = dataset.slide
    if geometry == WHOLE and visible is None:
        excluded = (keys.REGIONS.index(region), keys.REGIONS.index(keys.BUFFER))
        visible = np.flatnonzero(~np.isin(slide.split, excluded))
    return _folds_of_rows(dataset, geometry, slide.region(region), visible, whole=whole)


def _folds_of_rows(
    dataset: EvaluationDataset, geometry: str, rows: Rows, visible: Rows | None, *, whole: bool = False
) -> list[Fold]:
    """Folds of some cells, or of a compact piece of them where the visible cells of a fold would be too many.

    `visible` rows are visible in every fold; `whole` means that no piece is cut.
    """
    slide, num_scored = dataset.slide, min(MAX_PIECE_CELLS, _max_cells(dataset))
    num_cells = PIECE_FACTOR * num_scored
    everything = rows if visible is None else np.union1d(rows, visible)
    fits = len(rows) <= num_cells or not exceeds_counts(slide, everything, MAX_VISIBLE_COUNTS)
    if whole or geometry == WHOLE or fits:
        return make_folds(geometry, slide.xy_um, rows, dataset.radius_um, dataset.seed, visible)
    first = int(numpy_generator(dataset.seed, "piece").integers(len(rows) - num_cells + 1))
    core = rows[first : first + num_cells]
    folds = make_folds_around(slide, geometry, core, rows, dataset.margin_um(geometry), dataset.seed, visible)
    return _limit(folds, dataset, num_scored)


def _tuning_folds(dataset: EvaluationDataset, geometry: str, region: str, scored: str) -> list[Fold]:
    """Folds to tune on in which no scored cell is visible."""
    slide = dataset.slide
    if geometry != WHOLE:
        return _folds_of_region(dataset, geometry, region)
    if region == keys.VALIDATION and scored != keys.TRAIN:
        return _folds_of_region(dataset, geometry, region, slide.region(keys.TRAIN))
    # All other cells are scored: hide wide blocks of the tuning region itself, or narrower ones where these don't fit.
    folds = _folds_of_region(dataset, training_geometry(geometry), region) or _folds_of_region(dataset, REGION, region)
    return [replace(fold, withheld=slide.region(scored)) for fold in folds]


def _plan_overlapping(
    dataset: EvaluationDataset, geometry: str, region: str, tuned: str, max_folds: int | None
) -> tuple[list[Fold], list[Fold]]:
    """Tuning and scored folds of a region that contains the tuning region: cells tuned on are visible, never scored."""
    if geometry == WHOLE:
        raise CifmError(
            f"--region {region} leaves no visible cells in the geometry whole, or none to tune on",
            f"choose another region, or --geometry {SCATTERED}",
        )
    everything = dataset.slide.region(region)
    tuning = _limit(_folds_of_region(dataset, geometry, tuned, everything), dataset)[:NUM_TUNING_FOLDS]
    used = hidden_rows(tuning) if tuning else everything[:0]
    rest = np.setdiff1d(everything, used, assume_unique=True)
    return tuning, _folds_of_rows(dataset, geometry, rest, used, whole=max_folds is not None)


def _num_hidden(folds: Sequence[Fold]) -> int:
    return sum(len(fold.hidden) for fold in folds)


def _max_cells(dataset: EvaluationDataset) -> int:
    return max(1, MAX_VALUES // dataset.num_genes)


def _limit(folds: list[Fold], dataset: EvaluationDataset, max_cells: int | None = None) -> list[Fold]:
    """The first folds, up to a number of hidden cells; of a first fold that is too large, some of its cells."""
    max_cells = max_cells or _max_cells(dataset)
    if folds and len(folds[0].hidden) > max_cells:
        start = int(numpy_generator(dataset.seed, "piece").integers(len(folds[0].hidden) - max_cells + 1))
        return [replace(folds[0], hidden=folds[0].hidden[start : start + max_cells])]  # the rest stays invisible
    return folds[: int(np.searchsorted(np.cumsum([len(fold.hidden) for fold in folds]), max_cells, side="right"))]
