"""Linear probes: how well a linear classifier predicts a label from the embeddings, compared with plain expression."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli import keys, provenance
from cifm_cli.embedding.classifier import MAX_FEATURES, NUM_COMPONENTS, ProbeCells, cross_validate
from cifm_cli.embedding.features import BASELINES, collect_features
from cifm_cli.embedding.folds import block_groups, grouped_folds, sample_groups
from cifm_cli.embedding.labels import Labels, encode_labels, rare_classes, read_labels
from cifm_cli.embedding.repeated_cells import repeat_notes
from cifm_cli.embedding.scoring import (
    BALANCED_ACCURACY,
    ROC_AUC,
    compare_with_best,
    resample_groups,
    roc_auc_by_class,
    score,
    with_interval,
)
from cifm_cli.errors import CifmError
from cifm_cli.report.terminal import progress
from cifm_cli.statistics.bootstrap import NUM_DRAWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.writers.embedded import EmbeddedSlide
    from cifm_cli.embedding.classifier import CrossValidation
    from cifm_cli.embedding.features import Features
    from cifm_cli.embedding.folds import Groups, Rows

logger = logging.getLogger(__name__)

MAJORITY = "majority"
METRICS = (ROC_AUC, BALANCED_ACCURACY)
_MIN_CELLS = 20  # a class with fewer cells is left out


@dataclass(frozen=True)
class ProbeTask:
    """The cells of a probe and their labels."""

    slides: Sequence[EmbeddedSlide]  # embedded slides
    rows: list[Rows]  # probed cells of each slide, ascending
    labels: Labels  # labels of the probed cells, one slide after the other
    groups: Groups  # groups of the probed cells
    # cells that are not probed: number of `missing` and `sampled` cells, and cells of each `rare` class
    left_out: dict[str, Any]

    @property
    def cells(self) -> ProbeCells:
        """Classes, groups and positions of the probed cells."""
        xy_um = np.concatenate([slide.xy_um[rows] for slide, rows in zip(self.slides, self.rows, strict=True)])
        return ProbeCells(self.labels.codes, self.groups, xy_um, len(self.labels.classes))


@dataclass(frozen=True)
class ProbeResult:
    """The result of a probe."""

    content: dict[str, Any]  # the content of `probe.json`, without provenance
    labels: Labels  # labels of the probed cells
    probabilities: dict[str, NDArray[np.float64]]  # for each set of features, (n, K) predicted for held-out cells


def probe_slides(
    slides: Sequence[EmbeddedSlide], column: str, *, num_folds: int, max_cells: int, seed: int
) -> ProbeResult:
    """Probe embedded slides for a label.

    Args:
        slides: Embedded slides.
        column: The label: an obs column, or condition, tissue or sample of the slides.
        num_folds: Number of folds of the cross-validation.
        max_cells: Larger data are sampled down to this number of cells.
        seed: Seed of the sample, the folds and the intervals.

    Returns:
        Metrics of every set of features, with intervals.

    Raises:
        CifmError: The label cannot be probed, or the slides cannot be combined.
    """
    task = choose_cells(slides, column, max_cells, seed)
    features = collect_features(task.slides, task.rows)
    cells = task.cells
    splits = list(grouped_folds(cells.codes, cells.groups, cells.xy_um, num_folds, seed))
    _require_training_cells(splits, cells)
    # Scores compare only cells of one fold, and a fold holds out whole groups.
    fold_of_group = np.zeros(task.groups.num, dtype=np.int64)
    for fold, (_, test) in enumerate(splits):
        fold_of_group[task.groups.ids[test]] = fold
    warnings = repeat_notes(task.slides, task.rows, splits)
    for warning in warnings:
        logger.warning(warning)
    with progress("probing", len(features) * len(splits)) as advance:
        fits = {each.name: cross_validate(each.values, cells, splits, seed, advance) for each in features}
    result = _summarise(task, features, fits, fold_of_group, seed)
    return replace(result, content={**result.content, "warnings": warnings})


def choose_cells(slides: Sequence[EmbeddedSlide], column: str, max_cells: int, seed: int) -> ProbeTask:
    """Choose the cells to probe: those with a label, sampled if there are many, without rare classes.

    Args:
        slides: Embedded slides.
        column: The label.
        max_cells: Largest number of cells.
        seed: Seed of the sample.

    Returns:
        The cells and their labels.

    Raises:
        CifmError: The label cannot be probed.
    """
    labels = read_labels(slides, column)
    labelled = np.flatnonzero(labels != None)  # noqa: E711 - elementwise
    sampled = labelled
    if len(labelled) > max_cells:
        drawn = provenance.numpy_generator(seed, "probe cells").choice(len(labelled), max_cells, replace=False)
        sampled = labelled[np.sort(drawn)]
    groups = _group_cells(slides, sampled)
    rare = rare_classes(labels[sampled], groups.ids, _MIN_CELLS)
    is_common = ~np.isin(labels[sampled].astype(str), list(rare))
    if len(set(labels[sampled].tolist()) - set(rare)) < 2:
        raise CifmError(
            f"label {column}: fewer than two classes with {_MIN_CELLS} cells in two {groups.unit}s",
            "probe more slides at once, or another label",
        )
    if rare:
        names = ", ".join(sorted(rare))
        logger.warning("label %s: left out for too few cells or a single %s: %s", column, groups.unit, names)
    left_out = {"missing": len(labels) - len(labelled), "sampled": len(labelled) - len(sampled), "rare": rare}
    return ProbeTask(
        slides,
        _rows_by_slide(slides, sampled[is_common]),
        encode_labels(column, labels[sampled][is_common]),
        groups.subset(is_common),
        left_out,
    )


def _group_cells(slides: Sequence[EmbeddedSlide], cells: Rows) -> Groups:
    """Groups of cells that are held out together: blocks of a single slide, samples of several."""
    if len(slides) > 1:
        samples = np.concatenate([np.full(slide.num_cells, slide.facts[keys.SAMPLE], dtype=object) for slide in slides])
        if len(set(samples)) > 1:
            return sample_groups(samples[cells])
        raise CifmError(f"all slides are of one sample, {samples[0]}", "probe them one by one")
    (slide,) = slides
    radius_um = float(slide.origin["radius_um"])
    # An embedding depends on the cells within this distance, so nearer training cells would leak held-out expression.
    return block_groups(slide.xy_um[cells], radius_um, slide.reach_um)


def _rows_by_slide(slides: Sequence[EmbeddedSlide], cells: Rows) -> list[Rows]:
    """Convert ascending positions among the cells of all slides to rows of each slide."""
    starts = np.cumsum([0, *(slide.num_cells for slide in slides)])
    bounds = np.searchsorted(cells, starts)
    return [cells[a:b] - start for a, b, start in zip(bounds, bounds[1:], starts, strict=False)]


def _require_training_cells(splits: list[tuple[Rows, Rows]], cells: ProbeCells) -> None:
    """Raise an error if a fold leaves no cells of two classes to train with, as on a section of few radii."""
    if any(len(np.unique(cells.codes[train])) < 2 for train, _ in splits):
        raise CifmError(
            "too few cells to probe: without the held-out cells and those within "
            f"{cells.groups.buffer_um:g} um of them, no cells of two classes are left to train with",
            "probe a larger section, or several slides at once",
        )


def _summarise(
    task: ProbeTask, features: Sequence[Features], fits: dict[str, CrossValidation], fold_of_group: Rows, seed: int
) -> ProbeResult:
    """Compute metrics, intervals and comparisons, as `probe.json` holds them."""
    codes, groups = task.labels.codes, task.groups
    class_sizes = np.bincount(codes)
    probabilities = {name: fit.probabilities for name, fit in fits.items()}
    # The frequencies are those of all cells: a fold would give nearly the same, and the ROC-AUC is 0.5 in any case.
    probabilities[MAJORITY] = np.tile(class_sizes / class_sizes.sum(), (len(codes), 1))
    weights = resample_groups(groups.num, seed)
    scores = {name: score(p, codes, groups.ids, fold_of_group, weights) for name, p in probabilities.items()}
    metrics = {name: {metric: with_interval(scores[name][metric]) for metric in METRICS} for name in scores}
    facts = {each.name: _describe(each, fits[each.name], task, fold_of_group) for each in features}
    facts[MAJORITY] = {"what": "the frequency of every class, the same for all cells"}
    embeddings = [name for name in fits if name not in BASELINES]
    content = {
        "label": task.labels.column,
        "slides": [slide.name for slide in task.slides],
        "cells": len(codes),
        "classes": dict(zip(task.labels.classes, class_sizes.tolist(), strict=True)),
        "left_out": task.left_out,
        "groups": {
            "unit": groups.unit,
            "number": groups.num,
            "block_um": groups.block_um,
            "buffer_um": groups.buffer_um,
        },
        "folds": int(fold_of_group.max()) + 1,
        "resamples": NUM_DRAWS,
        "features": {name: facts[name] | metrics[name] for name in metrics},
        "paired": {
            name: {metric: compare_with_best(scores, name, list(BASELINES), metric) for metric in METRICS}
            for name in embeddings
        },
    }
    return ProbeResult(content, task.labels, probabilities)


def _describe(features: Features, fit: CrossValidation, task: ProbeTask, fold_of_group: Rows) -> dict[str, Any]:
    """Facts about one set of features and its classifiers, as `probe.json` holds them."""
    dimensions = features.values.shape[1]
    areas = roc_auc_by_class(fit.probabilities, task.labels.codes, task.groups.ids, fold_of_group)
    return {
        "what": features.description,
        "dimensions": dimensions,
        "reduced_to": NUM_COMPONENTS if dimensions > MAX_FEATURES else None,
        "inverse_regularisation": fit.strengths,
        "not_converged": fit.not_converged,
        "roc_auc_by_class": dict(zip(task.labels.classes, areas, strict=True)),
    }
