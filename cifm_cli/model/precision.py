"""Precision of the network: float32, or bfloat16 for matrix products."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import torch

from cifm_cli.model.products import product
from cifm_cli.processor_time import measure_seconds, one_thread

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


# A product of the size of a training step: cells of a tile by features, and by the four projections of a layer.
MEASURED_SIZES = (2048, 128, 512)
MEASURED_PRODUCTS = 12
MIN_SPEED_UP = 1.5  # products are a part of a step only, and a smaller gain is not worth the rounding


def faster_precision(device: torch.device) -> tuple[Precision, float]:
    """Find the faster precision for the matrix products of training on a device.

    On a CPU, products with their gradients are measured in both, in one thread, which takes a tenth of a second.

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
    speed_up = _median_time("float32") / _median_time("bfloat16")
    return ("bfloat16" if speed_up >= MIN_SPEED_UP else "float32"), speed_up


def _median_time(precision: Precision) -> float:
    """Median processor time of a product on the CPU and its gradients, in seconds."""
    num_cells, width, num_outputs = MEASURED_SIZES
    features = torch.ones(num_cells, width, requires_grad=True)
    weights = torch.ones(num_outputs, width, requires_grad=True)
    device = features.device

    def multiply(num_rows: int) -> None:
        """Compute a product of so many cells, and its gradients."""
        with computing_in(precision, device):
            y = product(features[:num_rows], weights)
        torch.autograd.grad(y, [features, weights], torch.ones_like(y))

    with one_thread():  # members of a network run on one thread each
        # Numbers of cells that differ, as those of tiles do.
        return statistics.median(measure_seconds(multiply, range(num_cells - MEASURED_PRODUCTS, num_cells + 1)))


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
