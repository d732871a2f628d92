"""The content of a slide, read once before it is evaluated: what its values are, and which cells occur twice.

Letters: N cells, G genes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from cifm_cli.data.cell_sketch import BLOCK_CELLS, recognisable_checksums
from cifm_cli.data.checksums import gene_keys
from cifm_cli.data.counts_source import row_sums
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide

NUM_NEIGHBOURS = 4  # over which expression is averaged when it is compared with that of their neighbour
NUM_PERMUTATIONS = 5  # random neighbourhoods for each cell, whose similarity is that of unrelated cells
NUM_SAMPLED, PIECE_CELLS = 2_000, 100  # cells whose neighbours are compared, in pieces of consecutive rows
# Two cells cannot be nearer than this fraction of the median distance between neighbours: in real sections, the smallest
# distance among 100,000 cells is 0.15 of it.
MIN_DISTANCE = 0.05


@dataclass(frozen=True)
class SlideContent:
    """What the counts of a slide are like."""

    checksums: NDArray[np.uint64]  # (N,) checksum of each cell; 0 for cells that cannot be recognised
    expressed: NDArray[np.float64]  # (G,) fraction of cells that express each gene
    num_fractional: int  # cells with a value that is not a whole number
    num_above_total: int  # cells whose counts sum to more than their total count
    num_values: int  # stored values above 0
    num_ones: int  # stored values of 1
    depths: NDArray[np.float32]  # (N,) sum of the counts


def read_content(slide: Slide) -> SlideContent:
    """Read all counts of a slide, in ranges of rows.

    Args:
        slide: The slide.

    Returns:
        Its content.
    """
    keys = gene_keys(slide.gene_ids)
    checksums, depths = np.zeros(slide.num_cells, np.uint64), np.zeros(slide.num_cells, np.float32)
    expressing = np.zeros(slide.num_genes)
    num_fractional = num_above = num_values = num_ones = 0
    for start in range(0, slide.num_cells, BLOCK_CELLS):
        rows = np.arange(start, min(start + BLOCK_CELLS, slide.num_cells))
        counts = slide.counts(rows)
        sums = row_sums(counts)
        checksums[rows], depths[rows] = recognisable_checksums(counts, keys), sums
        expressing += np.bincount(counts.indices, minlength=slide.num_genes)
        is_fractional = np.floor(counts.data) != counts.data
        if is_fractional.any():
            owners = np.repeat(np.arange(len(rows)), np.diff(counts.indptr))
            num_fractional += len(np.unique(owners[is_fractional]))
        # Totals are sums of whole numbers: half a count is more than any rounding.
        num_above += int((sums > slide.total_counts[rows] + 0.5).sum())
        num_values += counts.nnz
        num_ones += int((counts.data == 1).sum())
    expressed = expressing / slide.num_cells
    return SlideContent(checksums, expressed, num_fractional, num_above, num_values, num_ones, depths)


def is_repeated(checksums: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """(N,) whether another cell has the same counts; false for cells that cannot be recognised."""
    order = np.argsort(checksums, kind="stable")
    ordered = checksums[order]
    same = (ordered[1:] == ordered[:-1]) & (ordered[1:] > 0)
    repeated = np.zeros(len(checksums), dtype=bool)
    repeated[order[1:][same]] = True
    repeated[order[:-1][same]] = True
    return repeated


def has_same_place(xy_um: NDArray[np.float64], rows: Rows) -> tuple[NDArray[np.bool_], float]:
    """Find cells that lie where another cell lies.

    Args:
        xy_um: (N, 2) cell centres, micrometres.
        rows: (n,) cells to look at.

    Returns:
        (n,) whether another cell is nearer than two cells can be, and this distance in micrometres.
    """
    if len(xy_um) < 2:
        return np.zeros(len(rows), dtype=bool), 0.0
    distance_um, _ = cKDTree(xy_um, balanced_tree=False, compact_nodes=False).query(xy_um[rows], k=2)
    nearest_um = distance_um[:, 1]
    # Of cells that have a place of their own: if every cell had a double, the median distance would be 0.
    apart = nearest_um[nearest_um > 0]
    limit_um = MIN_DISTANCE * float(np.median(apart)) if len(apart) else 0.0
    return nearest_um <= limit_um, limit_um


def neighbour_similarity(slide: Slide, seed: int) -> tuple[int, float]:
    """Test whether the expression of cells is similar to that of their neighbours.

    The statistic is that of Moran's I, summed over genes: the product of the centred expression of a cell and the mean of its
    nearest cells. Its distribution for unrelated cells is that of random neighbourhoods.

    Args:
        slide: The slide.
        seed: Seed of the random neighbourhoods.

    Returns:
        Number of cells that were compared with their neighbours, and the standard score of the mean similarity.
    """
    present = np.flatnonzero(slide.total_counts > 0)
    if len(present) <= NUM_NEIGHBOURS + 1:
        return 0, 0.0
    # Pieces of consecutive rows, as these are read together.
    starts = np.linspace(0, max(len(present) - PIECE_CELLS, 0), NUM_SAMPLED // PIECE_CELLS).astype(np.int64)
    sampled = np.unique(np.minimum(starts[:, None] + np.arange(PIECE_CELLS), len(present) - 1))
    tree = cKDTree(slide.xy_um[present], balanced_tree=False, compact_nodes=False)
    _, near = tree.query(slide.xy_um[present[sampled]], k=NUM_NEIGHBOURS + 1)
    near = present[near]
    needed = np.unique(np.concatenate([near.ravel(), present[sampled]]))
    # Any common sum: genes are only compared with themselves.
    expression = slide.expression(needed, 1e4)
    own = expression[np.searchsorted(needed, present[sampled])]
    mean = np.asarray(own.mean(axis=0)).ravel()
    own_dot = own @ mean

    def similarity(neighbours: Rows) -> NDArray[np.float64]:
        """(n,) product of centred expression with that of one neighbour of each cell."""
        other = expression[np.searchsorted(needed, neighbours)]
        product = np.asarray(own.multiply(other).sum(axis=1), dtype=np.float64).ravel()
        centred: NDArray[np.float64] = product - own_dot - other @ mean + mean @ mean
        return centred

    # The cell itself is usually the first; it is not if others lie at its place.
    is_self = near == present[sampled][:, None]
    is_self[~is_self.any(axis=1), -1] = True
    others = near[~is_self].reshape(len(near), NUM_NEIGHBOURS)
    by_neighbour = np.stack([similarity(column) for column in others.T])
    generator = numpy_generator(seed, "neighbour similarity")
    orders = [generator.permutation(len(near)) for _ in range(NUM_PERMUTATIONS)]
    unrelated = np.stack([np.mean([similarity(column[order]) for column in others.T], axis=0) for order in orders])
    spread = float(unrelated.std()) or 1.0
    score = (by_neighbour.mean() - unrelated.mean()) / (spread / np.sqrt(len(near)))
    return len(near), float(score)
