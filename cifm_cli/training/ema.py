"""The exponential moving average of the weights: what is validated and kept where the recipe has `train.average`."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from cifm_cli.model.ensemble import Ensemble


class Average:
    """A second set of weights that follows the trained ones slowly.

    Args:
        network: Where it starts.
        decay: Share of itself that it keeps at every step.
    """

    def __init__(self, network: Ensemble, decay: float) -> None:
        self.network = deepcopy(network).requires_grad_(requires_grad=False)
        self.decay = decay

    @torch.no_grad()
    def follow(self, network: Ensemble, step: int) -> None:
        """Move towards the trained weights; faster in the first steps, so that the start is soon forgotten.

        Args:
            network: The trained weights.
            step: Steps done, this one included.
        """
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for mine, theirs in zip(self.network.parameters(), network.parameters(), strict=True):
            mine.lerp_(theirs, share)
