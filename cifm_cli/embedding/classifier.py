"""The probe itself: multinomial logistic regression on standardised features, its strength chosen inside the training cells."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import issparse
from sklearn.decomposition import TruncatedSVD
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from cifm_cli.embedding.folds import folds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.embedding.folds import Groups, Rows

    Floats = NDArray[np.float32]

MOST_FEATURES = 1_000  # more columns are reduced to REDUCED before the fit
REDUCED = 128
STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # inverse regularisation, scikit-learn's C
_FALLBACK = 0.1  # where the training cells are a single group
_INNER_FOLDS = 4
MOST_ITERATIONS = 300
_ROUGH, _FINE = 1e-3, 1e-4  # tolerance while choosing the strength, and of the final fit
_SMALLEST = 1e-6  # of a probability, before its logarithm


@dataclass(frozen=True)
class Cells:
    """The cells of a probe.

    Args:
        codes: (n,) classes.
        groups: Held out together.
        xy_um: (n, 2) micrometres.
        num_classes: K.
    """

    codes: Rows
    groups: Groups
    xy_um: NDArray[np.float64]
    num_classes: int


@dataclass(frozen=True)
class Fit:
    """What cross-validation gave for one description of the cells.

    Args:
        probabilities: (n, K) of every cell while it was held out.
        strengths: Chosen C of each fold.
        not_converged: Fits of the folds that hit the limit of iterations.
    """

    probabilities: NDArray[np.float64]
    strengths: tuple[float, ...]
    not_converged: int


def cross_validate(
    values: Floats | csr_matrix,
    cells: Cells,
    splits: Iterable[tuple[Rows, Rows]],
    seed: int,
    advance: Callable[[], None] | None = None,
) -> Fit:
    """Predict every cell by a classifier that saw no cell of its group.

    Args:
        values: (n, F) features.
        cells: Their classes and groups.
        splits: Training and held-out cells, from `folds`.
        seed: Of the inner split and of the reduction.
        advance: Called after each fold.

    Returns:
        Probabilities of the held-out cells, and how they came about.
    """
    probabilities = np.zeros((len(cells.codes), cells.num_classes))
    strengths, not_converged = [], 0
    for train, test in splits:
        ready, held_out = _standardise(values[train], values[test], seed)
        strength, start = _choose(ready, train, cells, seed)
        model = _fit(ready, cells.codes[train], strength, _FINE, start)
        probabilities[test] = _predict(model, held_out, cells.num_classes)
        strengths.append(strength)
        not_converged += int(model.n_iter_.max() >= MOST_ITERATIONS)
        if advance:
            advance()
    return Fit(probabilities, tuple(strengths), not_converged)


def _standardise(train: Floats | csr_matrix, test: Floats | csr_matrix, seed: int) -> tuple[Floats, Floats]:
    """Reduce wide features, then scale to mean 0 and deviation 1, both as the training cells have it."""
    if train.shape[1] > MOST_FEATURES:
        with np.errstate(invalid="ignore"):  # features that are all zero have no variance to explain
            reduction = TruncatedSVD(min(REDUCED, train.shape[0] - 1), random_state=seed).fit(train)
        train, test = reduction.transform(train), reduction.transform(test)
    dense_train, dense_test = _dense(train), _dense(test)
    mean, deviation = dense_train.mean(axis=0), dense_train.std(axis=0)
    scale = np.where(deviation > 0, deviation, 1.0)
    return ((dense_train - mean) / scale).astype(np.float32), ((dense_test - mean) / scale).astype(np.float32)


def _dense(values: Any) -> Floats:  # noqa: ANN401 - dense or sparse
    return values.toarray() if issparse(values) else np.asarray(values)


def _choose(ready: Floats, train: Rows, cells: Cells, seed: int) -> tuple[float, LogisticRegression | None]:
    """The strength with the least log loss on a part of the training cells, again cut along groups, and its classifier.

    Strengths rise, each fit starting where the one before it ended, until the loss does.
    """
    groups = cells.groups.keep(np.isin(np.arange(len(cells.codes)), train))
    codes = cells.codes[train]
    inner, outer = next(folds(codes, groups, cells.xy_um[train], _INNER_FOLDS, seed)) if groups.num > 1 else ((), ())
    if len(np.unique(codes[list(inner)])) < 2:
        return _FALLBACK, None
    best, least, model = _FALLBACK, np.inf, None
    for strength in STRENGTHS:
        candidate = _fit(ready[inner], codes[inner], strength, _ROUGH, model)
        probabilities = _predict(candidate, ready[outer], cells.num_classes)[np.arange(len(outer)), codes[outer]]
        loss = -np.log(np.maximum(probabilities, _SMALLEST)).mean()
        if loss > least:
            break
        best, least, model = strength, loss, candidate
    return best, model


def _fit(
    ready: Floats, codes: Rows, strength: float, tolerance: float, start: LogisticRegression | None
) -> LogisticRegression:
    """Fit a classifier, from the weights of `start` where it knows the same classes."""
    model = LogisticRegression(C=strength, max_iter=MOST_ITERATIONS, tol=tolerance, warm_start=True)
    if start is not None and np.array_equal(start.classes_, np.unique(codes)):
        model.coef_, model.intercept_ = start.coef_.copy(), start.intercept_.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # counted by the caller
        return model.fit(ready, codes)


def _predict(model: LogisticRegression, held_out: Floats, num_classes: int) -> NDArray[np.float64]:
    """Probabilities over all classes, zero for those the training cells lack."""
    probabilities = np.zeros((len(held_out), num_classes))
    probabilities[:, model.classes_] = model.predict_proba(held_out)
    return probabilities
