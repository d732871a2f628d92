"""What slide adaptation reads of a network beside its prediction, as NumPy arrays.

Letters: M cells, D features, T terms of the smoother, K cell states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

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

    @classmethod
    def of(cls, output: Output) -> Self:
        """Take the features of the output of a network with the objective `residual`."""
        if output.features is None or output.frequencies is None:
            raise ValueError("the head of the paper has no features that a slide could be adapted by")

        def to_numpy(values: Tensor) -> NDArray[np.float32]:
            array: NDArray[np.float32] = values.float().cpu().numpy()
            return array

        return cls(to_numpy(output.features), to_numpy(output.frequencies))
