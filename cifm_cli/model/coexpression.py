"""Co-expression on a slide: linear regressions between the genes that a model knows and those that it does not.

Letters: n cells, K genes that the model knows, N new ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide

    Numbers = NDArray[np.float64]

MAX_CELLS = 10_000  # cells that regressions are fitted on
LARGE_PANEL = 1_000  # known or new genes above which fewer cells are, as equations of either order are solved
MAX_CELLS_OF_LARGE_PANEL = 1_500
MIN_KNOWN = 20  # with fewer known genes, a regression says nothing about how the network corrects a new one
MIN_CELLS = 50  # with fewer cells too
# Cells are averaged over similar ones first: with the expression of single cells, which is mostly noise, coefficients are
# too small for the smooth corrections that they are used on.
NEIGHBOURS = 10
CELLS_PER_NEIGHBOUR = 50  # fewer neighbours on slides of few cells, which are spots of many counts
COMPONENTS = 20  # principal components of the known genes, in which similar cells are found
PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)  # in units of the mean variance of a predictor
NUM_PARTS = 10  # parts of consecutive cells; every second one is held out for the choice of the penalty


class Coefficients(NamedTuple):
    """Coefficients (A, B) of the regression of B genes on A genes, as a product: a transcriptome has 10^8 pairs of genes."""

    left: Numbers  # (A, R)
    right: Numbers  # (R, B)

    def apply(self, values: Numbers) -> Numbers:
        """Sum (A, D) values of the predictors, weighted by their coefficients, for each target: (B, D)."""
        return np.asarray(self.right.T @ (self.left.T @ values))

    def transfer(self, values: Numbers) -> Numbers:
        """Sum (B, D) values of the targets, weighted by their coefficients, for each predictor: (A, D)."""
        return np.asarray(self.left @ (self.right @ values))


@dataclass(frozen=True, eq=False)
class CoExpression:
    """How new genes are expressed on a slide, and how they vary with known ones. Expression is log-normalised."""

    num_cells: int  # n
    known: NDArray[np.int64]  # (K,) vocabulary rows of the known genes of the slide
    new: tuple[str, ...]  # Ensembl ids of the N new genes
    known_mean: Numbers  # (K,) mean expression
    new_mean: Numbers  # (N,)
    known_fraction: Numbers  # (K,) fraction of the cells that express the gene
    new_fraction: Numbers  # (N,)
    known_share: Numbers  # (K,) mean fraction of the counts of a cell, times the sum that counts are scaled to
    new_share: Numbers  # (N,)
    # Coefficients of regressions of centred variables; zero where there are too few known genes or cells.
    expression: Coefficients  # (K, N) of the expression of each new gene on that of the known ones
    expressed: Coefficients  # (K, N) the same for the indicator "the gene is expressed"
    inverse: Coefficients  # (N, K) of the expression of each known gene on that of all new ones together

    @property
    def is_informative(self) -> bool:
        """Whether there were enough genes and cells for the regressions."""
        return has_enough(len(self.known), self.num_cells)


def measure_coexpression(
    slide: Slide, vocabulary: Sequence[str], target_sum: float, rows: Rows | None = None
) -> CoExpression:
    """Fit the regressions on some cells of a slide.

    Args:
        slide: The slide.
        vocabulary: Ordered Ensembl ids of a model; the other genes of the slide are new.
        target_sum: Sum to which the counts of a cell are scaled.
        rows: (n,) ascending rows of the cells that may be read; None for all. Of many, an evenly spread sample is read.

    Returns:
        The regressions, with coefficients of zero where too few genes or cells are given.
    """
    row_of = {gene: row for row, gene in enumerate(vocabulary)}
    is_known = np.array([gene in row_of for gene in slide.gene_ids], dtype=bool)
    known, new = np.flatnonzero(is_known), np.flatnonzero(~is_known)
    rows = np.arange(slide.num_cells) if rows is None else rows
    rows = rows[slide.total_counts[rows] > 0]  # a void cell has no expression, whatever its genes
    limit = MAX_CELLS_OF_LARGE_PANEL if max(len(known), len(new)) > LARGE_PANEL else MAX_CELLS
    expression = slide.expression(rows[:: max(1, -(-len(rows) // limit))], target_sum)
    known_rows = np.array([row_of[slide.gene_ids[column]] for column in known], dtype=np.int64)
    new_genes = tuple(slide.gene_ids[column] for column in new)
    return regress(expression[:, known].tocsr(), expression[:, new].tocsr(), known_rows, new_genes)


def regress(
    known: csr_matrix, new: csr_matrix, known_rows: NDArray[np.int64], new_genes: tuple[str, ...]
) -> CoExpression:
    """Fit the regressions.

    Args:
        known: (n, K) log-normalised expression of the known genes in cells with counts, in the order of the slide.
        new: (n, N) of the new genes.
        known_rows: (K,) vocabulary rows of the known genes.
        new_genes: N Ensembl ids.

    Returns:
        The regressions; coefficients are zero for fewer than `MIN_KNOWN` known genes or `MIN_CELLS` cells.
    """
    num_known, num_new = len(known_rows), len(new_genes)
    expression = expressed = Coefficients(np.zeros((num_known, 0)), np.zeros((0, num_new)))
    inverse = Coefficients(np.zeros((num_new, 0)), np.zeros((0, num_known)))
    known_expressed, new_expressed = _indicator(known), _indicator(new)
    if has_enough(num_known, known.shape[0]) and num_new:
        similar = _similar_cells(known)
        expressed = _ridge(_average(similar, known_expressed), _average(similar, new_expressed))
        x, y = _average(similar, known), _average(similar, new)
        expression, inverse = _ridge(x, y), _ridge(y, x)
    return CoExpression(
        num_cells=known.shape[0],
        known=known_rows,
        new=new_genes,
        known_mean=_mean(known),
        new_mean=_mean(new),
        known_fraction=_mean(known_expressed),
        new_fraction=_mean(new_expressed),
        known_share=_mean(known.expm1()),
        new_share=_mean(new.expm1()),
        expression=expression,
        expressed=expressed,
        inverse=inverse,
    )


def has_enough(num_known: int, num_cells: int) -> bool:
    """Whether regressions on so many known genes, in so many cells, say something about a new gene."""
    return num_known >= MIN_KNOWN and num_cells >= MIN_CELLS


def _similar_cells(expression: csr_matrix) -> csr_matrix:
    """(n, n) weights of the cells that each cell is averaged over: those that are nearest in the leading principal components."""
    # Imported here, because scikit-learn takes a second to import.
    from sklearn.decomposition import PCA

    num_cells = expression.shape[0]
    size = int(np.clip(num_cells // CELLS_PER_NEIGHBOUR, 1, NEIGHBOURS))
    reduction = PCA(min(COMPONENTS, *expression.shape), svd_solver="randomized", random_state=0)
    components = reduction.fit_transform(expression.toarray())
    _, nearest = cKDTree(components).query(components, size)
    indptr = np.arange(num_cells + 1) * size
    return csr_matrix((np.full(num_cells * size, 1 / size), nearest.ravel(), indptr), (num_cells, num_cells))


def _average(similar: csr_matrix, values: csr_matrix) -> Numbers:
    """Average (n, P) values over similar cells, as a dense matrix."""
    dense: Numbers = (similar @ values).toarray().astype(np.float64)
    return dense


def _ridge(x: Numbers, y: Numbers) -> Coefficients:
    """Regress centred (n, B) targets on centred (n, A) predictors, with the penalty of the smallest held-out error."""
    # Parts of consecutive cells, because neighbours are alike: a random half would favour too small a penalty.
    is_fitted = np.arange(len(x)) * NUM_PARTS // len(x) % 2 == 0
    error_of = Ridge(x[is_fitted], y[is_fitted]).held_out_error(x[~is_fitted], y[~is_fitted])
    return Ridge(x, y).solve(min(PENALTIES, key=error_of))


class Ridge:
    """A ridge regression of centred variables, decomposed once for all penalties.

    Args:
        x: (n, A) predictors.
        y: (n, B) targets.
    """

    def __init__(self, x: Numbers, y: Numbers) -> None:
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
        self._sum_of_squares = float(np.square(x).sum()) / max(x.shape[1], 1)
        # The smaller of two Gram matrices: the solution is the same, also where a panel has more genes than there are cells.
        if x.shape[1] <= x.shape[0]:
            self._values, self._left = np.linalg.eigh(x.T @ x)
            self._right = self._left.T @ (x.T @ y)
        else:
            self._values, vectors = np.linalg.eigh(x @ x.T)
            self._left, self._right = x.T @ vectors, vectors.T @ y

    def solve(self, penalty: float) -> Coefficients:
        """Coefficients under a penalty in units of the mean variance of a predictor."""
        return Coefficients(self._left, self._right * self._factors(penalty)[:, None])

    def held_out_error(self, x: Numbers, y: Numbers) -> Callable[[float], float]:
        """The squared error on other cells, centred on their own mean, as a function of the penalty.

        It leaves out the sum of the squared targets, which no penalty changes.
        """
        components = (x - x.mean(axis=0)) @ self._left
        linear = ((components.T @ (y - y.mean(axis=0))) * self._right).sum(axis=1)
        # Products of the components once, so that every further penalty costs a small form only.
        quadratic = (components.T @ components) * (self._right @ self._right.T)

        def error(penalty: float) -> float:
            """The error under a penalty."""
            factors = self._factors(penalty)
            return float(factors @ quadratic @ factors - 2 * linear @ factors)

        return error

    def _factors(self, penalty: float) -> Numbers:
        """(R,) factors of the components."""
        # Predictors without variance get coefficients of zero, under any positive penalty.
        added = penalty * self._sum_of_squares or 1.0
        factors: Numbers = 1 / (np.maximum(self._values, 0.0) + added)
        return factors


def _indicator(matrix: csr_matrix) -> csr_matrix:
    """1 where a value is not zero."""
    return csr_matrix(((matrix.data > 0).astype(np.float32), matrix.indices, matrix.indptr), matrix.shape)


def _mean(matrix: csr_matrix) -> Numbers:
    """Mean of each column; zero if there are no rows."""
    mean: Numbers = np.asarray(matrix.sum(axis=0, dtype=np.float64)).ravel() / max(matrix.shape[0], 1)
    return mean
