"""What a baseline may know: visible cells, the places of hidden ones, and training cells to learn from.

Letters: V visible cells, Q hidden cells, P genes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide

Settings = dict[str, float]
"""Hyper-parameters of a predictor by name."""

T = TypeVar("T")

_BLOCK = 50_000  # cells read at a time when a whole region is summed


@dataclass(frozen=True)
class Estimate:
    """What a predictor says of some cells.

    Args:
        mean: (Q, P) float32 log-normalised expression.
        share: (Q, P) float32 probability that the gene is expressed: for baselines, the share of neighbours that
            express it.
        composition: (Q, P) float32 expected share of a cell's counts in each gene, rows sum to 1 (or are 0: nothing
            known); where a predictor gives none, one is derived from mean and share.
        states: (Q, K) float32 probability of each cell state, from models that infer them.
    """

    mean: NDArray[np.float32]
    share: NDArray[np.float32]
    composition: NDArray[np.float32] | None = None
    states: NDArray[np.float32] | None = None

    def of_genes(self, genes: NDArray[np.int64]) -> Estimate:
        """The same cells, some of their genes."""
        composition = None if self.composition is None else self.composition.take(genes, axis=1)
        return Estimate(self.mean.take(genes, axis=1), self.share.take(genes, axis=1), composition, self.states)


@dataclass(frozen=True)
class Profile:
    """What is known of each gene from the training cells.

    Args:
        mean: (P,) mean log-normalised expression.
        share: (P,) share of expressing cells.
        counts: (P,) total counts.
    """

    mean: NDArray[np.float64]
    share: NDArray[np.float64]
    counts: NDArray[np.float64]

    @cached_property
    def composition(self) -> NDArray[np.float64]:
        """(P,) share of the counts in each gene; equal shares where there are no counts."""
        total = self.counts.sum()
        return self.counts / total if total else np.full(len(self.counts), 1 / len(self.counts))


def train_profile(slide: Slide, rows: Rows, columns: Rows, target_sum: float) -> Profile:
    """Sum up the training cells of a slide.

    Args:
        slide: Any slide.
        rows: Training cells, at least one.
        columns: (P,) columns of the slide.
        target_sum: Of the normalisation.

    Returns:
        The profile.
    """
    totals = np.zeros((3, len(columns)))
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        expression = slide.expression(block, target_sum)[:, columns]
        totals[0] += np.asarray(expression.sum(axis=0, dtype=np.float64)).ravel()
        totals[1] += expression.getnnz(axis=0)
        totals[2] += np.asarray(slide.counts(block)[:, columns].sum(axis=0, dtype=np.float64)).ravel()
    return Profile(totals[0] / len(rows), totals[1] / len(rows), totals[2])


class Example(NamedTuple):
    """Training cells hidden as scored cells are.

    Args:
        context: Their visible cells.
        query_um: (Q, 2) where they are.
        expression: (Q, P) what they are, log-normalised.
        counts: (Q, P) what they are, raw.
    """

    context: Context
    query_um: NDArray[np.float64]
    expression: csr_matrix
    counts: csr_matrix


@dataclass(frozen=True, eq=False)
class Practice:
    """What baselines that learn may learn from: examples in the training region, none of them of a scored cell.

    Args:
        draw: Makes the examples, one round of hidden cells each; none by default.
    """

    draw: Callable[[], Iterable[Example]] = tuple
    _learned: dict[str, Any] = field(default_factory=dict)

    def once(self, name: str, learn: Callable[[Iterable[Example]], T]) -> T:
        """What was learned under a name; learned when it is first asked for.

        Args:
            name: The baseline's.
            learn: Goes through the examples.

        Returns:
            What `learn` returned.
        """
        if name not in self._learned:
            self._learned[name] = learn(self.draw())
        return cast("T", self._learned[name])


@dataclass(frozen=True)
class Context:
    """What a baseline may use.

    Args:
        xy_um: (V, 2) places of the visible cells, void ones left out, micrometres.
        expression: (V, P) log-normalised.
        counts: (V, P) raw.
        training: The training cells, for who has no neighbours.
        radius_um: Radius of the graph.
        reach_um: Full receptive field of the model.
        practice: To learn from; empty in the examples themselves.
    """

    xy_um: NDArray[np.float64]
    expression: csr_matrix
    counts: csr_matrix
    training: Profile
    radius_um: float
    reach_um: float
    practice: Practice = field(default_factory=Practice)
    _made: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What was made of the visible cells under a name; made when it is first asked for."""
        if name not in self._made:
            self._made[name] = make()
        return cast("T", self._made[name])

    @cached_property
    def tree(self) -> cKDTree:
        """For neighbour searches."""
        return cKDTree(self.xy_um)

    @cached_property
    def expressed(self) -> csr_matrix:
        """(V, P) ones where a gene is expressed."""
        x = self.expression
        return csr_matrix((np.ones_like(x.data), x.indices, x.indptr), x.shape)
