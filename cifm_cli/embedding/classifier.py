"""The classifier of a probe: logistic regression on standardised features, cross-validated over groups of cells.

Letters: n cells, F features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import issparse
from sklearn.decomposition import PCA, TruncatedSVD

from cifm_cli.embedding.folds import grouped_folds
from cifm_cli.statistics.classifier import (
    MAX_ITERATIONS,
    choose_strength,
    class_probabilities,
    fit_logistic,
    mean_and_scale,
    standardise,
)
from cifm_cli.statistics.scores import log_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix
    from sklearn.linear_model import LogisticRegression

    from cifm_cli.embedding.folds import Groups, Rows

    Floats = NDArray[np.float32]

MAX_FEATURES = 1_000  # wider features are reduced to NUM_COMPONENTS before the fit
NUM_COMPONENTS = 128
STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # inverse regularisation, scikit-learn's C
_DEFAULT_STRENGTH = 0.1  # where the training cells cannot be split to choose one
_INNER_FOLDS = 4
_SEARCH_TOLERANCE, _FINAL_TOLERANCE = 1e-3, 1e-4  # of the fits that choose the strength, and of the final fit
_SMALLEST_PROBABILITY = 1e-6  # in the log loss


@dataclass(frozen=True)
class ProbeCells:
    """Classes and groups of the cells of a probe."""

    codes: Rows  # (n,) classes
    groups: Groups  # groups of cells that are held out together
    xy_um: NDArray[np.float64]  # (n, 2) positions in micrometres
    num_classes: int  # K


@dataclass(frozen=True)
class CrossValidation:
    """Held-out predictions from one set of features."""

    probabilities: NDArray[np.float64]  # (n, K) of each cell, predicted while it was held out
    strengths: tuple[float, ...]  # the strength chosen in each fold
    not_converged: int  # number of folds whose final fit reached the limit of iterations


def cross_validate(
    values: Floats | csr_matrix,
    cells: ProbeCells,
    splits: Iterable[tuple[Rows, Rows]],
    seed: int,
    advance: Callable[[], None] | None = None,
    num_components: int | None = None,
) -> CrossValidation:
    """Predict the class of every cell with a classifier that was fitted without its group.

    Args:
        values: (n, F) features.
        cells: Their classes and groups.
        splits: Training and held-out cells of each fold, from `grouped_folds`.
        seed: Seed of the inner split and the reduction of wide features.
        advance: Called after each fold.
        num_components: Number of principal components that replace the features; None to use the features.

    Returns:
        Probabilities of the held-out cells, zero for cells that no fold holds out, and the choices made in each fold.
    """
    probabilities = np.zeros((len(cells.codes), cells.num_classes))
    strengths, not_converged = [], 0
    for train, test in splits:
        features, test_features = _prepare_features(values[train], values[test], seed, num_components)
        strength, start = _choose_strength(features, train, cells, seed)
        model = fit_logistic(features, cells.codes[train], strength, start=start, tolerance=_FINAL_TOLERANCE)
        probabilities[test] = class_probabilities(model, test_features, cells.num_classes)
        strengths.append(strength)
        not_converged += int(model.n_iter_.max() >= MAX_ITERATIONS)
        if advance:
            advance()
    return CrossValidation(probabilities, tuple(strengths), not_converged)


def _prepare_features(
    train: Floats | csr_matrix, test: Floats | csr_matrix, seed: int, num_components: int | None
) -> tuple[Floats, Floats]:
    """Reduce wide features and standardise them, both fitted to the training cells."""
    if num_components is not None:
        train, test = principal_components(train, test, num_components, seed)
    elif train.shape[1] > MAX_FEATURES:
        with np.errstate(invalid="ignore"):  # features that are all zero have no variance to explain
            reduction = TruncatedSVD(min(NUM_COMPONENTS, train.shape[0] - 1), random_state=seed).fit(train)
        train, test = reduction.transform(train), reduction.transform(test)
    dense_train, dense_test = _dense(train), _dense(test)
    # From the training cells alone, as held-out cells must not influence the features.
    mean, scale = mean_and_scale(dense_train)
    return standardise(dense_train, mean, scale), standardise(dense_test, mean, scale)


def principal_components(
    train: Floats | csr_matrix, test: Floats | csr_matrix, num_components: int, seed: int
) -> tuple[Floats, Floats]:
    """Project cells onto the principal components of the training cells.

    Args:
        train: (n, F) features of the training cells, dense or sparse.
        test: (m, F) features of other cells.
        num_components: Largest number of components; there are fewer where there are fewer features or training cells.
        seed: Seed of the starting vector of the iterative solver, for many features.

    Returns:
        (n, P) and (m, P) centred components; zeros if the features are constant.
    """
    num = min(num_components, train.shape[1], train.shape[0] - 1)
    spread = (train.max(axis=0) - train.min(axis=0)).max()
    if num < 1 or not spread:
        return np.zeros((train.shape[0], 1), dtype=np.float32), np.zeros((test.shape[0], 1), dtype=np.float32)
    # The iterative solver finds fewer components than there are features; the matrix of covariances is small then.
    solver = "covariance_eigh" if train.shape[1] <= MAX_FEATURES else "arpack"
    reduction = PCA(num, svd_solver=solver, random_state=seed).fit(train)
    return reduction.transform(train).astype(np.float32), reduction.transform(test).astype(np.float32)


def _dense(values: Any) -> Floats:  # noqa: ANN401 - dense or sparse
    return values.toarray() if issparse(values) else np.asarray(values)


def _choose_strength(
    features: Floats, train: Rows, cells: ProbeCells, seed: int
) -> tuple[float, LogisticRegression | None]:
    """The strength with the least log loss on an inner fold of the training cells, and its classifier.

    The inner fold is split along groups as well: otherwise it would favour classifiers that recognise a group.
    """
    groups = cells.groups.subset(np.isin(np.arange(len(cells.codes)), train))
    codes = cells.codes[train]
    inner, outer = np.empty(0, np.int64), np.empty(0, np.int64)
    if groups.num > 1:
        inner, outer = next(grouped_folds(codes, groups, cells.xy_um[train], _INNER_FOLDS, seed))
    # A classifier needs two classes, and one block may hold all cells of the second.
    if len(np.unique(codes[inner])) < 2:
        return _DEFAULT_STRENGTH, None

    def fit(strength: float, start: LogisticRegression | None) -> LogisticRegression:
        """Fit to the inner training cells, starting from the weights of `start`."""
        return fit_logistic(features[inner], codes[inner], strength, start=start, tolerance=_SEARCH_TOLERANCE)

    def loss(model: LogisticRegression) -> float:
        """Mean log loss on the cells that were left out."""
        probabilities = class_probabilities(model, features[outer], cells.num_classes)
        return float(log_loss(probabilities, codes[outer], smallest=_SMALLEST_PROBABILITY).mean())

    # a warm start may already satisfy the coarse tolerance of the search; the loss is the same then, and a larger
    # strength can still lower it.
    model, strength = choose_strength(STRENGTHS, fit, loss, accept_equal=True)
    return strength, model
