"""Injected cells: copies of source cells at random positions in the tissue (paper, section 5).

Letters: N cells of the tissue, K injected cells, P genes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.simulation.source_cells import SourceCells


@dataclass(frozen=True)
class InjectedCells:
    """Cells that are added to a tissue. No update changes them."""

    xy_um: NDArray[np.float64]  # (K, 2) positions, micrometres
    counts: csr_matrix  # (K, P) counts
    total_counts: NDArray[np.float64]  # (K,) depths that normalisation divides by


def draw_injected_cells(
    source: SourceCells, tissue_um: NDArray[np.float64], count: int, within_um: float, generator: np.random.Generator
) -> InjectedCells:
    """Copy source cells, drawn with replacement, to random positions in the tissue.

    Args:
        source: Cells to copy; at least one, unless `count` is 0.
        tissue_um: (N, 2) positions of the cells of the tissue, micrometres.
        count: Number of injected cells, K.
        within_um: Largest distance from an injected cell to the nearest cell of the tissue.
        generator: Source of randomness.

    Returns:
        The injected cells.
    """
    positions = draw_positions(tissue_um, count, within_um, generator)
    chosen = generator.integers(source.counts.shape[0], size=count) if count else np.empty(0, dtype=np.int64)
    return InjectedCells(positions, source.counts[chosen], source.total_counts[chosen])


def draw_positions(
    tissue_um: NDArray[np.float64], count: int, within_um: float, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Draw positions uniformly from the union of discs around the cells of a tissue, by rejection sampling.

    Args:
        tissue_um: (N, 2) positions of the cells, micrometres.
        count: Number of positions.
        within_um: Radius of the discs.
        generator: Source of randomness.

    Returns:
        (count, 2) micrometres.
    """
    tree = cKDTree(tissue_um)
    accepted: list[NDArray[np.float64]] = [np.empty((0, 2))]
    while (missing := count - sum(map(len, accepted))) > 0:
        centres = tissue_um[generator.integers(len(tissue_um), size=missing)]
        # The area of a disc grows with the square of its radius, hence the square root.
        distance = within_um * np.sqrt(generator.random(missing))
        angle = 2 * np.pi * generator.random(missing)
        proposals = centres + distance[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
        # A proposal is drawn in the disc of a random cell, so a position in m discs is proposed m times as often as one
        # in a single disc. It is accepted with probability 1 / m.
        num_discs = tree.query_ball_point(proposals, within_um, return_length=True)
        accepted.append(proposals[generator.random(missing) * num_discs < 1])
    return np.concatenate(accepted)
