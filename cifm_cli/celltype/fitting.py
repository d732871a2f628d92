"""Training of the `reference` annotator: a calibrated classifier fitted to labelled cells.

The labelled cells are restricted to the genes of the target slide and thinned to its depth. They are then split, within
every type, into three parts: one fits the classifier, one chooses the penalty and the temperature, and one is used for
the report alone. Every type has the same total weight in all three, because the composition of the labelled data says
little about that of the slide.

Letters: M cells, G genes, T types.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_matrix
from scipy.special import log_softmax
from sklearn.feature_selection import f_classif

from cifm_cli.celltype.base import TYPING_SUM
from cifm_cli.celltype.labelled_cells import LabelledCells
from cifm_cli.celltype.lineage_check import lineages_of_labels
from cifm_cli.celltype.reference import MAX_DEVIATION, ReferenceClassifier
from cifm_cli.data.cell_sketch import recognisable_checksums
from cifm_cli.data.checksums import gene_keys
from cifm_cli.data.slide import log_normalise
from cifm_cli.errors import CifmError
from cifm_cli.provenance import numpy_generator
from cifm_cli.report.table import Table
from cifm_cli.statistics.classifier import (
    choose_strength,
    fit_logistic,
    mean_and_scale,
    softmax_weights,
    standardise,
)
from cifm_cli.statistics.scores import balanced_weights, calibration_error, log_loss_from_logs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from sklearn.linear_model import LogisticRegression

    Floats = NDArray[np.float32]
    Codes = NDArray[np.int64]
    Mask = NDArray[np.bool_]

logger = logging.getLogger(__name__)

MIN_CELLS: Final = 20  # of a type: leaves three for the report
# Limits time and memory of the fit, which holds the expression of all cells as a dense array.
MAX_GENES: Final = 2_000
# Steps by a factor of about 3, over three and a half orders of magnitude.
STRENGTHS: Final = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # inverse regularisation, scikit-learn's C
SPLITS: Final = {"fit": 0.7, "tune": 0.15, "report": 0.15}  # fractions of the cells


@dataclass(frozen=True)
class TargetSlide:
    """Panel and depth of the slide that a classifier is trained for."""

    symbols: tuple[str, ...]  # gene symbols of its panel
    total_counts: NDArray[np.float64]  # (N,) counts of its cells; training cells are thinned to this distribution


def train_classifier(
    labelled: LabelledCells, target: TargetSlide | None, *, max_cells: int, threshold: float, seed: int
) -> ReferenceClassifier:
    """Train and calibrate a classifier, and evaluate it on held-out cells.

    Args:
        labelled: The labelled cells.
        target: Restricts them to the genes and the depth of a slide; all genes at full depth when absent.
        max_cells: Approximate number of cells to use, as many of each type as possible.
        threshold: Probability of the likeliest type below which a cell is `unassigned`.
        seed: Seed of the sampled cells, the thinning and the split.

    Returns:
        The classifier with its report, without provenance.

    Raises:
        CifmError: Fewer than two types have enough cells, or the labelled cells and the slide share no gene.
    """
    types, rows, left_out = _sample_cells(labelled.labels, max_cells, seed)
    codes = np.array([types.index(name) for name in labelled.labels[rows]], dtype=np.int64)
    counts, genes = _match_slide(labelled.counts[rows], labelled.symbols, target, seed)
    lineages = lineages_of_labels(LabelledCells(counts, genes, labelled.labels[rows]))
    split = _split_cells(codes, seed)
    fit, tune, report = (split == number for number in range(len(SPLITS)))
    # Of the counts as they were given: thinning makes copies of a cell differ.
    checksums = recognisable_checksums(csr_matrix(labelled.counts[rows]), gene_keys(labelled.symbols))
    num_repeated = int((np.isin(checksums[report], checksums[fit | tune]) & (checksums[report] > 0)).sum())
    if num_repeated:
        logger.warning(
            f"{num_repeated:,} of the {report.sum():,} held-out cells have exactly the counts of a cell that the classifier was "
            "fitted to: the same cells occur twice, and its accuracy on new cells is lower"
        )
    # Chosen on the fitting cells alone, as the other two parts must not influence the classifier.
    counts, genes = _select_genes(counts, genes, codes, fit)
    depth = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    # The depth is the sum over the selected genes: at annotation time the shared genes are normalised alone as well.
    expression = log_normalise(counts, depth, TYPING_SUM).toarray()
    mean, scale = mean_and_scale(expression[fit])
    features = standardise(expression, mean, scale, MAX_DEVIATION)
    model, strength = _choose_classifier(features, codes, fit, tune)
    weights, intercepts = softmax_weights(model)
    # On cells that did not fit the weights: on its own training cells, a classifier is too confident.
    temperature = _best_temperature(features[tune] @ weights + intercepts, codes[tune])
    logits = features[report] @ weights + intercepts
    facts = {
        "cells": {name: int((split == number).sum()) for number, name in enumerate(SPLITS)},
        "types": {name: int((codes == code).sum()) for code, name in enumerate(types)},
        "left_out": left_out,
        "repeated": num_repeated,
        "genes": len(genes),
        "strength": strength,
        "median_depth": float(np.median(depth)),
        "calibration_error_before": balanced_calibration_error(logits, codes[report]),
        **classification_report(logits / temperature, codes[report], types, threshold),
    }
    return ReferenceClassifier(
        types, genes, weights, intercepts, mean, scale, temperature, threshold, lineages=lineages, report=facts
    )


def _sample_cells(labels: NDArray[Any], max_cells: int, seed: int) -> tuple[tuple[str, ...], Codes, dict[str, int]]:
    """Types with enough cells, ascending rows with as many cells of each as fit, and the sizes of the other types."""
    names, sizes = np.unique(labels.astype(str), return_counts=True)
    is_common = sizes >= MIN_CELLS
    if is_common.sum() < 2:
        raise CifmError(
            f"{int(is_common.sum())} of {len(names)} types have {MIN_CELLS} cells, two are needed",
            "choose a coarser column with --label, or a larger reference",
        )
    types = tuple(map(str, names[is_common]))
    # Equal numbers, as a frequent type would otherwise take most of the cells.
    cells_per_type = max(MIN_CELLS, max_cells // len(types))
    generator = numpy_generator(seed, "reference cells")
    sampled = [generator.permutation(np.flatnonzero(labels == name))[:cells_per_type] for name in types]
    left_out = zip(names[~is_common].tolist(), sizes[~is_common].tolist(), strict=True)
    return types, np.sort(np.concatenate(sampled)), dict(left_out)


def _match_slide(
    counts: csr_matrix, symbols: tuple[str, ...], target: TargetSlide | None, seed: int
) -> tuple[csr_matrix, tuple[str, ...]]:
    """Counts as the slide would have measured them: the genes of its panel, each gene once, at its depth."""
    # In upper case, as mouse symbols differ from human ones mostly by case.
    panel = None if target is None else {symbol.upper() for symbol in target.symbols}
    # Reversed, so that the first of several columns with one symbol is used.
    column_of = {symbol.upper(): column for column, symbol in reversed(list(enumerate(symbols)))}
    columns = np.array(sorted(column for name, column in column_of.items() if panel is None or name in panel), np.int64)
    if not len(columns):
        raise CifmError(
            f"the reference has none of the genes of the slide (such as {next(iter(sorted(panel or ())), '')})",
            "use gene symbols or Ensembl ids as var_names",
        )
    counts = counts[:, columns].astype(np.float32)
    if target is not None:
        depth = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1.0)
        # Depths are matched by rank: the deepest cells stay the deepest, because depth differs between types.
        rank = (depth.argsort(kind="stable").argsort(kind="stable") + 0.5) / len(depth)
        target_depth = np.quantile(target.total_counts, rank)
        probability = np.repeat(np.minimum(target_depth / depth, 1.0), np.diff(counts.indptr))
        generator = numpy_generator(seed, "reference depth")
        # Binomial thinning gives the same distribution as sequencing the cell less deeply; it never adds counts.
        counts.data = generator.binomial(np.rint(counts.data).astype(np.int64), probability).astype(np.float32)
        counts.eliminate_zeros()
    return counts, tuple(symbols[column] for column in columns)


def _split_cells(codes: Codes, seed: int) -> Codes:
    """(M,) position in `SPLITS` of each cell; every type is split in the same proportions."""
    split = np.zeros(len(codes), dtype=np.int64)
    generator = numpy_generator(seed, "reference parts")
    for code in np.unique(codes):
        rows = generator.permutation(np.flatnonzero(codes == code))
        ends = np.rint(np.cumsum(tuple(SPLITS.values())) * len(rows)).astype(np.int64)
        split[rows[ends[0] : ends[1]]], split[rows[ends[1] :]] = 1, 2
    return split


def _select_genes(
    counts: csr_matrix, genes: tuple[str, ...], codes: Codes, fit: Mask
) -> tuple[csr_matrix, tuple[str, ...]]:
    """The genes with the largest ratio of the variance between types to that within."""
    depth = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    expression = log_normalise(counts, depth, TYPING_SUM)[fit]
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about constant genes, which are sorted last
        ratio = np.nan_to_num(f_classif(expression, codes[fit])[0], nan=-1.0)
    columns = np.sort(np.argsort(-ratio, kind="stable")[:MAX_GENES])
    columns = columns[ratio[columns] > 0]  # constant genes, where a small panel has fewer than MAX_GENES others
    return counts[:, columns], tuple(genes[column] for column in columns)


def _choose_classifier(features: Floats, codes: Codes, fit: Mask, tune: Mask) -> tuple[LogisticRegression, float]:
    """The classifier with the least log loss on the tuning cells, each at its best temperature; and its strength."""

    def fit_with(strength: float, start: LogisticRegression | None) -> LogisticRegression:
        """Fit to the fitting cells, starting from the weights of `start`."""
        return fit_logistic(features[fit], codes[fit], strength, start=start, balanced=True)

    def loss_of(model: LogisticRegression) -> float:
        """Balanced log loss on the tuning cells."""
        # At the best temperature, so that strengths are compared by how well they separate types, not by calibration.
        weights, intercepts = softmax_weights(model)
        logits = features[tune] @ weights + intercepts
        return balanced_log_loss(logits / _best_temperature(logits, codes[tune]), codes[tune])

    return choose_strength(STRENGTHS, fit_with, loss_of)


def _best_temperature(logits: Floats, codes: Codes) -> float:
    """The divisor of the logits with the least log loss (temperature scaling, Guo et al. 2017)."""

    # Optimised as a logarithm, within a factor of 20 of no change, so that the search treats both directions alike.
    def loss_at(log_temperature: float) -> float:
        """Balanced log loss at a temperature."""
        return balanced_log_loss(logits / np.exp(log_temperature), codes)

    return float(np.exp(minimize_scalar(loss_at, bounds=(-3, 3), method="bounded").x))


def balanced_log_loss(logits: Floats, codes: Codes) -> float:
    """Mean log loss in nats, every type having the same total weight.

    Args:
        logits: (M, T).
        codes: (M,) actual types.

    Returns:
        The mean of -log P(actual type).
    """
    # In double precision, as small differences of the loss decide on the strength and the temperature.
    losses = log_loss_from_logs(log_softmax(logits.astype(np.float64), axis=1), codes)
    return float((losses * balanced_weights(codes)).sum())


def balanced_calibration_error(logits: Floats, codes: Codes) -> float:
    """Expected calibration error, every type having the same total weight.

    Args:
        logits: (M, T).
        codes: (M,) actual types.

    Returns:
        The error, from 0 to 1.
    """
    return calibration_error(_confidence(logits), logits.argmax(axis=1) == codes, balanced_weights(codes))


def _confidence(logits: Floats) -> NDArray[np.float64]:
    """(M,) probability of the likeliest type."""
    return np.asarray(np.exp(log_softmax(logits.astype(np.float64), axis=1).max(axis=1)))


def classification_report(logits: Floats, codes: Codes, types: Sequence[str], threshold: float) -> dict[str, Any]:
    """Scores of a classifier on held-out cells.

    Args:
        logits: (M, T), divided by the temperature.
        codes: (M,) actual types.
        types: T names.
        threshold: Probability of the likeliest type below which a cell is `unassigned`.

    Returns:
        Accuracy of the likeliest type, its mean over types, recall by type, log loss and calibration error; the
        fraction of unassigned cells, and the accuracy of the others.
    """
    is_correct = logits.argmax(axis=1) == codes
    is_assigned = _confidence(logits) >= threshold
    recall = {name: float(is_correct[codes == code].mean()) for code, name in enumerate(types)}
    return {
        "accuracy": float(is_correct.mean()),
        "balanced_accuracy": float(np.mean(list(recall.values()))),
        "recall": recall,
        "log_loss": balanced_log_loss(logits, codes),
        "calibration_error": balanced_calibration_error(logits, codes),
        "unassigned": float(1 - is_assigned.mean()),
        "accuracy_of_assigned": float(is_correct[is_assigned].mean()) if is_assigned.any() else None,
    }


def report_table(report: dict[str, Any]) -> Table:
    """Format a report as a table: overall scores, then the recall of every type.

    Args:
        report: Report of a classifier from `train_classifier`.

    Returns:
        The table.
    """
    cells, recall = report["cells"], report["recall"]
    rows = [
        ["balanced accuracy", f"{report['balanced_accuracy']:.3f}"],
        ["accuracy", f"{report['accuracy']:.3f}"],
        ["calibration error", f"{report['calibration_error']:.3f}"],
        ["unassigned", f"{report['unassigned']:.1%}"],
        *([f"recall of {name}", f"{recall[name]:.3f}"] for name in recall),
    ]
    title = f"{cells['report']:,} cells, {report['genes']:,} genes, fitted on {cells['fit']:,}"
    return Table([title, ""], rows)
