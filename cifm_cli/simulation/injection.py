"""Injection: which cells are put into a tissue, and where (paper, section 5).

Letters: N cells of the tissue, K injected cells, G genes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.simulation.donors import Donors


@dataclass(frozen=True)
class Injection:
    """Cells put into a tissue; they stay as and where they are.

    Args:
        xy_um: (K, 2) micrometres.
        counts: (K, G) counts.
        total_counts: (K,) depth that normalisation divides by.
    """

    xy_um: NDArray[np.float64]
    counts: csr_matrix
    total_counts: NDArray[np.float64]


def draw_injection(
    donors: Donors, tissue_um: NDArray[np.float64], number: int, within_um: float, generator: np.random.Generator
) -> Injection:
    """Copy donors, drawn with replacement, to random places of the tissue.

    Args:
        donors: At least one, unless `number` is 0.
        tissue_um: (N, 2) cells of the tissue.
        number: K.
        within_um: A place is inside the tissue where a cell is at most so far away.
        generator: Source of randomness.

    Returns:
        The injection.
    """
    places = draw_places(tissue_um, number, within_um, generator)
    chosen = generator.integers(donors.counts.shape[0], size=number) if number else np.empty(0, dtype=np.int64)
    return Injection(places, donors.counts[chosen], donors.total_counts[chosen])


def draw_places(
    tissue_um: NDArray[np.float64], number: int, within_um: float, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Draw places uniformly from the tissue, the union of discs around its cells.

    A place is drawn in the disc of a random cell; one that lies in m discs would come up m times too often, so it is
    kept with probability 1 / m.

    Args:
        tissue_um: (N, 2) cells, micrometres.
        number: How many.
        within_um: Radius of the discs.
        generator: Source of randomness.

    Returns:
        (number, 2) micrometres.
    """
    tree = cKDTree(tissue_um)
    kept: list[NDArray[np.float64]] = [np.empty((0, 2))]
    while (missing := number - sum(map(len, kept))) > 0:
        centres = tissue_um[generator.integers(len(tissue_um), size=missing)]
        distance = within_um * np.sqrt(generator.random(missing))
        angle = 2 * np.pi * generator.random(missing)
        places = centres + distance[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
        num_discs = tree.query_ball_point(places, within_um, return_length=True)
        kept.append(places[generator.random(missing) * num_discs < 1])
    return np.concatenate(kept)
