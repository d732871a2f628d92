"""The exponential moving average of the weights, which recipes with `train.average` validate and save."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from cifm_cli.model.ensemble import Ensemble


class EMA:
    """A copy of a network whose weights are an exponential moving average of the trained ones.

    Args:
        network: The trained network; the average starts at its weights.
        decay: Fraction of the average that remains after a step.
    """

    def __init__(self, network: Ensemble, decay: float) -> None:
        self.network = deepcopy(network).requires_grad_(requires_grad=False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: Ensemble, step: int) -> None:
        """Move the average towards the trained weights.

        Args:
            network: The trained network.
            step: Number of steps taken, this one included.
        """
        # Less decay in the first steps, so that the initial weights soon have little effect on the average.
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        # Buffers need no average: gene profiles and cell states are fitted before the first step and stay as they are.
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), weight)
