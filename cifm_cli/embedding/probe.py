"""Linear probing: what can a linear classifier read from the embeddings, beside what it reads from plain expression?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli import keys, provenance
from cifm_cli.embedding.classifier import MAX_FEATURES, NUM_COMPONENTS, ProbeCells, cross_validate
from cifm_cli.embedding.features import BOTH, EXPRESSION, NEIGHBOURHOOD, gather
from cifm_cli.embedding.folds import block_groups, grouped_folds, sample_groups
from cifm_cli.embedding.labels import Labels, encode_labels, rare_classes, read_labels
from cifm_cli.embedding.scoring import (
    BALANCED_ACCURACY,
    NUM_RESAMPLES,
    ROC_AUC,
    area_by_class,
    compare,
    resample_groups,
    score,
    summarise,
)
from cifm_cli.errors import CifmError
from cifm_cli.report.terminal import progress, warn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.writers.embedded import EmbeddedSlide
    from cifm_cli.embedding.classifier import CrossValidation
    from cifm_cli.embedding.features import Features
    from cifm_cli.embedding.folds import Groups, Rows

MAJORITY = "majority"
METRICS = (ROC_AUC, BALANCED_ACCURACY)
_BASELINES = (EXPRESSION, NEIGHBOURHOOD, BOTH)
_FEWEST_CELLS = 20  # a rarer class is left out


@dataclass(frozen=True)
class Task:
    """What is to be told apart, and on which cells.

    Args:
        slides: Embedded slides.
        rows: Probed cells of each slide, ascending.
        labels: Of the probed cells, one slide after the other.
        groups: Of the probed cells.
        left_out: Why other cells are not probed: `missing` and `sampled` cells, `rare` classes.
    """

    slides: Sequence[EmbeddedSlide]
    rows: list[Rows]
    labels: Labels
    groups: Groups
    left_out: dict[str, Any]

    @property
    def cells(self) -> ProbeCells:
        """The probed cells as the classifier sees them."""
        xy_um = np.concatenate([slide.xy_um[rows] for slide, rows in zip(self.slides, self.rows, strict=True)])
        return ProbeCells(self.labels.codes, self.groups, xy_um, len(self.labels.classes))


@dataclass(frozen=True)
class Probe:
    """What a probe found.

    Args:
        content: `probe.json` but for its provenance.
        labels: Of the probed cells.
        probabilities: (n, K) of the held-out cells, by features.
    """

    content: dict[str, Any]
    labels: Labels
    probabilities: dict[str, NDArray[np.float64]]


def probe_slides(slides: Sequence[EmbeddedSlide], column: str, *, num_folds: int, max_cells: int, seed: int) -> Probe:
    """Probe embedded slides for a label.

    Args:
        slides: Embedded slides.
        column: The label.
        num_folds: Of the cross-validation.
        max_cells: Larger data are sampled down to this many cells.
        seed: Of the sample, the folds and the intervals.

    Returns:
        Metrics of every description of the cells, with intervals.

    Raises:
        CifmError: The label can't be probed, or the slides don't fit together.
    """
    task = choose_cells(slides, column, max_cells, seed)
    described = gather(task.slides, task.rows)
    cells = task.cells
    splits = list(grouped_folds(cells.codes, cells.groups, cells.xy_um, num_folds, seed))
    fold_of_group = np.zeros(task.groups.num, dtype=np.int64)
    for fold, (_, test) in enumerate(splits):
        fold_of_group[task.groups.ids[test]] = fold
    fits = {}
    with progress("probing", len(described) * len(splits)) as advance:
        for features in described:
            fits[features.name] = cross_validate(features.values, cells, splits, seed, advance)
    return _judge(task, described, fits, fold_of_group, seed)


def choose_cells(slides: Sequence[EmbeddedSlide], column: str, max_cells: int, seed: int) -> Task:
    """Take the cells that carry the label, a random part of them where they are many, without rare classes.

    Args:
        slides: Embedded slides.
        column: The label.
        max_cells: At most so many.
        seed: Of the sample.

    Returns:
        The task.

    Raises:
        CifmError: The label can't be probed.
    """
    texts = read_labels(slides, column)
    labelled = np.flatnonzero(texts != None)  # noqa: E711 - elementwise
    chosen = labelled
    if len(labelled) > max_cells:
        drawn = provenance.numpy_generator(seed, "probe cells").choice(len(labelled), max_cells, replace=False)
        chosen = labelled[np.sort(drawn)]
    groups = _group(slides, chosen)
    rare = rare_classes(texts[chosen], groups.ids, _FEWEST_CELLS)
    common = ~np.isin(texts[chosen].astype(str), list(rare))
    if len(set(texts[chosen].tolist()) - set(rare)) < 2:
        raise CifmError(
            f"label {column}: fewer than two classes with {_FEWEST_CELLS} cells in two {groups.unit}s",
            "probe more slides at once, or another label",
        )
    if rare:
        warn(f"label {column}: left out for too few cells or a single {groups.unit}: {', '.join(sorted(rare))}")
    left_out = {"missing": len(texts) - len(labelled), "sampled": len(labelled) - len(chosen), "rare": rare}
    labels = encode_labels(column, texts[chosen][common])
    return Task(slides, _rows_by_slide(slides, chosen[common]), labels, groups.subset(common), left_out)


def _group(slides: Sequence[EmbeddedSlide], chosen: Rows) -> Groups:
    """Blocks of a single slide; samples of several."""
    if len(slides) > 1:
        samples = np.concatenate([np.full(slide.num_cells, slide.facts[keys.SAMPLE], dtype=object) for slide in slides])
        if len(set(samples)) > 1:
            return sample_groups(samples[chosen])
        raise CifmError(f"all slides are of one sample, {samples[0]}", "probe them one by one")
    (slide,) = slides
    radius_um = float(slide.origin["radius_um"])
    buffer_um = int(slide.origin["recipe"]["model"]["encoder_layers"]) * radius_um
    return block_groups(slide.xy_um[chosen], radius_um, buffer_um)


def _rows_by_slide(slides: Sequence[EmbeddedSlide], chosen: Rows) -> list[Rows]:
    """Positions among the cells of all slides as rows of each slide."""
    starts = np.cumsum([0, *(slide.num_cells for slide in slides)])
    bounds = np.searchsorted(chosen, starts)
    return [chosen[a:b] - start for a, b, start in zip(bounds, bounds[1:], starts, strict=False)]


def _judge(
    task: Task, described: Sequence[Features], fits: dict[str, CrossValidation], fold_of_group: Rows, seed: int
) -> Probe:
    """Metrics, intervals and comparisons, as `probe.json` holds them."""
    codes, groups = task.labels.codes, task.groups
    counts = np.bincount(codes)
    probabilities = {name: fit.probabilities for name, fit in fits.items()}
    probabilities[MAJORITY] = np.tile(counts / counts.sum(), (len(codes), 1))
    weights = resample_groups(groups.num, seed)
    scores = {name: score(p, codes, groups.ids, fold_of_group, weights) for name, p in probabilities.items()}
    table = {name: {metric: summarise(scores[name][metric]) for metric in METRICS} for name in scores}
    details = {features.name: _describe(features, fits[features.name], task, fold_of_group) for features in described}
    details[MAJORITY] = {"what": "the share of every class, whatever the cell"}
    ours = [name for name in fits if name not in _BASELINES]
    content = {
        "label": task.labels.column,
        "slides": [slide.name for slide in task.slides],
        "cells": len(codes),
        "classes": dict(zip(task.labels.classes, counts.tolist(), strict=True)),
        "left_out": task.left_out,
        "groups": {
            "unit": groups.unit,
            "number": groups.num,
            "block_um": groups.block_um,
            "buffer_um": groups.buffer_um,
        },
        "folds": int(fold_of_group.max()) + 1,
        "resamples": NUM_RESAMPLES,
        "features": {name: details[name] | table[name] for name in table},
        "paired": {name: {m: compare(scores, name, list(_BASELINES), m) for m in METRICS} for name in ours},
    }
    return Probe(content, task.labels, probabilities)


def _describe(features: Features, fit: CrossValidation, task: Task, fold_of_group: Rows) -> dict[str, Any]:
    dimensions = features.values.shape[1]
    areas = area_by_class(fit.probabilities, task.labels.codes, task.groups.ids, fold_of_group)
    return {
        "what": features.what,
        "dimensions": dimensions,
        "reduced_to": NUM_COMPONENTS if dimensions > MAX_FEATURES else None,
        "inverse_regularisation": fit.strengths,
        "not_converged": fit.not_converged,
        "roc_auc_by_class": dict(zip(task.labels.classes, areas, strict=True)),
    }
