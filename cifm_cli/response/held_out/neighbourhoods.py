"""Cells of one label, and what the cells of all other labels around them are and express.

Letters: Q cells of the label, N cells of other labels, G genes, L labels, K radii.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.response.surroundings import LabelledCells

    Numbers = NDArray[np.float64]

RADII: Final = (2.0, 5.0, 12.0)  # of the neighbourhoods, in radii of the graph
MIN_COUNTS: Final = 50.0  # of a gene in the cells of the sample of the label; rarer genes are left out
PRIOR_COUNTS: Final = 5.0  # added to observed and expected counts of neighbours


@dataclass(frozen=True)
class Neighbours:
    """The cells of all other labels, with the genes that are compared."""

    counts: csr_matrix  # (N, G)
    depth: Numbers  # (N,) total counts, relative to the median of the slide
    codes: NDArray[np.int64]  # (N,) their labels
    means: Numbers  # (L, G) counts at a depth of one, by label


@dataclass(frozen=True)
class Neighbourhoods:
    """Cells of a label with what surrounds them."""

    rows: Rows  # (Q,) rows of the slide
    xy_um: Numbers  # (Q, 2) positions
    genes: NDArray[np.int64]  # (G,) columns of the slide
    depth: Numbers  # (Q,) total counts, relative to the median of the slide
    rates: Numbers  # (Q, G) counts divided by the depth
    shifts: Numbers  # (K, Q, G) by which the neighbours' counts exceed those expected of their labels, a fraction
    composition: Numbers  # (Q, K L) fractions of the labels among the neighbours at each radius
    adjacent: Numbers  # (Q, G) rates of the neighbours within the smallest radius, all labels together
    near: csr_matrix  # (Q, N) ones for the neighbours within the largest radius
    neighbours: Neighbours
    near_own: csr_matrix  # (Q, Q) ones for the other cells of the label within the largest radius


def relative_depth(slide: Slide) -> Numbers:
    """(N,) total counts of all cells of a slide, relative to the median of those that are not empty."""
    return np.asarray(slide.total_counts / np.median(slide.total_counts[slide.total_counts > 0]))


def cells_of_others(slide: Slide, cells: LabelledCells, code: int) -> Rows:
    """Rows of the cells of all other labels, which serve as neighbours."""
    return np.flatnonzero((cells.codes >= 0) & (cells.codes != code) & (slide.total_counts > 0))


def describe(slide: Slide, cells: LabelledCells, code: int, rows: Rows, sample: Rows) -> Neighbourhoods:
    """Read cells of a label and what surrounds them.

    Args:
        slide: The slide.
        cells: Its cells with their labels.
        code: The label.
        rows: (Q,) cells of the label.
        sample: Some of them, in which a gene must have `MIN_COUNTS`.

    Returns:
        The cells with their neighbourhoods, in which no cell of the label is a neighbour.
    """
    counts = slide.counts(rows)
    genes = np.flatnonzero(np.asarray(slide.counts(sample).sum(axis=0)).ravel() >= MIN_COUNTS)
    depth = relative_depth(slide)
    others = cells_of_others(slide, cells, code)
    neighbours = _neighbours(slide.counts(others)[:, genes], depth[others], cells.codes[others], len(cells.names))
    member = csr_matrix((neighbours.depth, (np.arange(len(others)), neighbours.codes)), (len(others), len(cells.names)))
    shifts, composition, adjacent = [], [], np.empty(0)
    for radius in RADII:
        near = adjacency(slide.xy_um[rows], slide.xy_um[others], radius * slide.radius_um)
        observed = np.asarray((near @ neighbours.counts).todense(), dtype=np.float64)
        labels = np.asarray((near @ member).todense())
        shifts.append((observed + PRIOR_COUNTS) / (labels @ neighbours.means + PRIOR_COUNTS) - 1)
        total = labels.sum(axis=1, keepdims=True)
        composition.append(labels / np.maximum(total, 1e-9))
        if radius == RADII[0]:
            adjacent = observed / np.maximum(total, 1.0)
    return Neighbourhoods(
        rows=rows,
        xy_um=slide.xy_um[rows],
        genes=genes,
        depth=depth[rows],
        rates=counts[:, genes].toarray().astype(np.float64) / depth[rows, None],
        shifts=np.stack(shifts),
        composition=np.concatenate(composition, axis=1),
        adjacent=adjacent,
        near=near,
        neighbours=neighbours,
        near_own=adjacency(slide.xy_um[rows], slide.xy_um[rows], RADII[-1] * slide.radius_um),
    )


def _neighbours(counts: csr_matrix, depth: Numbers, codes: NDArray[np.int64], num_labels: int) -> Neighbours:
    of_label = csr_matrix((np.ones(len(codes)), (codes, np.arange(len(codes)))), (num_labels, len(codes)))
    sums = np.asarray((of_label @ counts).todense())
    return Neighbours(counts, depth, codes, (sums + 0.5) / ((of_label @ depth)[:, None] + 1.0))


def adjacency(at_um: Numbers, cells_um: Numbers, radius_um: float) -> csr_matrix:
    """(Q, N) ones where a cell is within the radius of a place, and not at it."""
    found = cKDTree(at_um).sparse_distance_matrix(cKDTree(cells_um), radius_um, output_type="coo_matrix").tocsr()
    found.data = (found.data > 0).astype(np.float64)
    found.eliminate_zeros()
    return found


def weighted_mean(rates: Numbers, depth: Numbers) -> Numbers:
    """(G,) mean of the rates of some cells, weighted by the depth."""
    return np.asarray(depth @ rates / depth.sum())
