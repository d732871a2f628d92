"""Plan of an evaluation: the folds that are scored, and the folds that hyper-parameters are tuned on.

No cell is both tuned on and scored. Folds are limited so that their values fit into memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cifm_cli import keys
from cifm_cli.errors import CifmError
from cifm_cli.evaluation.folds import (
    REGION,
    SCATTERED,
    WHOLE,
    Fold,
    FoldPlan,
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
MAX_ADAPTATION_CELLS = 2_000  # tuning cells of adaptation
MAX_ADAPTATION_VALUES = 4_000_000  # such cells times genes
MAX_VALUES = 16_000_000  # cells times genes scored at once unless the user sets --rounds: 64 MB for each array
MAX_VISIBLE_COUNTS = 10_000_000  # counts of the visible cells of a fold in a region too large to score: 200 MB
MAX_PIECE_CELLS = 16_000  # cells scored in the piece that is cut out of such a region
PIECE_FACTOR = 4  # the piece has this many times as many cells, so that several folds of it are scored


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


@dataclass(frozen=True)
class FoldPlanner:
    """Chooses the folds of a slide."""

    dataset: EvaluationDataset
    scored: str  # region that is scored
    tuned: str  # region that is tuned on
    max_folds: int | None = None  # most folds to score; None: as many as fit into memory

    def plan(self, geometry: str) -> FoldPlan:
        """Choose the folds to tune on and the folds to score.

        Raises:
            CifmError: There are too few cells, or no visible cell would have counts.
        """
        overlapping = self.scored in (keys.ALL, self.tuned)
        if overlapping:
            tuning, folds = self._overlapping_folds(geometry)
            candidates = self._folds_of_region(geometry, self.tuned, self.dataset.slide.region(self.scored))
        else:
            candidates = tuning = self._tuning_folds(geometry)
            folds = self._folds_of_region(geometry, self.scored, whole=self.max_folds is not None)
        adaptation = self._limit(
            candidates, max(1, min(MAX_ADAPTATION_CELLS, MAX_ADAPTATION_VALUES // self.dataset.num_genes))
        )
        tuning = self._limit(tuning)[:NUM_TUNING_FOLDS]
        self._require_visible_cells(geometry, tuning, self.tuned)
        self._require_visible_cells(geometry, folds, self.scored)
        limited = self._limit(folds) if self.max_folds is None else folds[: self.max_folds]
        notes = [(True, note) for note in self._block_notes(geometry, limited)]
        num_cells = len(self.dataset.slide.region(self.scored)) - (_num_hidden(tuning) if overlapping else 0)
        if self.max_folds is None and (num_scored := _num_hidden(limited)) < num_cells:
            where = ", in one piece of the tissue" if _num_hidden(folds) < num_cells else ""
            name = self.dataset.slide.name
            note = f"{name}, {geometry}: scoring {num_scored:,} of {num_cells:,} cells{where}; more with --rounds"
            notes.append((False, note))
        return FoldPlan(tuning, limited, tuple(notes), adaptation, overlapping)

    def _tuning_folds(self, geometry: str) -> list[Fold]:
        """Folds to tune on in which no scored cell is visible."""
        slide = self.dataset.slide
        if geometry != WHOLE:
            return self._folds_of_region(geometry, self.tuned)
        if self.tuned == keys.VALIDATION and self.scored != keys.TRAIN:
            return self._folds_of_region(geometry, self.tuned, slide.region(keys.TRAIN))
        # All other cells are scored: hide wide blocks of the tuning region itself, or narrower ones if these don't fit.
        wide = self._folds_of_region(training_geometry(geometry), self.tuned)
        folds = wide or self._folds_of_region(REGION, self.tuned)
        return [replace(fold, withheld=slide.region(self.scored)) for fold in folds]

    def _overlapping_folds(self, geometry: str) -> tuple[list[Fold], list[Fold]]:
        """Folds where the scored region contains the tuning region: cells tuned on are visible, never scored."""
        if geometry == WHOLE:
            raise CifmError(
                f"--region {self.scored} leaves no visible cells in the geometry whole, or none to tune on",
                f"choose another region, or --geometry {SCATTERED}",
            )
        everything = self.dataset.slide.region(self.scored)
        tuning = self._limit(self._folds_of_region(geometry, self.tuned, everything))[:NUM_TUNING_FOLDS]
        used = hidden_rows(tuning) if tuning else everything[:0]
        rest = np.setdiff1d(everything, used, assume_unique=True)
        return tuning, self._folds_of_rows(geometry, rest, used, whole=self.max_folds is not None)

    def _folds_of_region(
        self, geometry: str, region: str, visible: Rows | None = None, *, whole: bool = False
    ) -> list[Fold]:
        """Folds of a region; in `whole` the cells of all other regions are visible unless `visible` is given."""
        slide = self.dataset.slide
        if geometry == WHOLE and visible is None:
            excluded = (keys.REGIONS.index(region), keys.REGIONS.index(keys.BUFFER))
            visible = np.flatnonzero(~np.isin(slide.split, excluded))
        return self._folds_of_rows(geometry, slide.region(region), visible, whole=whole)

    def _folds_of_rows(self, geometry: str, rows: Rows, visible: Rows | None, *, whole: bool) -> list[Fold]:
        """Folds of some cells, or of a compact piece of them where the visible cells of a fold would be too many.

        `visible` rows are visible in every fold; `whole` means that no piece is cut.
        """
        dataset, slide, num_scored = self.dataset, self.dataset.slide, min(MAX_PIECE_CELLS, self._max_cells)
        num_cells = PIECE_FACTOR * num_scored
        everything = rows if visible is None else np.union1d(rows, visible)
        fits = len(rows) <= num_cells or not exceeds_counts(slide, everything, MAX_VISIBLE_COUNTS)
        if whole or geometry == WHOLE or fits:
            return make_folds(geometry, slide.xy_um, rows, dataset.radius_um, dataset.seed, visible)
        # Consecutive rows are a compact piece of tissue, because rows follow a Hilbert curve.
        first = int(numpy_generator(dataset.seed, "piece").integers(len(rows) - num_cells + 1))
        core = rows[first : first + num_cells]
        folds = make_folds_around(slide, geometry, core, rows, dataset.margin_um(geometry), dataset.seed, visible)
        return self._limit(folds, num_scored)

    @property
    def _max_cells(self) -> int:
        return max(1, MAX_VALUES // self.dataset.num_genes)

    def _limit(self, folds: list[Fold], max_cells: int | None = None) -> list[Fold]:
        """The first folds, up to a number of hidden cells; of a first fold that is too large, some of its cells."""
        max_cells = max_cells or self._max_cells
        if folds and len(folds[0].hidden) > max_cells:
            generator = numpy_generator(self.dataset.seed, "piece")
            start = int(generator.integers(len(folds[0].hidden) - max_cells + 1))
            return [replace(folds[0], hidden=folds[0].hidden[start : start + max_cells])]  # the rest stays invisible
        number = np.cumsum([len(fold.hidden) for fold in folds])
        return folds[: int(np.searchsorted(number, max_cells, side="right"))]

    def _require_visible_cells(self, geometry: str, folds: Sequence[Fold], region: str) -> None:
        """Refuse a plan without folds, or with a fold in which no visible cell has counts."""
        where = f"slide {self.dataset.slide.name}, {region} region"
        if not folds:
            narrower = f"narrower blocks: --block-radii; or --geometry {SCATTERED}"
            larger = "evaluate a larger slide, or all of its cells: --region all"
            raise CifmError(
                f"{where}: too few cells to hide some in the {geometry} geometry",
                narrower if geometry.startswith(REGION) else larger,
            )
        if not all(map(self.dataset.has_visible_counts, folds)):
            raise CifmError(
                f"{where}: hiding cells in the {geometry} geometry leaves none visible that has counts",
                "evaluate another region, or prepare a larger piece of the tissue",
            )

    def _block_notes(self, geometry: str, folds: Sequence[Fold]) -> list[str]:
        """Warn where there are too few spatial blocks for any interval to decide."""
        xy_um = self.dataset.slide.xy_um[np.concatenate([fold.hidden for fold in folds])]
        num_blocks = len(np.unique(cut_blocks(xy_um, self.dataset.radius_um)[1]))
        if num_blocks >= MIN_BLOCKS:
            return []
        note = (
            f"slide {self.dataset.slide.name}, {geometry}: {num_blocks} spatial blocks of scored cells, fewer than the "
            f"{MIN_BLOCKS} that a bootstrap needs; every difference is undecided, and intervals include zero"
        )
        return [note]


def _num_hidden(folds: Sequence[Fold]) -> int:
    return sum(len(fold.hidden) for fold in folds)
