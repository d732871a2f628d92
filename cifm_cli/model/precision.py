"""Precision of the network: float32, or bfloat16 for matrix products."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from cifm_cli.recipe_sections import Precision


def computing_in(precision: Precision, device: torch.device) -> torch.autocast:
    """Compute matrix products in the given precision, on any device.

    With bfloat16, these stay float32: weights, sums over neighbours, geometry, losses, and the features that a residual
    layer adds to.

    Args:
        precision: `float32` has no effect.
        device: Device of the network.

    Returns:
        A context manager to run the network in.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def precision_note(precision: Precision, device: torch.device) -> str | None:
    """What the user should know of a precision on a device: older GPUs compute bfloat16 in software.

    Args:
        precision: Precision of the network.
        device: Device of the network.

    Returns:
        A sentence, or None.
    """
    if precision != "bfloat16" or device.type != "cuda" or torch.version.hip:
        return None
    # Compute capability 8.0 (Ampere) is the first with bfloat16 in hardware.
    if torch.cuda.get_device_capability(device) >= (8, 0):
        return None
    return f"{torch.cuda.get_device_name(device)} has no bfloat16 in hardware: --precision float32 may be faster"
