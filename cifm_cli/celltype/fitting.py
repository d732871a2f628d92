"""Training the `reference` annotator: cells of a labelled data set, made as shallow as the slide they are meant for.

Three parts of the cells, of every type alike: most fit the classifier; some choose its strength and its temperature;
the rest is only reported on. The classifier that is kept is the one that was reported on. Every type weighs the same in
all three, because a tissue's composition is not the reference's.

Letters: M cells, G genes, T types.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_selection import f_classif
from sklearn.linear_model import LogisticRegression

from cifm_cli.celltype.base import TYPING_SUM
from cifm_cli.celltype.reference import ReferenceClassifier, standardise
from cifm_cli.data.slide import log_normalise
from cifm_cli.errors import CifmError
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.celltype.labelled_cells import Labelled

    Floats = NDArray[np.float32]
    Codes = NDArray[np.int64]

FEWEST_CELLS: Final = 20  # of a type; three of them are reported on
MOST_GENES: Final = 2_000
STRENGTHS: Final = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # inverse regularisation, scikit-learn's C
PARTS: Final = (0.7, 0.15, 0.15)  # of the cells: fit, tune, report
NUM_BINS: Final = 10  # of the calibration error
_MOST_ITERATIONS = 300


@dataclass(frozen=True)
class Target:
    """The slide that a classifier is meant for.

    Args:
        symbols: Of its panel.
        total_counts: Of its cells: the depths that training cells are thinned to.
    """

    symbols: tuple[str, ...]
    total_counts: NDArray[np.float64]


def train_classifier(
    labelled: Labelled, target: Target | None, *, max_cells: int, threshold: float, seed: int
) -> ReferenceClassifier:
    """Train, calibrate and judge a classifier.

    Args:
        labelled: The reference.
        target: Cuts it to the genes and the depth of a slide; as it is when absent.
        max_cells: About how many cells are used, as many of each type as possible.
        threshold: Probability below which a cell is `unassigned`.
        seed: Of the choice of cells, of thinning and of the three parts.

    Returns:
        The classifier, with its report and without provenance.

    Raises:
        CifmError: Fewer than two types have enough cells, or reference and slide share no gene.
    """
    types, rows, left_out = _choose_cells(labelled.labels, max_cells, seed)
    codes = np.array([types.index(name) for name in labelled.labels[rows]], dtype=np.int64)
    counts, genes = _cut(labelled.counts[rows], labelled.symbols, target, seed)
    part = _split(codes, seed)
    genes, counts = _informative(genes, counts, codes, part == 0)
    depth = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    values = log_normalise(counts, depth, TYPING_SUM).toarray()
    mean, scale = values[part == 0].mean(axis=0), values[part == 0].std(axis=0)
    scale = np.where(scale > 0, scale, 1.0).astype(np.float32)
    ready = standardise(values, mean, scale)
    fitted, tuned, judged = (part == number for number in range(len(PARTS)))
    model, strength = _choose_strength(ready, codes, fitted, tuned)
    weights, intercepts = _softmax_form(model)
    temperature = _temperature(ready[tuned] @ weights + intercepts, codes[tuned])
    logits = ready[judged] @ weights + intercepts
    report = {
        "cells": {name: int((part == number).sum()) for number, name in enumerate(("fit", "tune", "report"))},
        "types": {name: int((codes == code).sum()) for code, name in enumerate(types)},
        "left_out": left_out,
        "genes": len(genes),
        "strength": strength,
        "median_depth": float(np.median(depth)),
        "calibration_error_before": calibration_error(logits, codes[judged]),
        **judge_calls(logits / temperature, codes[judged], types, threshold),
    }
    return ReferenceClassifier(types, genes, weights, intercepts, mean, scale, temperature, threshold, report)


def _choose_cells(labels: NDArray[Any], max_cells: int, seed: int) -> tuple[tuple[str, ...], Codes, dict[str, int]]:
    """Types with enough cells, rows of as many cells of each as fit, and the sizes of the types left out."""
    names, sizes = np.unique(labels.astype(str), return_counts=True)
    enough = sizes >= FEWEST_CELLS
    if enough.sum() < 2:
        raise CifmError(
            f"{int(enough.sum())} of {len(names)} types have {FEWEST_CELLS} cells, two are needed",
            "choose a coarser column with --label, or a larger reference",
        )
    types = tuple(map(str, names[enough]))
    most = max(FEWEST_CELLS, max_cells // len(types))
    generator = numpy_generator(seed, "reference cells")
    chosen = [generator.permutation(np.flatnonzero(labels == name))[:most] for name in types]
    left_out = zip(names[~enough].tolist(), sizes[~enough].tolist(), strict=True)
    return types, np.sort(np.concatenate(chosen)), dict(left_out)


def _cut(
    counts: csr_matrix, symbols: tuple[str, ...], target: Target | None, seed: int
) -> tuple[csr_matrix, tuple[str, ...]]:
    """The reference's counts as the slide would have measured them, each gene once."""
    panel = None if target is None else {symbol.upper() for symbol in target.symbols}
    column = {symbol.upper(): place for place, symbol in reversed(list(enumerate(symbols)))}
    kept = np.array(sorted(place for name, place in column.items() if panel is None or name in panel), dtype=np.int64)
    if not len(kept):
        raise CifmError(
            f"the reference has none of the genes of the slide (such as {next(iter(sorted(panel or ())), '')})",
            "use gene symbols or Ensembl ids as var_names",
        )
    counts = counts[:, kept].astype(np.float32)
    if target is not None:
        depth = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1.0)
        rank = (depth.argsort(kind="stable").argsort(kind="stable") + 0.5) / len(depth)
        wanted = np.quantile(target.total_counts, rank)  # the deepest cells stay the deepest
        share = np.repeat(np.minimum(wanted / depth, 1.0), np.diff(counts.indptr))
        generator = numpy_generator(seed, "reference depth")
        counts.data = generator.binomial(np.rint(counts.data).astype(np.int64), share).astype(np.float32)
        counts.eliminate_zeros()
    return counts, tuple(symbols[place] for place in kept)


def _split(codes: Codes, seed: int) -> Codes:
    """(M,) part of each cell, every type cut in the same proportions."""
    part = np.zeros(len(codes), dtype=np.int64)
    generator = numpy_generator(seed, "reference parts")
    for code in np.unique(codes):
        rows = generator.permutation(np.flatnonzero(codes == code))
        ends = np.rint(np.cumsum(PARTS) * len(rows)).astype(np.int64)
        part[rows[ends[0] : ends[1]]], part[rows[ends[1] :]] = 1, 2
    return part


def _informative(
    genes: tuple[str, ...], counts: csr_matrix, codes: Codes, fitted: NDArray[np.bool_]
) -> tuple[tuple[str, ...], csr_matrix]:
    """The genes that tell the types apart best, by their variance between over that within."""
    depth = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    values = log_normalise(counts, depth, TYPING_SUM)[fitted]
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # constant genes, which come last anyway
        ratio = np.nan_to_num(f_classif(values, codes[fitted])[0], nan=-1.0)
    kept = np.sort(np.argsort(-ratio, kind="stable")[:MOST_GENES])
    kept = kept[ratio[kept] > 0]
    return tuple(genes[place] for place in kept), counts[:, kept]


def _choose_strength(
    ready: Floats, codes: Codes, fitted: NDArray[np.bool_], tuned: NDArray[np.bool_]
) -> tuple[LogisticRegression, float]:
    """The classifier with the least log loss on the tuning cells, at its own best temperature.

    Strengths rise, each fit starting where the one before it ended, until the loss does.
    """
    best, chosen, least = None, STRENGTHS[0], np.inf
    model = LogisticRegression(max_iter=_MOST_ITERATIONS, class_weight="balanced", warm_start=True)
    for strength in STRENGTHS:
        model.set_params(C=strength)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # stopping early is one more regularisation
            model.fit(ready[fitted], codes[fitted])
        weights, intercepts = _softmax_form(model)
        logits = ready[tuned] @ weights + intercepts
        loss = log_loss(logits / _temperature(logits, codes[tuned]), codes[tuned])
        if loss >= least:
            break
        least, chosen, best = loss, strength, (model.coef_.copy(), model.intercept_.copy())
    if best is not None:
        model.coef_, model.intercept_ = best
    return model, chosen


def _softmax_form(model: LogisticRegression) -> tuple[Floats, Floats]:
    """(G, T) weights and (T,) intercepts; of two types scikit-learn stores the second one only."""
    weights, intercepts = model.coef_.T, model.intercept_
    if len(model.classes_) == 2:
        weights, intercepts = np.hstack([0 * weights, weights]), np.concatenate([0 * intercepts, intercepts])
    return weights.astype(np.float32), intercepts.astype(np.float32)


def _temperature(logits: Floats, codes: Codes) -> float:
    """What logits are to be divided by for the least log loss (Guo et al. 2017)."""
    found = minimize_scalar(lambda power: log_loss(logits / np.exp(power), codes), bounds=(-3, 3), method="bounded")
    return float(np.exp(found.x))


def log_loss(logits: Floats, codes: Codes) -> float:
    """Mean -log P(type) in nats, every type weighing the same.

    Args:
        logits: (M, T).
        codes: (M,) types.

    Returns:
        The loss.
    """
    chosen = log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(codes)), codes]
    return float(-(chosen * _even_weights(codes)).sum())


def calibration_error(logits: Floats, codes: Codes) -> float:
    """Mean distance between confidence and accuracy, over ten bins of confidence, every type weighing the same.

    Args:
        logits: (M, T).
        codes: (M,) types.

    Returns:
        The error, from 0 to 1.
    """
    confidence = np.exp(log_softmax(logits.astype(np.float64), axis=1).max(axis=1))
    right = logits.argmax(axis=1) == codes
    place = np.minimum((confidence * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    return float(np.abs(np.bincount(place, (right - confidence) * _even_weights(codes))).sum())


def judge_calls(logits: Floats, codes: Codes, types: Sequence[str], threshold: float) -> dict[str, Any]:
    """What held-out cells say of a classifier.

    Args:
        logits: (M, T), tempered.
        codes: (M,) types.
        types: T names.
        threshold: Probability below which a cell is `unassigned`.

    Returns:
        Accuracy of the likeliest type, its mean over types, recall by type, log loss, calibration error; the share left
        unassigned, and the accuracy of the others.
    """
    right = logits.argmax(axis=1) == codes
    called = np.exp(log_softmax(logits.astype(np.float64), axis=1).max(axis=1)) >= threshold
    recall = {name: float(right[codes == code].mean()) for code, name in enumerate(types)}
    return {
        "accuracy": float(right.mean()),
        "balanced_accuracy": float(np.mean(list(recall.values()))),
        "recall": recall,
        "log_loss": log_loss(logits, codes),
        "calibration_error": calibration_error(logits, codes),
        "unassigned": float(1 - called.mean()),
        "accuracy_of_assigned": float(right[called].mean()) if called.any() else None,
    }


def report_table(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A report as a table: the whole, then every type.

    Args:
        report: Of `train_classifier`.

    Returns:
        Column names and rows.
    """
    cells, recall = report["cells"], report["recall"]
    rows = [
        ["balanced accuracy", f"{report['balanced_accuracy']:.3f}"],
        ["accuracy", f"{report['accuracy']:.3f}"],
        ["calibration error", f"{report['calibration_error']:.3f}"],
        ["left unassigned", f"{report['unassigned']:.1%}"],
        *([f"recall of {name}", f"{recall[name]:.3f}"] for name in recall),
    ]
    fitted = f"{cells['report']:,} cells, {report['genes']:,} genes, fitted on {cells['fit']:,}"
    return [fitted, ""], rows


def _even_weights(codes: Codes) -> NDArray[np.float64]:
    """(M,) weights that sum to 1 over the cells and are the same in sum for every type."""
    sizes = np.bincount(codes)
    weights: NDArray[np.float64] = 1.0 / (sizes[codes] * (sizes > 0).sum())
    return weights
