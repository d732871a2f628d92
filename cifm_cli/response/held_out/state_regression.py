"""How each gene of the label depends on the state of a region: a kernel regression for what the signals leave.

The state is the composition of the neighbourhoods, and the leading directions in which the neighbours' genes shift. Regions of
similar states have similar residuals, gene by gene.

Letters: R regions, T fitted regions, n inferred regions, G genes, K radii, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows
    from cifm_cli.response.held_out.regions import Regions
    from cifm_cli.response.held_out.signals import Split

    Numbers = NDArray[np.float64]

NUM_DIRECTIONS: Final = 10
CLIP: Final = 3.0  # standard deviations, beyond which a shift does not count
MAX_DEPTH: Final = 200.0  # of a region, as the means of large regions differ by more than the noise of counts
PENALTIES: Final = (3.0, 30.0)  # relative to the mean weight of a region
LEAST_SHARE: Final = 0.02  # of the rate elsewhere, the smallest rate


@dataclass(frozen=True)
class RegionStates:
    """Features of regions, in two blocks of the same weight."""

    blocks: tuple[Numbers, ...]  # each (R, F)

    @classmethod
    def describe(cls, regions: Regions, base: Numbers) -> RegionStates:
        """Describe regions by the composition and the shifts of the neighbours; (G,) rates elsewhere weigh the genes."""
        shifts = np.concatenate([np.log1p(shift) * np.sqrt(base) for shift in regions.shifts[1:]], axis=1)
        limit = CLIP * shifts.std()
        shifts = np.clip(shifts, -limit, limit)
        shifts -= shifts.mean(axis=0)
        size, axes = np.linalg.eigh(shifts @ shifts.T)
        directions = axes[:, -NUM_DIRECTIONS:] * np.sqrt(np.maximum(size[-NUM_DIRECTIONS:], 0.0))
        return cls((np.sqrt(regions.composition), directions))

    def kernel(self, fitted: Rows, weight: Numbers) -> Numbers:
        """(R, T) similarities of all regions to the fitted ones, which have a (T,) weight; centred, of a mean of one."""
        share = weight / weight.sum()
        total = np.zeros((len(self.blocks[0]), len(fitted)))
        for block in self.blocks:
            centred = block - share @ block[fitted]
            norm = (centred**2).sum(axis=1)
            distance = np.maximum(norm[:, None] + norm[fitted] - 2 * centred @ centred[fitted].T, 0.0)
            total += np.exp(-distance / (2 * np.median(distance[fitted]) + 1e-12))
        total = total - (total @ share)[:, None] - share @ total[fitted] + share @ total[fitted] @ share
        return np.asarray(total / max(float(np.trace(total[fitted])) / len(fitted), 1e-12))


def state_changes(split: Split, states: RegionStates, of_signals: Numbers, rows: Rows) -> list[Numbers]:
    """Infer by how much regions differ from what the signals say of them.

    Args:
        split: The regions that are fitted to.
        states: Features of all regions.
        of_signals: (R, G) changes of log rates that the signals say.
        rows: (n,) regions to infer.

    Returns:
        For each of `PENALTIES`, (n, G) changes of log rates beyond those of the signals.
    """
    base, depth = split.base, split.regions.depth
    scale = np.sqrt(base + split.floor)  # residuals in this unit have the same noise for all genes
    said = base * np.exp(of_signals)
    fitted = np.flatnonzero(split.fitted)
    residual = (split.regions.rates[fitted] - said[fitted]) / scale
    weight = np.minimum(depth[fitted], MAX_DEPTH)
    kernel = states.kernel(fitted, weight)
    root = np.sqrt(weight)
    size, axes = np.linalg.eigh(root[:, None] * kernel[fitted] * root)
    size, onto = np.maximum(size, 0.0), axes.T @ (root[:, None] * residual)
    found = []
    for penalty in PENALTIES:
        solved = axes @ (onto / (size + penalty * weight.mean())[:, None])
        rates = said[rows] + scale * ((kernel[rows] * root) @ solved)
        found.append(np.log(np.maximum(rates, LEAST_SHARE * base) / base) - of_signals[rows])
    return found
