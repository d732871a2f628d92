"""Precision of the network: float32, or bfloat16 for matrix products."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import torch

from cifm_cli.processor_time import measure_seconds, one_thread

if TYPE_CHECKING:
    from collections.abc import Callable

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


# Products of the size of a training step: cells of a tile by features, and by the four projections of a layer.
MEASURED_SIZES = (2048, 128, 512)
MEASURED_PRODUCTS = 12
MIN_SPEED_UP = 1.5  # products are a part of a step only, and a smaller gain is not worth the rounding


def faster_precision(device: torch.device) -> tuple[Precision, float]:
    """Find the faster precision for the matrix products of training on a device.

    On a CPU products of both kinds are measured, in one thread, which takes a tenth of a second. No two tiles have the
    same number of cells, and products in bfloat16 are prepared anew for every number: on some processors with bfloat16
    instructions, this costs more than they gain.

    Args:
        device: Device of the network.

    Returns:
        The precision, and how many times as fast as in float32 products in bfloat16 are; infinity on a GPU with
        bfloat16 in hardware, and 0 on other devices, which are not measured.
    """
    if device.type == "cuda":
        in_hardware = precision_note("bfloat16", device) is None
        return ("bfloat16", float("inf")) if in_hardware else ("float32", 0.0)
    if device.type != "cpu":
        return "float32", 0.0
    num_cells, width, num_outputs = MEASURED_SIZES
    features, weights = torch.ones(num_cells + MEASURED_PRODUCTS, width), torch.ones(width, num_outputs)
    half = weights.bfloat16()
    with one_thread():  # members of a network run on one thread each
        single = _median_time(lambda rows: features[:rows] @ weights)
        # Features are converted at every product, weights once per step.
        speed_up = single / _median_time(lambda rows: features[:rows].bfloat16() @ half)
    return ("bfloat16" if speed_up >= MIN_SPEED_UP else "float32"), speed_up


def _median_time(product: Callable[[int], object]) -> float:
    """Median processor time of products with different numbers of rows, in seconds."""
    fewest = MEASURED_SIZES[0]
    return statistics.median(measure_seconds(product, range(fewest - 1, fewest + MEASURED_PRODUCTS)))


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
