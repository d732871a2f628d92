"""What slide adaptation reads of a network beside its prediction, as NumPy arrays.

Letters: M cells, D features, T terms of the smoother, K cell states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from cifm_cli.inference.prediction import Prediction

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from cifm_cli.model.output import Output


@dataclass(frozen=True)
class NetworkFeatures:
    """Features of M cells."""

    last: NDArray[np.float32]  # (M, D) features that the maps to the genes read, all members side by side
    frequencies: NDArray[np.float32]  # (M, T, K) frequency of each cell state around the cell, for each term
    smoothed: Prediction  # of the smoother alone, before the corrections of the network

    @classmethod
    def of(cls, output: Output) -> Self:
        """Take the features of the output of a network with the objective `residual`."""
        smoothed = (output.smoothed_magnitude, output.smoothed_logit, output.smoothed_composition)
        magnitude, logit, composition = smoothed
        if output.features is None or output.frequencies is None or magnitude is None or logit is None:
            raise ValueError("the head of the paper has no features that a slide could be adapted by")

        def to_numpy(values: Tensor) -> NDArray[np.float32]:
            """Convert a tensor to float32 on the CPU."""
            array: NDArray[np.float32] = values.float().cpu().numpy()
            return array

        alone = output._replace(magnitude=magnitude, logit=logit, composition=composition)
        return cls(to_numpy(output.features), to_numpy(output.frequencies), Prediction.from_logits(alone))
