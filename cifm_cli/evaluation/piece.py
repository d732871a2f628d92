"""Regions too large to be looked at as a whole: a compact piece of one, and what lies around it.

Rows follow a Hilbert curve, so a stretch of rows is a compact piece of tissue.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from cifm_cli.evaluation.protocols import hide, side_radii

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.evaluation.protocols import Round

CIRCLES_RADII = 20.0  # the widest circle of the baselines, with the squares that reach out of it
NEIGHBOURS_RADII = 10.0  # beyond a hidden block: within 5 stand about as many cells as any baseline counts


def too_large(slide: Slide, rows: Rows, most: int) -> bool:
    """Whether some cells have more counts, and so maybe more expressed genes, than are to be looked at together."""
    return float(slide.total_counts[rows].sum()) > most


def margin_um(geometry: str, radius_um: float, reach_um: float) -> float:
    """How far around a piece cells matter: as far as models and circles reach, and well beyond the hidden blocks.

    Args:
        geometry: Of `protocols`.
        radius_um: Radius of the graph.
        reach_um: Full receptive field of the model that looks furthest.

    Returns:
        Micrometres.
    """
    return max(reach_um, CIRCLES_RADII * radius_um, (side_radii(geometry) + NEIGHBOURS_RADII) * radius_um)


def around(xy_um: NDArray[np.float64], core: Rows, rows: Rows, far_um: float) -> Rows:
    """Find the cells of a piece and near it.

    Args:
        xy_um: (N, 2) places of all cells of the slide, micrometres.
        core: Rows of the piece, at least one.
        rows: Ascending rows among which to look.
        far_um: Micrometres.

    Returns:
        Those of `rows` that stand at most that far from a cell of the piece.
    """
    low, high = xy_um[core].min(axis=0) - far_um, xy_um[core].max(axis=0) + far_um
    rows = rows[((xy_um[rows] >= low) & (xy_um[rows] <= high)).all(axis=1)]
    distance, _ = cKDTree(xy_um[core]).query(xy_um[rows], distance_upper_bound=np.nextafter(far_um, np.inf))
    return np.asarray(rows[np.isfinite(distance)])


def hide_around(
    slide: Slide, geometry: str, core: Rows, rows: Rows, far_um: float, seed: int, others: Rows | None = None
) -> list[Round]:
    """Rounds of a piece of a region and its margin, that infer the piece alone.

    Cells of the margin are hidden as those of the piece are, so that nobody at its edge sees more than elsewhere; hidden,
    they are in nobody's sight.

    Args:
        slide: At the radius of the graph.
        geometry: Of `protocols`.
        core: Ascending rows of the piece.
        rows: Ascending rows of the region.
        far_um: Width of the margin.
        seed: The user's seed.
        others: Ascending rows outside of the region that are visible in every round; none when absent.

    Returns:
        Rounds that hide each cell of the piece once; they are numbered anew.
    """
    near = around(slide.xy_um, core, rows, far_um)
    near_others = None if others is None else around(slide.xy_um, core, others, far_um)
    rounds = hide(geometry, slide.xy_um, near, slide.radius_um, seed, near_others)
    inner = [replace(part, hidden=np.intersect1d(part.hidden, core, assume_unique=True)) for part in rounds]
    return [replace(part, number=number) for number, part in enumerate(part for part in inner if len(part.hidden))]
