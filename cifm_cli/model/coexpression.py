"""Co-expression on a slide: linear regressions between the genes that a model knows and those it does not.

Letters: n cells, K genes that the model knows, N new ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide

    Numbers = NDArray[np.float64]

MAX_CELLS = 20_000  # cells that regressions are fitted on
MAX_EQUATIONS = 2_000  # order of the largest system that is solved; panels with more genes than that use fewer cells
MIN_KNOWN = 20  # with fewer known genes a regression says nothing about how the network corrects a new one
MIN_CELLS = 50  # with fewer cells too
# Penalties that are tried, in units of the mean variance of a predictor.
PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
# Cells are averaged over similar ones first: with the expression of single cells, which is mostly noise, coefficients are
# too small for the smooth corrections that they are used on.
NEIGHBOURS = 10
CELLS_PER_NEIGHBOUR = 50  # fewer neighbours on slides of few cells, which are spots of many counts
COMPONENTS = 20  # principal components of the known genes, in which similar cells are found
NUM_PARTS = 10  # parts of consecutive cells; every second one is held out for the choice of the penalty


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
    expression: Numbers  # (N, K) of the expression of each new gene on that of the known ones
    expressed: Numbers  # (N, K) the same for the indicator "the gene is expressed"
    inverse: Numbers  # (N, K) of the expression of each known gene on that of all new ones together

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
        rows: (n,) rows of the cells that may be read, in the order of the slide; None for all. At most `MAX_CELLS` of them
            are, spread evenly.

    Returns:
        The regressions, without coefficients where too few genes or cells are given.
    """
    known, new = split_genes(slide, vocabulary)
    row_of = {gene: row for row, gene in enumerate(vocabulary)}
    rows = np.arange(slide.num_cells) if rows is None else rows
    rows = rows[slide.total_counts[rows] > 0]  # a void cell has no expression, whatever its genes
    limit = MAX_CELLS if max(len(known), len(new)) <= MAX_EQUATIONS else MAX_EQUATIONS
    expression = slide.expression(rows[:: max(1, -(-len(rows) // limit))], target_sum)
    known_rows = np.array([row_of[slide.gene_ids[column]] for column in known], dtype=np.int64)
    return regress(
        expression[:, known].tocsr(), expression[:, new].tocsr(), known_rows, tuple(slide.gene_ids[c] for c in new)
    )


def split_genes(slide: Slide, vocabulary: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Columns of a slide whose genes are in a vocabulary, and columns of the others; both ascending."""
    known = set(vocabulary)
    is_known = np.array([gene in known for gene in slide.gene_ids], dtype=bool)
    return np.flatnonzero(is_known), np.flatnonzero(~is_known)


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
    num_cells, shape = known.shape[0], (len(new_genes), len(known_rows))
    coefficients = [np.zeros(shape)] * 3
    known_expressed, new_expressed = _indicator(known), _indicator(new)
    if has_enough(len(known_rows), num_cells) and len(new_genes):
        average = _average_over(_similar_cells(known))
        x, y = average(known), average(new)
        coefficients = [_ridge(x, y).T, _ridge(average(known_expressed), average(new_expressed)).T, _ridge(y, x)]
    return CoExpression(
        num_cells=num_cells,
        known=known_rows,
        new=new_genes,
        known_mean=_mean(known),
        new_mean=_mean(new),
        known_fraction=_mean(known_expressed),
        new_fraction=_mean(new_expressed),
        known_share=_mean(known.expm1()),
        new_share=_mean(new.expm1()),
        expression=coefficients[0],
        expressed=coefficients[1],
        inverse=coefficients[2],
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


def _average_over(weights: csr_matrix) -> Callable[[csr_matrix], Numbers]:
    """The function that averages (n, P) values over similar cells, as a dense matrix."""

    def average(values: csr_matrix) -> Numbers:
        """Mean over similar cells."""
        dense: Numbers = (weights @ values).toarray().astype(np.float64)
        return dense

    return average


def _ridge(x: Numbers, y: Numbers) -> Numbers:
    """Coefficients (A, B) of the centred (n, B) targets on the centred (n, A) predictors, with the penalty of the smallest held-out error."""
    # Parts of consecutive cells, because neighbours are alike: a random half would favour too small a penalty.
    is_fitted = np.arange(len(x)) * NUM_PARTS // len(x) % 2 == 0
    fit = _Decomposed(x[is_fitted], y[is_fitted])
    x_held_out, y_held_out = (part[~is_fitted] - part[~is_fitted].mean(axis=0) for part in (x, y))

    def squared_error(penalty: float) -> float:
        """Error on the parts that are held out."""
        return float(np.square(y_held_out - x_held_out @ fit.solve(penalty)).sum())

    return _Decomposed(x, y).solve(min(PENALTIES, key=squared_error))


class _Decomposed:
    """A ridge regression of centred variables, decomposed so that every further penalty costs a product only."""

    def __init__(self, x: Numbers, y: Numbers) -> None:
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
        self._mean_square = float(np.square(x).sum()) / max(x.shape[1], 1)
        # The smaller of the two Gram matrices: the same solution, also where a panel has more genes than there are cells.
        if x.shape[1] <= x.shape[0]:
            self._values, vectors = np.linalg.eigh(x.T @ x)
            self._left, self._right = vectors, vectors.T @ (x.T @ y)
        else:
            self._values, vectors = np.linalg.eigh(x @ x.T)
            self._left, self._right = x.T @ vectors, vectors.T @ y

    def solve(self, penalty: float) -> Numbers:
        """Coefficients under a penalty in units of the mean variance of a predictor."""
        # Predictors without variance get coefficients of zero.
        added = penalty * self._mean_square or 1.0
        return np.asarray(self._left @ (self._right / (np.maximum(self._values, 0.0) + added)[:, None]))


def _indicator(matrix: csr_matrix) -> csr_matrix:
    """1 where a value is not zero."""
    return csr_matrix(((matrix.data > 0).astype(np.float32), matrix.indices, matrix.indptr), matrix.shape)


def _mean(matrix: csr_matrix) -> Numbers:
    """Mean of each column; zero if there are no rows."""
    mean: Numbers = np.asarray(matrix.sum(axis=0, dtype=np.float64)).ravel() / max(matrix.shape[0], 1)
    return mean
