"""The cells that a run trains and validates on: samples that are stored with the model, and cells that occur twice.

`cifm evaluate` recognises these cells in other files.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cifm_cli import keys
from cifm_cli.data.cell_sketch import COUNTS, PLACES, match_cells, sketch_region
from cifm_cli.model.checkpoint import MODEL_FILE, load_checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cifm_cli.data.cell_sketch import CellSketch, SeenCells
    from cifm_cli.model.checkpoint import Checkpoint
    from cifm_cli.training.corpus import Corpus, TrainingSlide

logger = logging.getLogger(__name__)


class SharedCells(NamedTuple):
    """Cells that two regions have in common."""

    first: CellSketch  # the region with the smaller number in the list
    second: CellSketch  # the other region
    seen: SeenCells  # the cells of `second` that are in `first`


def collect_sketches(
    corpus: Corpus, folder: Path, init: Checkpoint | None = None, *, resume: bool = False
) -> tuple[CellSketch, ...]:
    """Sketch the cells of a run, and log which of them occur twice.

    Args:
        corpus: The slides of the run.
        folder: Folder of the run.
        init: Model from whose weights the run starts.
        resume: Whether the run is continued; its model has the sketches then, also of runs before it.

    Returns:
        Sketches of the run, then those of the runs that its weights come from.
    """
    if resume and (folder / MODEL_FILE).exists() and (stored := load_checkpoint(folder).sketches):
        return stored
    own = sketch_corpus(corpus)
    for note in duplicate_notes(own):
        logger.warning(note)
    if init is None:
        return own
    earlier = (each.with_vocabulary(len(corpus.vocabulary)) for each in init.sketches)
    return *own, *(replace(each, run=each.run or init.folder.name) for each in earlier)


def sketch_corpus(corpus: Corpus) -> tuple[CellSketch, ...]:
    """Sketch every region that is trained on, then every region that is validated on."""
    uses = [(keys.TRAIN, corpus.slides), (keys.VALIDATION, corpus.validation_slides)]
    return tuple(
        sketch_region(training_slide.slide, training_slide.tilers[use].rows, corpus.vocabulary, use)
        for use, slides in uses
        for training_slide in slides
    )


def with_states(sketches: Sequence[CellSketch], corpus: Corpus) -> tuple[CellSketch, ...]:
    """Add the cell states of the slides that are trained on to their sketches.

    Args:
        sketches: From `collect_sketches`.
        corpus: The slides of the run, with their parameters; for an objective without states nothing is added.

    Returns:
        The sketches.
    """
    own = [_with_states(sketch, each) for sketch, each in zip(sketches, corpus.slides, strict=False)]
    return *own, *sketches[len(own) :]


def _with_states(sketch: CellSketch, training_slide: TrainingSlide) -> CellSketch:
    """The sketch of a slide with its states, whose genes are in the order of the vocabulary."""
    if training_slide.parameters is None:
        return sketch
    order = np.argsort(training_slide.panel.vocabulary_rows)
    return replace(sketch, states=training_slide.parameters.state_profiles.cpu().numpy()[:, order])


def find_shared(sketches: Sequence[CellSketch]) -> list[SharedCells]:
    """Find regions that have cells in common.

    Args:
        sketches: Regions.

    Returns:
        Every pair of regions that share more cells than chance explains.
    """
    pairs = _pairs_with_equal(sketches, COUNTS) | _pairs_with_equal(sketches, PLACES)
    candidates = [
        SharedCells(sketches[first], sketches[second], match_cells(sketches[second], sketches[first]))
        for first, second in sorted(pairs)
    ]
    return [shared for shared in candidates if shared.seen.is_significant]


def duplicate_notes(sketches: Sequence[CellSketch]) -> list[str]:
    """Warnings about cells that occur in two regions of a run."""
    notes = []
    for first, second, seen in find_shared(sketches):
        if first.use == second.use == keys.VALIDATION:
            continue  # cells that are validated twice only count twice
        slides = f"slides {first.slide} and {second.slide}" if first.slide != second.slide else f"slide {first.slide}"
        consequence = (
            "they count twice"
            if first.use == second.use
            else "the validation loss does not show how well the model predicts new cells"
        )
        notes.append(
            f"{slides}: {seen.fraction:.1%} of the {second.use} cells of {second.slide} are also {first.use} cells of "
            f"{first.slide} ({seen.describe()}); {consequence}"
        )
    return notes


def _pairs_with_equal(sketches: Sequence[CellSketch], part: str) -> set[tuple[int, int]]:
    """Numbers of the sketches that have a checksum in common."""
    parts = [getattr(sketch, part) for sketch in sketches]
    checksums = np.concatenate([np.zeros(0, np.uint64), *parts])
    owners = np.repeat(np.arange(len(parts)), list(map(len, parts)))
    # One sort instead of a comparison of every pair: a corpus may have hundreds of slides.
    order = np.argsort(checksums, kind="stable")
    ordered, owners = checksums[order], owners[order]
    pairs: set[tuple[int, int]] = set()
    for distance in range(1, len(parts)):  # equal checksums are next to each other, at most one of each sketch
        same = np.flatnonzero(ordered[distance:] == ordered[:-distance])
        if not len(same):
            break
        pairs |= set(zip(owners[same].tolist(), owners[same + distance].tolist(), strict=True))
    return pairs
