"""Comparison of an annotation with labels: accuracy by lineage and type, calibration, and types that a tissue lacks.

Labels and types are compared in the taxonomy. A type is as deep as the label if it is the label's type or one below it. It
is compatible with the label if one of both is above the other: `T cell` is right, if unspecific, for a `CD8 T cell`.

Letters: N cells, L labels, T names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli.celltype.base import UNASSIGNED
from cifm_cli.celltype.label_names import type_of_label
from cifm_cli.celltype.markers import normalise_name
from cifm_cli.celltype.taxonomy import find_tissue, lineage_of, load_taxonomy
from cifm_cli.errors import CifmError
from cifm_cli.statistics.scores import calibration_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.celltype.base import Annotation

NUM_BINS: Final = 10  # of the confidence


@dataclass(frozen=True)
class TypeCheck:
    """The result of a comparison."""

    facts: dict[str, Any]  # scores, for JSON
    labels: tuple[str, ...]  # L labels that mean a type, most frequent first
    names: tuple[str, ...]  # T names that the annotation uses, most frequent first
    confusion: NDArray[np.int64]  # (L, T) number of cells


def check_types(labels: NDArray[Any], annotation: Annotation, tissue: str | None = None) -> TypeCheck:
    """Compare types with labels.

    Args:
        labels: (N,) labels; empty where there is none.
        annotation: Types of the N cells.
        tissue: Description of the tissue, to find types that it lacks.

    Returns:
        The comparison. Labels that mean no type of the taxonomy are listed, and their cells left out.

    Raises:
        CifmError: No label means a type.
    """
    called, known = annotation.labels.astype(str), _known_types(labels, annotation)
    meaning = np.array([known.get(label, "") for label in labels.astype(str)], dtype=object)
    is_known = meaning != ""
    if not is_known.any():
        some = ", ".join(sorted(set(map(str, labels)) - {""})[:5]) or "none"
        raise CifmError(f"no label names a cell type (labels: {some})", "name the column of cell types with --label")
    facts = {
        "cells": int(is_known.sum()),
        **_scores(meaning[is_known], called[is_known], annotation.scores[is_known]),
        "impossible": _impossible(called, tissue),
        "meaning_of_labels": dict(sorted(known.items())),
        "labels_without_type": sorted(set(map(str, labels[~is_known])) - {""}),
    }
    return TypeCheck(facts, *_confusion(labels[is_known].astype(str), called[is_known]))


def _scores(meaning: NDArray[Any], called: NDArray[Any], confidence: NDArray[np.float32]) -> dict[str, Any]:
    """Accuracy and calibration of the cells whose label means a type; `confidence` is the score of the type of a cell."""
    pairs = list(zip(meaning, called, strict=True))
    outcomes = {pair: _compare(*pair) for pair in set(pairs)}
    same_lineage, as_deep, compatible = np.array([outcomes[pair] for pair in pairs], dtype=bool).reshape(-1, 3).T
    lineages = np.array([lineage_of(name) for name in meaning], dtype=object)
    is_named = called != UNASSIGNED
    return {
        "lineage_accuracy": _mean(same_lineage),
        "balanced_lineage_accuracy": _balanced(same_lineage, lineages),
        "lineages": {
            str(name): {"cells": int((lineages == name).sum()), "recall": _mean(same_lineage[lineages == name])}
            for name in np.unique(lineages)
        },
        "type_accuracy": _mean(as_deep),
        "balanced_type_accuracy": _balanced(as_deep, meaning),
        "compatible": _mean(compatible[is_named]),
        "unassigned": _mean(~is_named),
        "calibration": _calibration(confidence[is_named].astype(np.float64), compatible[is_named]),
    }


def _known_types(labels: NDArray[Any], annotation: Annotation) -> dict[str, str]:
    """Label to the type that it means: one of the taxonomy, or else one of the annotator's own names."""
    own = {normalise_name(name): name for name in annotation.names[:-1]}
    known = {}
    for label in sorted(set(map(str, labels)) - {""}):
        name = type_of_label(label) or own.get(normalise_name(label))
        if name is not None:
            known[label] = name
    return known


def _compare(meaning: str, called: str) -> tuple[bool, bool, bool]:
    """Whether a type is of the lineage of a label, as deep as the label, and compatible with it."""
    taxonomy = load_taxonomy()
    if called == UNASSIGNED:
        return False, False, False
    # An annotator trained on the labels of an atlas uses its names, which may mean a type of the taxonomy.
    called = called if called in taxonomy.parents else type_of_label(called) or called
    # `immune cell` is no wrong lineage for a lymphocyte whose label says no more than `immune cell`.
    same_lineage = lineage_of(meaning) == lineage_of(called) or taxonomy.is_below(called, meaning)
    return same_lineage, taxonomy.is_below(called, meaning), taxonomy.are_related(called, meaning)


def _impossible(called: NDArray[Any], tissue: str | None) -> dict[str, Any] | None:
    """Cells with types that the tissue lacks; None for an unknown tissue."""
    known = find_tissue(tissue)
    if known is None:
        return None
    taxonomy = load_taxonomy()
    counts = {
        str(name): int((called == name).sum())
        for name in np.unique(called)
        if not taxonomy.is_possible(str(name), known)
    }
    return {"tissue": known, "fraction": sum(counts.values()) / max(len(called), 1), "types": counts}


def _calibration(scores: NDArray[np.float64], correct: NDArray[np.bool_]) -> dict[str, Any]:
    """Mean score and fraction of compatible types of the named cells, in bins of the score."""
    if not len(scores):
        return {"error": None, "mean_score": None, "bins": []}
    bins = np.minimum((scores * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    rows = [
        {
            "cells": int((bins == number).sum()),
            "mean_score": float(scores[bins == number].mean()),
            "compatible": float(correct[bins == number].mean()),
        }
        for number in np.unique(bins)
    ]
    return {"error": calibration_error(scores, correct), "mean_score": float(scores.mean()), "bins": rows}


def _confusion(
    labels: NDArray[Any], called: NDArray[Any]
) -> tuple[tuple[str, ...], tuple[str, ...], NDArray[np.int64]]:
    """Labels and names, the most frequent first, and the number of cells of each pair."""
    rows, row = _by_frequency(labels)
    columns, column = _by_frequency(called)
    confusion = np.zeros((len(rows), len(columns)), dtype=np.int64)
    np.add.at(confusion, (row, column), 1)
    return rows, columns, confusion


def _by_frequency(values: NDArray[Any]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Distinct values, the most frequent first, and the position of each value among them."""
    names, codes, sizes = np.unique(values.astype(str), return_inverse=True, return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    return tuple(map(str, names[order])), position[codes] if len(values) else codes.astype(np.int64)


def _mean(values: NDArray[Any]) -> float | None:
    return float(values.mean()) if len(values) else None


def _balanced(correct: NDArray[np.bool_], groups: NDArray[Any]) -> float | None:
    """Mean over groups of the fraction of correct cells."""
    return float(np.mean([correct[groups == name].mean() for name in np.unique(groups)])) if len(groups) else None
