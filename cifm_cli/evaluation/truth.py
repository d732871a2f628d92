"""What was hidden, with everything that is computed of it once.

Letters: Q scored cells, P genes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.evaluation.context import Profile
from cifm_cli.evaluation.ranking import average_ranks

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    Values = NDArray[np.float32]


@dataclass(frozen=True)
class Truth:
    """What was hidden.

    Args:
        counts: (Q, P) raw counts.
        values: (Q, P) log-normalised expression.
        training: Profile of the training cells, for the deviance.
        target_sum: Of the normalisation, for the deviance.
    """

    counts: csr_matrix
    values: Values
    training: Profile
    target_sum: float

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
        """(Q, P) ranks of the genes within each cell by how far they lie above their training mean."""
        return average_ranks(self.centred(self.values))

    def centred(self, values: Values) -> Values:
        """Subtract the training mean.

        Args:
            values: (n, P).

        Returns:
            (n, P).
        """
        return values - self.training.mean.astype(np.float32)

    def of_genes(self, genes: NDArray[np.int64]) -> Truth:
        """The same cells, some of their genes.

        Args:
            genes: Ascending positions among the P.

        Returns:
            Their truth.
        """
        known = self.training
        profile = Profile(known.mean[genes], known.share[genes], known.counts[genes])
        return Truth(self.counts[:, genes], np.ascontiguousarray(self.values[:, genes]), profile, self.target_sum)
