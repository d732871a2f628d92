"""The cells of a probe: which are probed, their labels, and the groups in which they are held out.

Letters: N cells of all slides, n probed cells.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli import provenance
from cifm_cli.embedding.classifier import ProbeCells
from cifm_cli.embedding.folds import (
    BLOCK,
    Groups,
    block_groups,
    grouped_folds,
    join_groups,
    least_length_um,
    sample_groups,
    section_length_um,
    strip_groups,
)
from cifm_cli.embedding.labels import LabelChoice, Labels, encode_labels, rare_classes, read_labels
from cifm_cli.embedding.sides import sample_of
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.writers.embedded import EmbeddedSlide
    from cifm_cli.embedding.folds import Rows
    from cifm_cli.embedding.sides import Sides

    Mask = NDArray[np.bool_]

logger = logging.getLogger(__name__)

_MIN_CELLS = 20  # a class with fewer cells is left out
_MIN_TRAINED = 10  # of two classes in every fold of blocks; where blocks leave fewer, strips are held out
_APART_RADII = 1e3  # between the slides of one frame of coordinates: cells of two slides are no neighbours


@dataclass(frozen=True)
class ProbeTask:
    """The cells of a probe and their labels."""

    slides: Sequence[EmbeddedSlide]  # embedded slides
    rows: list[Rows]  # probed cells of each slide, ascending
    labels: Labels  # labels of the probed cells, one slide after the other
    groups: Groups  # groups of the probed cells
    # cells that are not probed: number of `missing` and `sampled` cells, and cells of each `rare` class
    left_out: dict[str, Any]
    sides: Sides | None = None  # sides of a probe across slides; None for a cross-validation
    tested_groups: Groups | None = None  # across slides: groups of the test cells, over which intervals are computed

    @property
    def cells(self) -> ProbeCells:
        """Classes, groups and positions of the probed cells."""
        xy_um = np.concatenate([slide.xy_um[rows] for slide, rows in zip(self.slides, self.rows, strict=True)])
        if self.sides is not None:
            # Blocks of several slides are in one frame, in which the slides must not overlap.
            shift_um = _APART_RADII * float(self.slides[0].origin["radius_um"]) + 2 * float(np.abs(xy_um).max())
            xy_um = xy_um + self.slide_of_cell[:, None] * shift_um
        return ProbeCells(self.labels.codes, self.groups, xy_um, len(self.labels.classes))

    @property
    def slide_of_cell(self) -> Rows:
        """(n,) position in `slides` of each probed cell."""
        return np.repeat(np.arange(len(self.slides)), [len(rows) for rows in self.rows])

    @property
    def is_tested(self) -> Mask:
        """(n,) whether a cell is held out at some time: all in a cross-validation, those of the test side otherwise."""
        if self.sides is None:
            return np.ones(len(self.labels.codes), dtype=bool)
        # By identity, as slides hold arrays.
        tested = [any(slide is other for other in self.sides.test) for slide in self.slides]
        return np.array(tested)[self.slide_of_cell]

    def split(self, num_folds: int, seed: int) -> list[tuple[Rows, Rows]]:
        """Training cells and held-out cells of each fold.

        Args:
            num_folds: Largest number of folds of a cross-validation.
            seed: Seed of the folds.

        Returns:
            Positions among the n cells; a single pair for a probe across slides.

        Raises:
            CifmError: A fold leaves no cells of two classes to train with, as on a section of few radii.
        """
        if self.sides is not None:
            return [(np.flatnonzero(~self.is_tested), np.flatnonzero(self.is_tested))]
        splits = self._folds(num_folds, seed)
        if any(len(np.unique(self.labels.codes[train])) < 2 for train, _ in splits):
            raise _too_small(self.cells, num_folds)
        return splits

    def leaves_training_cells(self, num_folds: int, seed: int) -> bool:
        """Whether every fold of a cross-validation leaves some cells of two classes to train with."""
        return all(
            np.count_nonzero(np.bincount(self.labels.codes[train]) >= _MIN_TRAINED) > 1
            for train, _ in self._folds(num_folds, seed)
        )

    def _folds(self, num_folds: int, seed: int) -> list[tuple[Rows, Rows]]:
        """Training cells and held-out cells of each fold of a cross-validation."""
        cells = self.cells
        return list(grouped_folds(cells.codes, cells.groups, cells.xy_um, num_folds, seed))


def _too_small(cells: ProbeCells, num_folds: int) -> CifmError:
    """The error about a section of which a fold leaves nothing to train with."""
    buffer_um = cells.groups.buffer_um
    message = (
        f"too few cells to probe: without the held-out cells and those within {buffer_um:g} um of them, no cells of two "
        "classes are left to train with"
    )
    if not buffer_um:  # samples, which have no buffer
        return CifmError(message, "probe more samples, or another label")
    length_um, needed_um = section_length_um(cells.xy_um), least_length_um(num_folds, buffer_um)
    message += f"; the section is {length_um:,.0f} um long, and {num_folds} folds need more than {needed_um:,.0f} um"
    if 2 * buffer_um < length_um <= needed_um:
        return CifmError(
            message, f"ask for --folds 2, which need more than {2 * buffer_um:,.0f} um, or probe several slides"
        )
    return CifmError(message, "probe a longer section, or several slides at once")


def choose_cells(
    slides: Sequence[EmbeddedSlide],
    label: LabelChoice | str,
    max_cells: int,
    seed: int,
    sides: Sides | None = None,
    num_folds: int = 5,
) -> ProbeTask:
    """Choose the cells to probe: those with a label, sampled if there are many, without rare classes.

    Args:
        slides: Embedded slides.
        label: The label, or its column.
        max_cells: Largest number of cells; across slides, of each side.
        seed: Seed of the sample.
        sides: Slides to train and to test on; None for a cross-validation over all slides.
        num_folds: Largest number of folds of a cross-validation. Strips of a slide are held out where its blocks leave too
            few cells to train with.

    Returns:
        The cells and their labels.

    Raises:
        CifmError: The label cannot be probed, or the section is too small.
    """
    choice = LabelChoice(label) if isinstance(label, str) else label
    if sides is not None:
        return _choose_sides_cells(sides, choice, max_cells, seed)
    labels = read_labels(slides, choice)
    labelled = np.flatnonzero(labels != None)  # noqa: E711 - elementwise
    sampled = labelled
    if len(labelled) > max_cells:
        drawn = provenance.numpy_generator(seed, "probe cells").choice(len(labelled), max_cells, replace=False)
        sampled = labelled[np.sort(drawn)]
    groups = _group_cells(slides, sampled)
    task = _take_common(slides, choice, labels, sampled, groups)
    if groups.unit == BLOCK and not (task and task.leaves_training_cells(num_folds, seed)):
        strips = strip_groups(slides[0].xy_um[sampled], num_folds, groups.buffer_um)
        in_strips = _take_common(slides, choice, labels, sampled, strips)
        if in_strips and in_strips.leaves_training_cells(num_folds, seed):
            logger.info(
                f"{slides[0].name} is small: {num_folds} strips of cells are held out in turn, instead of blocks"
            )
            task = in_strips
        elif in_strips and task is None:
            raise _too_small(in_strips.cells, num_folds)
    if task is None:
        raise CifmError(
            f"label {choice.column}: fewer than two classes with {_MIN_CELLS} cells in two {groups.unit}s",
            "probe more slides at once, or another label",
        )
    if rare := task.left_out["rare"]:
        names, unit = ", ".join(sorted(rare)), task.groups.unit
        logger.warning("label %s: left out for too few cells or a single %s: %s", choice.column, unit, names)
    return task


def _take_common(
    slides: Sequence[EmbeddedSlide], choice: LabelChoice, labels: NDArray[np.object_], sampled: Rows, groups: Groups
) -> ProbeTask | None:
    """The task of a cross-validation over some groups, without the classes that are rare in them; None without two classes."""
    rare = rare_classes(labels[sampled], groups.ids, _MIN_CELLS)
    is_common = ~np.isin(labels[sampled].astype(str), list(rare))
    if len(set(labels[sampled].tolist()) - set(rare)) < 2:
        return None
    num_labelled = int(np.count_nonzero(labels != None))  # noqa: E711 - elementwise
    left_out = {"missing": len(labels) - num_labelled, "sampled": num_labelled - len(sampled), "rare": rare}
    return ProbeTask(
        slides,
        _rows_by_slide(slides, sampled[is_common]),
        encode_labels(choice, labels[sampled][is_common]),
        groups.subset(is_common),
        left_out,
    )


def _choose_sides_cells(sides: Sides, choice: LabelChoice, max_cells: int, seed: int) -> ProbeTask:
    """The cells of a probe across slides: the same number of each slide, if a side has too many."""
    slides = [*sides.train, *sides.test]
    labels = read_labels(slides, choice)
    slide_of = np.repeat(np.arange(len(slides)), [slide.num_cells for slide in slides])
    labelled = np.flatnonzero(labels != None)  # noqa: E711 - elementwise
    in_test = slide_of[labelled] >= len(sides.train)
    generator = provenance.numpy_generator(seed, "probe sides")
    chosen = [
        _sample_evenly(labelled[side], slide_of[labelled[side]], max_cells, generator) for side in (~in_test, in_test)
    ]
    sampled = np.concatenate(chosen)
    is_test = np.repeat([False, True], [len(cells) for cells in chosen])
    rare = {
        name: int((labels[sampled] == name).sum())
        for name in sorted(set(labels[labelled].tolist()))
        if any((labels[sampled[side]] == name).sum() < _MIN_CELLS for side in (~is_test, is_test))
    }
    is_common = ~np.isin(labels[sampled].astype(str), list(rare))
    if len(set(labels[sampled][is_common].tolist())) < 2:
        numbers = [
            ", ".join(f"{name} {(labels[sampled[side]] == name).sum():,}" for name in sorted(set(labels[labelled])))
            for side in (~is_test, is_test)
        ]
        raise CifmError(
            f"label {choice.column}: fewer than two classes have {_MIN_CELLS} cells on both sides",
            f"choose slides of two classes for each side; cells for training: {numbers[0]}; for the test: {numbers[1]}",
        )
    if rare:
        names = ", ".join(rare)
        logger.warning("label %s: left out for fewer than %d cells on a side: %s", choice.column, _MIN_CELLS, names)
    kept, is_test = sampled[is_common], is_test[is_common]
    rows = _rows_by_slide(slides, kept)
    train_groups, test_groups = (
        _group_side(side, of_side)
        for side, of_side in ((sides.train, rows[: len(sides.train)]), (sides.test, rows[len(sides.train) :]))
    )
    left_out = {"missing": len(labels) - len(labelled), "sampled": len(labelled) - len(sampled), "rare": rare}
    groups = Groups(
        train_groups.unit,
        np.concatenate([train_groups.ids, train_groups.num + test_groups.ids]),
        train_groups.block_um,
        train_groups.buffer_um,
    )
    return ProbeTask(slides, rows, encode_labels(choice, labels[kept]), groups, left_out, sides, test_groups)


def _sample_evenly(cells: Rows, slide_of: Rows, max_cells: int, generator: np.random.Generator) -> Rows:
    """At most `max_cells` of some cells, ascending: all of small slides, and equally many of the larger ones."""
    if len(cells) <= max_cells:
        return cells
    largest, left = 0, max_cells
    sizes = np.sort(np.unique(slide_of, return_counts=True)[1])
    for position, size in enumerate(sizes):
        largest = left // (len(sizes) - position)
        if size > largest:
            break
        left -= int(size)
    kept = []
    for slide in np.unique(slide_of):
        of_slide = cells[slide_of == slide]
        if len(of_slide) > largest:
            of_slide = of_slide[np.sort(generator.choice(len(of_slide), largest, replace=False))]
        kept.append(of_slide)
    return np.concatenate(kept)


def _group_side(slides: Sequence[EmbeddedSlide], rows: Sequence[Rows]) -> Groups:
    """Groups of the cells of one side: samples, or blocks if all cells are of one sample."""
    samples = np.repeat(np.array([sample_of(slide) for slide in slides], dtype=object), [len(of) for of in rows])
    if len(set(samples)) > 1:
        return sample_groups(samples)
    return join_groups([_blocks(slide, slide.xy_um[of]) for slide, of in zip(slides, rows, strict=True) if len(of)])


def _group_cells(slides: Sequence[EmbeddedSlide], cells: Rows) -> Groups:
    """Groups of cells that are held out together: blocks of a single slide, samples of several."""
    if len(slides) > 1:
        samples = np.concatenate([np.full(slide.num_cells, sample_of(slide), dtype=object) for slide in slides])
        if len(set(samples)) > 1:
            return sample_groups(samples[cells])
        raise CifmError(f"all slides are of one sample, {samples[0]}", "probe them one by one")
    return _blocks(slides[0], slides[0].xy_um[cells])


def _blocks(slide: EmbeddedSlide, xy_um: NDArray[np.float64]) -> Groups:
    """Blocks of some cells of one slide."""
    radius_um = float(slide.origin["radius_um"])
    # An embedding depends on the cells within this distance, so nearer training cells would leak held-out expression.
    return block_groups(xy_um, radius_um, slide.reach_um)


def _rows_by_slide(slides: Sequence[EmbeddedSlide], cells: Rows) -> list[Rows]:
    """Convert ascending positions among the cells of all slides to rows of each slide."""
    starts = np.cumsum([0, *(slide.num_cells for slide in slides)])
    bounds = np.searchsorted(cells, starts)
    return [cells[a:b] - start for a, b, start in zip(bounds, bounds[1:], starts, strict=False)]
