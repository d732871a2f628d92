"""In which precision the network computes: float32, or bfloat16 where that is precise enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from cifm_cli.recipe_sections import Precision


def computing_in(precision: Precision, device: torch.device) -> torch.autocast:
    """Compute matrix products in a precision, on any device.

    In bfloat16 the weights stay float32, and so do sums over neighbours, geometry, losses and what a layer adds to.

    Args:
        precision: `float32` leaves everything as it is.
        device: Where the network is.

    Returns:
        A context to run the network in.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")
