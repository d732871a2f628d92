"""The content of `probe.json`: metrics with intervals, comparisons, calibration, and scores of each slide.

Letters: n held-out cells, K classes, S slides, R groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli.embedding.calibration import reliability
from cifm_cli.embedding.classifier import MAX_FEATURES, NUM_COMPONENTS
from cifm_cli.embedding.evidence import FEW_SAMPLES, describe_evidence
from cifm_cli.embedding.features import BASELINES
from cifm_cli.embedding.scoring import (
    BALANCED_ACCURACY,
    BRIER,
    ROC_AUC,
    HeldOut,
    compare_with_best,
    resample_groups,
    roc_auc_by_class,
)
from cifm_cli.embedding.sides import names_of, sample_of
from cifm_cli.embedding.slide_scores import class_of_slides, mean_of_slides, permutation_p_value, slide_roc_auc
from cifm_cli.statistics.bootstrap import NUM_DRAWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.writers.embedded import EmbeddedSlide
    from cifm_cli.embedding.classifier import CrossValidation
    from cifm_cli.embedding.features import Features
    from cifm_cli.embedding.folds import Groups, Rows
    from cifm_cli.embedding.labels import Labels
    from cifm_cli.embedding.probe_cells import ProbeTask

    Floats = NDArray[np.float64]

MAJORITY = "majority"
METRICS = (ROC_AUC, BALANCED_ACCURACY, BRIER)


@dataclass(frozen=True)
class ProbeResult:
    """The result of a probe."""

    content: dict[str, Any]  # the content of `probe.json`, without provenance
    labels: Labels  # labels of the n held-out cells
    probabilities: dict[str, NDArray[np.float64]]  # for each set of features, (n, K) predicted for held-out cells
    slides: tuple[EmbeddedSlide, ...]  # S slides of the held-out cells
    rows: tuple[Rows, ...]  # rows of the held-out cells of each of these slides


@dataclass(frozen=True)
class _Tested:
    """The held-out cells of a probe."""

    task: ProbeTask
    held_out: HeldOut  # the n cells
    slides: list[EmbeddedSlide]  # S slides that have held-out cells
    slide_of: Rows  # (n,) slide of each held-out cell, 0 to S - 1
    class_of_slide: Rows | None  # (S,) classes where every slide has one; None otherwise
    group_of_slide: Rows  # (S,) group of each slide; of its first cell, where the groups are blocks


def summarise(
    task: ProbeTask,
    features: Sequence[Features],
    fits: dict[str, CrossValidation],
    splits: Sequence[tuple[Rows, Rows]],
    seed: int,
    warnings: Sequence[str],
) -> ProbeResult:
    """Compute metrics, intervals and comparisons, as `probe.json` holds them.

    Args:
        task: The probed cells.
        features: The sets of features.
        fits: Held-out predictions from each of them.
        splits: Training cells and held-out cells of each fold.
        seed: Seed of the intervals.
        warnings: Warnings about the scores.

    Returns:
        The result.
    """
    tested = _describe_tested(task, splits, seed)
    held_out, is_tested = tested.held_out, task.is_tested
    probabilities = {name: fit.probabilities[is_tested] for name, fit in fits.items()}
    # In a cross-validation of all cells: a fold would give nearly the same, and the ROC-AUC is 0.5 in any case.
    known = task.labels.codes if task.sides is None else task.labels.codes[~is_tested]
    frequency = np.bincount(known, minlength=len(task.labels.classes)) / len(known)
    probabilities[MAJORITY] = np.tile(frequency, (len(held_out.codes), 1))
    scores = {name: held_out.score(values) for name, values in probabilities.items()}
    facts = {each.name: _describe(each, fits[each.name], probabilities[each.name], tested) for each in features}
    facts[MAJORITY] = {"what": "the frequency of every class in training, the same for all cells"}
    for name, values in probabilities.items():
        facts[name] |= {metric: held_out.summarise(scores[name][metric]) for metric in METRICS}
        facts[name]["calibration"] = reliability(values, held_out.codes)
        facts[name] |= _score_slides(values, tested, seed)
    content = _describe_task(task, len(splits)) | {
        "features": facts,
        "paired": {
            name: {metric: compare_with_best(scores, name, list(BASELINES), metric, held_out) for metric in METRICS}
            for name in fits
            if name not in BASELINES
        },
        "by_slide": [_describe_slide(tested, number, probabilities) for number in range(len(tested.slides))],
        "warnings": list(warnings),
    }
    content["evidence"] = describe_evidence(content)
    rows = [rows for slide, rows in zip(task.slides, task.rows, strict=True) if any(slide is s for s in tested.slides)]
    return ProbeResult(content, task.labels.subset(is_tested), probabilities, tuple(tested.slides), tuple(rows))


def _describe_tested(task: ProbeTask, splits: Sequence[tuple[Rows, Rows]], seed: int) -> _Tested:
    """The held-out cells, and the draws of their groups."""
    is_tested = task.is_tested
    codes, groups = task.labels.codes[is_tested], task.tested_groups or task.groups
    # Scores compare only cells of one fold, and a fold holds out whole groups.
    fold_of_group = np.zeros(groups.num, dtype=np.int64)
    if task.tested_groups is None:
        for fold, (_, test) in enumerate(splits):
            fold_of_group[groups.ids[test]] = fold
    numbers, slide_of = np.unique(task.slide_of_cell[is_tested], return_inverse=True)
    slides = [task.slides[number] for number in numbers]
    classes = class_of_slides(codes, slide_of)
    first = np.unique(slide_of, return_index=True)[1]
    strata = class_of_slides(codes, groups.ids) if classes is not None and task.sides is not None else None
    held_out = HeldOut(
        codes,
        groups.ids,
        fold_of_group,
        resample_groups(groups.num, seed, strata),
        has_interval=_has_interval(groups, slides, classes),
    )
    return _Tested(task, held_out, slides, slide_of, classes, groups.ids[first])


def _has_interval(groups: Groups, slides: Sequence[EmbeddedSlide], classes: Rows | None) -> bool:
    """Whether draws of the groups vary: with one sample of a class, they say nothing about other samples of it."""
    if classes is None:
        return groups.num > 1
    samples = np.array([sample_of(slide) for slide in slides])
    return all(len(set(samples[classes == k])) > 1 for k in np.unique(classes))


def _describe_task(task: ProbeTask, num_folds: int) -> dict[str, Any]:
    """What was probed and how, as `probe.json` holds it."""
    codes, groups = task.labels.codes, task.tested_groups or task.groups
    sizes = np.bincount(codes, minlength=len(task.labels.classes)).tolist()
    content: dict[str, Any] = {
        "label": task.labels.column,
        "positive": task.labels.positive,
        "slides": [slide.name for slide in task.slides],
        "cells": len(codes),
        "classes": dict(zip(task.labels.classes, sizes, strict=True)),
        "left_out": task.left_out,
        "groups": {
            "unit": groups.unit,
            "number": groups.num,
            "block_um": groups.block_um,
            "buffer_um": groups.buffer_um if task.sides is None else 0.0,
        },
        "folds": num_folds,
        "resamples": NUM_DRAWS,
        "design": "cross_validation" if task.sides is None else "train_and_test",
    }
    if task.sides is None:
        return content | {"sides": {"all": _describe_side(task, np.ones(len(codes), dtype=bool))}}
    is_tested = task.is_tested
    sides = {"train": _describe_side(task, ~is_tested), "test": _describe_side(task, is_tested)}
    return content | {"sides": sides, "unused": [slide.name for slide in task.sides.unused]}


def _describe_side(task: ProbeTask, mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Slides, samples and cells of some of the probed cells, and where each class occurs."""
    codes, slide_of = task.labels.codes[mask], task.slide_of_cell[mask]

    def describe(numbers: NDArray[np.int64]) -> dict[str, list[str]]:
        """Names of slides, samples and platforms."""
        names = [names_of(task.slides[number]) | {"sample": sample_of(task.slides[number])} for number in numbers]
        return {f"{key}s": sorted({each[key] for each in names} - {""}) for key in ("slide", "sample", "platform")}

    return {
        "cells": len(codes),
        **describe(np.unique(slide_of)),
        "classes": {
            name: {"cells": int((codes == k).sum()), **describe(np.unique(slide_of[codes == k]))}
            for k, name in enumerate(task.labels.classes)
        },
        "slide_level": class_of_slides(codes, np.unique(slide_of, return_inverse=True)[1]) is not None,
    }


def _describe(features: Features, fit: CrossValidation, probabilities: Floats, tested: _Tested) -> dict[str, Any]:
    """Facts about one set of features and its classifiers, as `probe.json` holds them."""
    dimensions, held_out = features.values.shape[1], tested.held_out
    areas = roc_auc_by_class(probabilities, held_out.codes, held_out.groups, held_out.fold_of_group)
    reduced = NUM_COMPONENTS if dimensions > MAX_FEATURES else None
    if features.num_components is not None:
        reduced = min(features.num_components, dimensions)
    return {
        "what": features.description,
        "dimensions": dimensions,
        "reduced_to": reduced,
        "inverse_regularisation": fit.strengths,
        "not_converged": fit.not_converged,
        "roc_auc_by_class": dict(zip(tested.task.labels.classes, areas, strict=True)),
    }


def _score_slides(probabilities: Floats, tested: _Tested, seed: int) -> dict[str, Any]:
    """ROC-AUC of whole slides and its p-value, where every slide has one class; empty otherwise."""
    classes = tested.class_of_slide
    if classes is None:
        return {}
    means = mean_of_slides(probabilities, tested.slide_of)
    area = slide_roc_auc(means, classes, tested.group_of_slide, tested.held_out)
    # In a cross-validation, the classifiers have seen the classes of the other slides.
    p = None if tested.task.sides is None else permutation_p_value(means, classes, seed)
    summary = tested.held_out.summarise(area)
    samples = [set(np.array([sample_of(s) for s in tested.slides])[classes == k]) for k in np.unique(classes)]
    # Few slides are often ranked without an error, and every draw of them is.
    if min(map(len, samples)) < FEW_SAMPLES or summary["low"] == summary["high"]:
        summary |= {"low": None, "high": None}
    return {"slides": {ROC_AUC: summary, "p": p}}


def _describe_slide(tested: _Tested, number: int, probabilities: dict[str, Floats]) -> dict[str, Any]:
    """Scores within one slide, and the mean probability of each class."""
    of_slide, slide = tested.slide_of == number, tested.slides[number]
    codes, names = tested.held_out.codes[of_slide], tested.task.labels.classes
    fold_of_group, groups = tested.held_out.fold_of_group, tested.held_out.groups[of_slide]
    features = {}
    for name, values in probabilities.items():
        areas = roc_auc_by_class(values[of_slide], codes, groups, fold_of_group)
        defined = [area for area in areas if area is not None]
        right = values[of_slide].argmax(axis=1) == codes
        features[name] = {
            ROC_AUC: float(np.mean(defined)) if defined else None,
            BALANCED_ACCURACY: float(np.mean([right[codes == k].mean() for k in np.unique(codes)])),
            "mean_probability": dict(zip(names, values[of_slide].mean(axis=0).tolist(), strict=True)),
        }
    sizes = np.bincount(codes, minlength=len(names)).tolist()
    return {
        "slide": slide.name,
        "sample": sample_of(slide),
        "cells": int(of_slide.sum()),
        "classes": dict(zip(names, sizes, strict=True)),
        "features": features,
    }
