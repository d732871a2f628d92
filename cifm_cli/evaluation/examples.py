"""What a predictor is given (visible cells, and examples to learn from) and what its predictions are compared with.

Letters: V visible cells, Q hidden cells, P genes.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, TypeVar, cast

import numpy as np

from cifm_cli.evaluation.metrics.ranking import average_ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.inference.neighbourhood.visible_cells import GeneStats, VisibleCells

    Floats = NDArray[np.float64]
    Values = NDArray[np.float32]


class Example(NamedTuple):
    """Training cells hidden as the scored cells are."""

    visible: VisibleCells  # the visible cells around them
    xy_um: Floats  # (Q, 2) their places
    expression: csr_matrix  # (Q, P) their log-normalised expression
    counts: csr_matrix  # (Q, P) their raw counts


class Estimator(Protocol):
    """Anything that learns from examples."""

    @property
    def name(self) -> str:
        """Distinguishes estimators."""
        ...

    def fit(self, examples: TrainingFolds) -> Self:
        """Learn from examples."""
        ...


EstimatorT = TypeVar("EstimatorT", bound=Estimator)


@dataclass(frozen=True, eq=False)
class TrainingFolds:
    """Examples from the training region, for baselines that learn. None of them contains a scored cell."""

    draw: Callable[[], Iterable[Example]]  # makes the examples, one fold of hidden cells each
    gene_stats: GeneStats  # statistics of the training cells
    _fitted: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __iter__(self) -> Iterator[Example]:
        """Go through the examples; they are made anew each time, as they may not fit into memory together."""
        return iter(self.draw())

    def fitted(self, estimator: EstimatorT) -> EstimatorT:
        """A copy of an estimator, fitted once: several folds and hyper-parameters share what was learned."""
        if estimator.name not in self._fitted:
            self._fitted[estimator.name] = copy(estimator).fit(self)
        return cast("EstimatorT", self._fitted[estimator.name])


@dataclass(frozen=True)
class Targets:
    """The actual expression of the hidden cells, and what metrics derive from it once."""

    counts: csr_matrix  # (Q, P) raw counts
    values: Values  # (Q, P) log-normalised expression
    gene_stats: GeneStats  # statistics of the training cells, for the deviance and for centred metrics
    target_sum: float  # of the normalisation, for the deviance

    @cached_property
    def cell_ranks(self) -> Values:
        """(Q, P) ranks of the genes within each cell."""
        return average_ranks(self.values)

    @cached_property
    def by_gene(self) -> Values:
        """(P, Q) the values, gene by gene."""
        return np.ascontiguousarray(self.values.T)

    @cached_property
    def gene_ranks(self) -> Values:
        """(P, Q) ranks of the cells within each gene."""
        return average_ranks(self.by_gene)

    @cached_property
    def centred_ranks(self) -> Values:
        """(Q, P) ranks of the genes within each cell after subtracting the training mean."""
        return average_ranks(self.centred(self.values))

    def centred(self, values: Values) -> Values:
        """Subtract the training mean of each gene from (n, P) values."""
        return values - self.gene_stats.mean.astype(np.float32)

    def take_genes(self, genes: NDArray[np.int64]) -> Targets:
        """Select genes by ascending position."""
        values = np.ascontiguousarray(self.values[:, genes])
        return Targets(self.counts[:, genes], values, self.gene_stats.take_genes(genes), self.target_sum)
