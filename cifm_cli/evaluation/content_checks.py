"""Checks that the scores of a slide mean what they seem to: warnings about its counts, cells, places and genes.

A model that was trained on the scored cells, under another name or in another region, predicts them too well; a slide whose
genes, places or counts are not what they are taken for is predicted badly for no fault of the model. Thresholds were chosen
such that no real section gives a warning, whichever tissue the model was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import rankdata

from cifm_cli import keys
from cifm_cli.data.cell_sketch import (
    MIN_COUNTS_FRACTION,
    MIN_SAME_COUNTS,
)
from cifm_cli.evaluation.content import has_same_place, is_repeated, neighbour_similarity, read_content
from cifm_cli.model.recognition import find_seen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.cell_sketch import CellSketch
    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.evaluation.content import SlideContent
    from cifm_cli.evaluation.transfer import Transfer
    from cifm_cli.model.checkpoint import Checkpoint

MIN_CELLS = 300  # with fewer, the similarity of neighbours is too uncertain
# Standard scores: 12 and more on real sections of 300 spots, 8 on pieces of 500 sparse cells, at most 3 on shuffled places.
MIN_SIMILARITY = 4.0
MIN_GENES = 100  # shared genes, from which the order of mean expression is compared
# Standard scores of Spearman's correlation of genes: 3.5 between bone marrow and breast on other platforms, 0 for other genes.
MIN_GENE_SCORE = 2.0
MIN_VALUES = 1_000  # counts above 0, none of which is 1
MAX_SAME_DEPTH = 0.8  # fraction of cells whose depth is within 5 % of the median; at most 0.12 in real sections


@dataclass(frozen=True)
class ContentChecks:
    """What the checks of a slide found."""

    facts: dict[str, Any]  # for `metrics.json`
    warnings: list[str]  # for the user


def check_slide(slide: Slide, scored: Rows, seed: int) -> tuple[ContentChecks, SlideContent]:
    """Check a slide by itself.

    Args:
        slide: The slide.
        scored: Ascending rows that are scored.
        seed: Seed of random neighbourhoods.

    Returns:
        The findings, and the content of the slide.
    """
    content = read_content(slide)
    repeated = is_repeated(content.checksums)
    same_place, limit_um = has_same_place(slide.xy_um, scored)
    num_compared, similarity = neighbour_similarity(slide, seed)
    is_compared = content.checksums[scored] > 0
    facts = {
        "fractional_cells": content.num_fractional,
        "cells_above_total": content.num_above_total,
        "scored_cells_recognisable": int(is_compared.sum()),
        "scored_cells_repeated": int(repeated[scored].sum()),
        "scored_cells_at_one_place": int(same_place.sum()),
        "neighbour_similarity": {"num_cells": num_compared, "score": similarity},
    }
    notes = [
        *_count_notes(slide, content),
        *_repeat_notes(slide, content, repeated, scored),
        *_place_notes(slide, facts, len(scored), limit_um),
    ]
    return ContentChecks(facts, [f"slide {slide.name}: {note}" for note in notes]), content


def check_against_training(
    slide: Slide, scored: Rows, content: SlideContent, checkpoint: Checkpoint, relation: Transfer
) -> ContentChecks:
    """Compare a slide with the cells that a model was trained and validated on.

    Args:
        slide: The slide.
        scored: Ascending rows that are scored.
        content: The content of the slide.
        checkpoint: The model.
        relation: What is known from the files about slide and model, and need not be said again.

    Returns:
        The findings; `trained_cells` is None for a model without sketches, which earlier versions wrote.
    """
    sketches = checkpoint.sketches
    if not sketches:
        return ContentChecks({"trained_cells": None, "seen": [], "gene_order": None}, [])
    rows = np.setdiff1d(scored, relation.trained_rows, assume_unique=True)
    notes: list[str] = []
    seen: list[dict[str, Any]] = []
    for sketch, found in find_seen(slide, rows, sketches, checkpoint.vocabulary):
        run = f" of run {sketch.run}, from which it started," if sketch.run else ""
        seen.append(
            {
                "slide": sketch.slide,
                "use": sketch.use,
                "run": sketch.run or None,
                "fraction": found.fraction,
                "by": "counts" if found.same_counts else "places",
            }
        )
        if sketch.use == keys.VALIDATION and sketch.slide in relation.same_file:
            continue  # this very file: that it was validated on is no surprise
        notes.append(
            f"{found.fraction:.1%} of the scored cells were {sketch.use} cells of the model, in its slide {sketch.slide}{run} "
            f"({found.describe()}); their scores do not show how well it predicts new cells"
        )
    trained = max([each["fraction"] for each in seen if each["use"] == keys.TRAIN], default=0.0)
    order = _gene_order(slide, content, sketches, checkpoint.vocabulary)
    if order and order["score"] < MIN_GENE_SCORE:
        notes.append(
            f"the genes that are expressed here are not those that are expressed in the training slides (Spearman's "
            f"correlation {order['spearman']:.2f} over {order['num_genes']} genes): their names may have been exchanged"
        )
    facts = {
        "trained_cells": len(relation.trained_rows) + round(trained * len(rows)),
        "seen": seen,
        "gene_order": order,
    }
    return ContentChecks(facts, [f"slide {slide.name}: {note}" for note in notes])


def _count_notes(slide: Slide, content: SlideContent) -> list[str]:
    """Warnings about values that are not raw counts."""
    notes = []
    if content.num_fractional:
        notes.append(
            f"{content.num_fractional:,} cells have values that are not whole numbers: they look normalised or logarithmic, "
            "and the model normalises them again"
        )
    elif content.num_values >= MIN_VALUES and not content.num_ones:
        notes.append(
            f"none of {content.num_values:,} counts is 1: they look scaled or rounded, and not like raw counts"
        )
    if content.num_above_total:
        notes.append(
            f"the values of {content.num_above_total:,} cells sum to more than their total_counts: one of them was changed"
        )
    present = content.depths[content.depths > 0]
    if len(present) >= MIN_CELLS:
        same = float((np.abs(present / np.median(present) - 1) < 0.05).mean())
        if same > MAX_SAME_DEPTH and not content.num_fractional:
            notes.append(f"{same:.0%} of the cells have the same sum of counts: they look normalised")
    return notes


def _repeat_notes(slide: Slide, content: SlideContent, repeated: NDArray[np.bool_], scored: Rows) -> list[str]:
    """A warning about scored cells that have the counts of another cell, with the regions of the others."""
    rows = scored[repeated[scored]]
    num_compared = int((content.checksums[scored] > 0).sum())
    if len(rows) < max(MIN_SAME_COUNTS, MIN_COUNTS_FRACTION * num_compared):
        return []
    partners = np.flatnonzero(repeated & np.isin(content.checksums, content.checksums[rows]))
    sizes = np.bincount(slide.split[partners], minlength=len(keys.REGIONS))
    regions = ", ".join(f"{size:,} in {name}" for name, size in zip(keys.REGIONS, sizes, strict=True) if size)
    note = (
        f"{len(rows):,} of the {len(scored):,} scored cells have exactly the counts of another cell of the slide (cells with "
        f"such counts: {regions}); predictors may have learned or see what they are scored on"
    )
    return [note]


def _place_notes(slide: Slide, facts: Mapping[str, Any], num_scored: int, limit_um: float) -> list[str]:
    """Warnings about cells at one place, and about places that say nothing about expression."""
    notes, num_same = [], facts["scored_cells_at_one_place"]
    if num_same >= max(MIN_SAME_COUNTS, MIN_COUNTS_FRACTION * num_scored):
        notes.append(
            f"{num_same:,} of the {num_scored:,} scored cells lie within {limit_um:.2g} um of another cell: the same cell "
            "twice, or two sections on each other"
        )
    similarity = facts["neighbour_similarity"]
    if similarity["num_cells"] >= MIN_CELLS and similarity["score"] < MIN_SIMILARITY:
        notes.append(
            "the expression of cells is not similar to that of their neighbours (standard score "
            f"{similarity['score']:.1f}, in tissue 8 or more): the places may belong to other cells"
        )
    return notes


def _gene_order(
    slide: Slide, content: SlideContent, sketches: Sequence[CellSketch], vocabulary: Sequence[str]
) -> dict[str, Any] | None:
    """Spearman's correlation of how often genes are expressed, with the most similar training slide; None for few genes."""
    position = {gene: row for row, gene in enumerate(vocabulary)}
    columns = np.array([column for column, gene in enumerate(slide.gene_ids) if gene in position], dtype=np.int64)
    vocabulary_rows = np.array([position[slide.gene_ids[column]] for column in columns], dtype=np.int64)
    best: dict[str, Any] | None = None
    for sketch in sketches:
        expressed = sketch.expressed[vocabulary_rows].astype(np.float64)
        shared = ~np.isnan(expressed)
        num_genes = int(shared.sum())
        if num_genes < MIN_GENES:
            continue
        ranks = rankdata(expressed[shared]), rankdata(content.expressed[columns[shared]])
        if min(map(np.ptp, ranks)) == 0:
            continue
        correlation = float(np.corrcoef(*ranks)[0, 1])
        score = correlation * np.sqrt(num_genes - 1)
        if best is None or score > best["score"]:
            best = {"slide": sketch.slide, "num_genes": num_genes, "spearman": correlation, "score": float(score)}
    return best
