"""The prediction of masked cells, as NumPy arrays: one class from the output of the network to the metrics.

Letters: Q cells, P genes, K cell states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from cifm_cli.data.slide import Rows
    from cifm_cli.model.output import Output


@dataclass(frozen=True)
class Prediction:
    """Predicted expression of Q cells and P genes. The caller knows which cells and genes the rows and columns are."""

    mean: NDArray[np.float32]  # (Q, P) float32 log-normalised expression, not negative
    expressed: NDArray[np.float32]  # (Q, P) float32 P(expressed)
    # (Q, P) float32 expected fraction of a cell's counts in each gene; rows sum to 1 (to less after gating, and to 0
    # where nothing is known). None if the predictor has no composition.
    composition: NDArray[np.float32] | None = None
    # (Q, K) float32 probability of each cell state. None if the predictor has no states.
    states: NDArray[np.float32] | None = None

    @classmethod
    def from_logits(cls, output: Output) -> Prediction:
        """Convert the output of a network.

        Args:
            output: Output for Q cells and P genes, on any device and in any precision.

        Returns:
            The mean clipped at zero, and probabilities in place of logits.
        """

        def to_numpy(values: Tensor) -> NDArray[np.float32]:
            """Convert a tensor to float32 on the CPU."""
            # NumPy has no bfloat16.
            array: NDArray[np.float32] = values.float().cpu().numpy()
            return array

        # Log-normalised expression is not negative, but the linear output may be.
        mean, expressed = to_numpy(output.magnitude.clamp(min=0)), to_numpy(output.logit.sigmoid())
        if output.composition is None or output.state is None:
            return cls(mean, expressed)
        return cls(mean, expressed, to_numpy(output.composition.softmax(1)), to_numpy(output.state.softmax(1)))

    @property
    def num_cells(self) -> int:
        """Q."""
        return len(self.mean)

    def gated(self, threshold: float) -> Prediction:
        """Set mean, P(expressed) and composition to zero where P(expressed) is at most `threshold`."""
        # Rows of the composition are not normalised again: a gene that passes keeps its predicted fraction.
        passed = self.expressed > threshold
        composition = None if self.composition is None else self.composition * passed
        return Prediction(self.mean * passed, self.expressed * passed, composition, self.states)

    def median(self, target_sum: float) -> NDArray[np.float32]:
        """Median of a distribution that is zero, or one level with probability P(expressed).

        The median is zero where P(expressed) is at most 1/2. Elsewhere it is the level, mean / P(expressed), which is
        the mean of the cells that express the gene. The scatter around this level is not predicted: just above 1/2
        the true median is lower, because few of the expressing cells lie below it.

        Args:
            target_sum: Sum of the normalised counts of a cell. No level exceeds log1p(target_sum), the level of a cell
                that expresses one gene alone.

        Returns:
            (Q, P), not negative.
        """
        # The lower limit of 1/2 avoids a division by zero; entries below it are set to zero in the next line.
        level = np.minimum(self.mean / np.maximum(self.expressed, np.float32(0.5)), np.float32(np.log1p(target_sum)))
        return np.where(self.expressed > 0.5, level, np.float32(0))

    def take_genes(self, columns: NDArray[np.int64]) -> Prediction:
        """Select genes by column. The states are those of the whole cell and stay."""
        composition = None if self.composition is None else self.composition.take(columns, axis=1)
        return Prediction(
            self.mean.take(columns, axis=1), self.expressed.take(columns, axis=1), composition, self.states
        )

    def take_cells(self, rows: Rows) -> Prediction:
        """Select cells by row, in the order of `rows`."""
        composition = None if self.composition is None else self.composition.take(rows, axis=0)
        states = None if self.states is None else self.states.take(rows, axis=0)
        return Prediction(self.mean.take(rows, axis=0), self.expressed.take(rows, axis=0), composition, states)

    @classmethod
    def concatenate(cls, predictions: Sequence[Prediction], order: Rows) -> Prediction:
        """Join predictions of different cells.

        Args:
            predictions: Predictions of one predictor and of the same genes, at least one.
            order: (Q,) row of each cell of the result in the concatenated predictions.

        Returns:
            The prediction of all cells, in that order.
        """
        # One predictor gives all of its predictions a composition, or none of them.
        compositions = [prediction.composition for prediction in predictions if prediction.composition is not None]
        states = [prediction.states for prediction in predictions if prediction.states is not None]
        return cls(
            np.concatenate([prediction.mean for prediction in predictions])[order],
            np.concatenate([prediction.expressed for prediction in predictions])[order],
            np.concatenate(compositions)[order] if compositions else None,
            np.concatenate(states)[order] if states else None,
        )
