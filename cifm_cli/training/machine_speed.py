"""What decides how long training takes on a CPU: its speed in matrix products and in moving memory.

Shared machines with the same processor differ in both, most of all in memory, so that minutes measured on one machine say
little about another.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch

from cifm_cli.model.precision import MIN_SPEED_UP
from cifm_cli.processor_time import measure_seconds, one_thread

if TYPE_CHECKING:
    from collections.abc import Callable

PRODUCT_SIZES = (3000, 128, 512)  # cells of a tile with its halo, features, and the four projections of a layer
COPY_BYTES = 1 << 28  # more than any cache holds
REPEATS = 5  # the fastest counts: other programs took the caches from the others
# Time of one core for a step of the recipe `xenium` on a tile of 1,216 cells and 377 genes: products go with their speed in the
# faster precision, edges with that of products in float32, and all else with that of memory. Products and edges were told
# apart by steps in both precisions, the rest by two machines: an estimate and no more.
PRODUCTS_GFLOP, EDGES_GFLOP, MOVED_GB = 3.6, 4.6, 1.2
BUSY_CORES = 1.4  # while the network takes a step on one core, another one makes the next tile, which is shorter work


@dataclass(frozen=True)
class MachineSpeed:
    """Speed of one core."""

    float32_gflops: float  # matrix products in float32, 1e9 operations per second
    bfloat16_gflops: float  # matrix products in bfloat16
    copy_gb_per_s: float  # bytes read and written by a copy, 1e9 per second

    def step_seconds(self, cores: int) -> float:
        """Estimated time of a training step of the recipe `xenium`, in seconds.

        Args:
            cores: Number of cores that nothing else uses.
        """
        uses_half = self.bfloat16_gflops >= MIN_SPEED_UP * self.float32_gflops
        products_gflops = self.bfloat16_gflops if uses_half else self.float32_gflops
        of_one_core = (
            PRODUCTS_GFLOP / products_gflops + EDGES_GFLOP / self.float32_gflops + MOVED_GB / self.copy_gb_per_s
        )
        return of_one_core / (BUSY_CORES if cores > 1 else 1)

    def to_json(self) -> dict[str, float]:
        """The speeds with three digits."""
        return {name: float(f"{value:.3g}") for name, value in asdict(self).items()}


def measure_speed() -> MachineSpeed:
    """Measure one core of this machine, in about a second.

    Returns:
        Its speeds. Other programs on the machine lower them.
    """
    num_cells, width, num_outputs = PRODUCT_SIZES
    num_operations = 2 * num_cells * width * num_outputs
    features, weights = torch.ones(num_cells, width), torch.ones(width, num_outputs)
    half_features, half_weights = features.bfloat16(), weights.bfloat16()
    source = torch.ones(COPY_BYTES // 8)  # float32; half of the bytes are read, half are written
    target = torch.empty_like(source)
    with one_thread():
        return MachineSpeed(
            float32_gflops=num_operations / _shortest(lambda _: features @ weights) / 1e9,
            bfloat16_gflops=num_operations / _shortest(lambda _: half_features @ half_weights) / 1e9,
            copy_gb_per_s=COPY_BYTES / _shortest(lambda _: target.copy_(source)) / 1e9,
        )


def _shortest(function: Callable[[int], object]) -> float:
    """Shortest processor time of a call, in seconds."""
    return min(measure_seconds(function, [PRODUCT_SIZES[0]] * (1 + REPEATS)))
