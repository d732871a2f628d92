"""Sketches of cells: a small sample of checksums, by which cells are recognised in other files and under other names.

A cell is recognised by its counts, in any order of the genes, and by its place, where places are not those of a regular
grid. A sketch holds the smallest checksums of a region (bottom-k sketch, Cohen and Kaplan 2007): which cells it holds does
not depend on the file that they are in, so the fraction of a region that is in another one can be estimated without bias.

Letters: N cells, G genes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import gammaln

from cifm_cli.data.checksums import cell_checksums, gene_keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.data.slide import Rows, Slide

    Checksums = NDArray[np.uint64]

NUM_COUNTS = 1 << 15  # checksums of counts in a sketch, 256 kB
NUM_PLACES = 1 << 13  # checksums of places
# No two cells of 300,000 in five real sections that express so many genes have the same counts, even where the median is
# 7 counts; of the cells that express fewer, hundreds do.
MIN_GENES = 6
MIN_BITS = (
    40.0  # logarithm of the number of cells with as many genes and counts: on small panels, more genes are needed
)
BLOCK_CELLS = 20_000  # cells that are read at a time
# Chance explains two cells of the same counts, and a few per cent of cells at the places of another slide where coordinates
# are pixels of the same size.
MIN_SAME_COUNTS, MIN_COUNTS_FRACTION = 3, 0.001
MIN_SAME_PLACES, MIN_PLACES_FRACTION = 20, 0.05
COUNTS, PLACES = "counts", "places"  # fields of a sketch
_PLACE_UM = 0.01  # coordinates are compared to this precision
_SAMPLED_PLACES = 20_000
_MIN_DISTINCT = 0.5  # of the cells: with fewer different coordinates, the places are those of a grid


class Overlap(NamedTuple):
    """How many cells of a region are in a sketch."""

    num_compared: int  # cells whose checksum is in the range of the sketch
    num_found: int  # those of them that are in the sketch

    @property
    def fraction(self) -> float:
        """Estimate of the fraction of the region that is in the sketched region."""
        return self.num_found / max(self.num_compared, 1)


class SeenCells(NamedTuple):
    """How many cells of a region are cells of a sketched region."""

    counts: Overlap  # cells with the same counts
    places: Overlap  # cells at the same places

    @property
    def same_counts(self) -> bool:
        """Whether more cells have the same counts than chance explains."""
        return self.counts.num_found >= MIN_SAME_COUNTS and self.counts.fraction >= MIN_COUNTS_FRACTION

    @property
    def is_significant(self) -> bool:
        """Whether more cells have the same counts, or the same places, than chance explains."""
        same_places = self.places.num_found >= MIN_SAME_PLACES and self.places.fraction >= MIN_PLACES_FRACTION
        return self.same_counts or same_places

    @property
    def fraction(self) -> float:
        """Estimate of the fraction of the region that is in the sketched region, by counts or else by places."""
        return self.counts.fraction if self.same_counts else self.places.fraction

    def describe(self) -> str:
        """How the cells were recognised."""
        return "with the same counts" if self.same_counts else "at the same places, with other counts or genes"


class CellChecksums(NamedTuple):
    """Checksums of all cells of a region; 0 for cells that cannot be recognised."""

    counts: Checksums  # (n,) by their counts
    places: Checksums  # (n,) by their places


@dataclass(frozen=True)
class CellSketch:
    """A sample of the cells that a model was trained or validated on, and the cell states of their slide."""

    slide: str  # name of the slide
    use: str  # `train` or `validation`
    counts: Checksums  # ascending checksums of cells by their counts
    places: Checksums  # ascending checksums of cells by their places; empty for a regular grid
    expressed: NDArray[
        np.float16
    ]  # (G,) fraction of the cells that express each gene of a vocabulary; NaN: not measured
    run: str = ""  # name of the run that used the cells, where the weights of that run were the start of another one
    # (K, P) mean expression of the cell states of a slide that was trained on, for the genes that it measures, as ordered in
    # the vocabulary; None without states, and in checkpoints of earlier versions
    states: NDArray[np.float32] | None = None

    @property
    def is_measured(self) -> NDArray[np.bool_]:
        """(G,) whether the slide measures each gene of the vocabulary."""
        return ~np.isnan(self.expressed)

    def with_vocabulary(self, num_genes: int) -> CellSketch:
        """The same sketch for a vocabulary to which genes were appended, which the slide does not measure."""
        expressed = np.full(num_genes, np.nan, dtype=np.float16)
        expressed[: len(self.expressed)] = self.expressed
        return replace(self, expressed=expressed)


def sketch_region(slide: Slide, rows: Rows, vocabulary: Sequence[str], use: str) -> CellSketch:
    """Sketch some cells of a slide.

    Args:
        slide: The slide.
        rows: Ascending rows of the cells.
        vocabulary: G Ensembl ids; other genes of the slide are ignored.
        use: What the cells are used for, `train` or `validation`.

    Returns:
        The sketch.
    """
    position = {gene: row for row, gene in enumerate(vocabulary)}
    # In the order of the slide, as most slides have no other genes and need not be copied then.
    columns = np.array([column for column, gene in enumerate(slide.gene_ids) if gene in position], dtype=np.int64)
    known = [slide.gene_ids[column] for column in columns]
    keys, expressing, found = gene_keys(known), np.zeros(len(known)), []
    for start in range(0, len(rows), BLOCK_CELLS):
        counts = slide.counts(rows[start : start + BLOCK_CELLS])
        counts = counts if len(columns) == slide.num_genes else counts[:, columns]
        found.append(recognisable_checksums(counts, keys))
        expressing += np.bincount(counts.indices, minlength=len(known))
    expressed = np.full(len(vocabulary), np.nan, dtype=np.float16)
    expressed[[position[gene] for gene in known]] = expressing / max(len(rows), 1)
    checksums = np.concatenate([*found, np.zeros(0, np.uint64)])
    # Whether places are those of a grid is a property of the slide, and not of a few of its cells.
    places = place_checksums(slide.xy_um)[rows]
    return CellSketch(slide.name, use, bottom(checksums, NUM_COUNTS), bottom(places, NUM_PLACES), expressed)


def bottom(checksums: Checksums, size: int) -> Checksums:
    """The `size` smallest different checksums above 0, ascending."""
    # `np.unique` takes ten times as long on so many different numbers.
    ordered = np.sort(checksums[checksums > 0])
    is_first = np.ones(len(ordered), dtype=bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    smallest: Checksums = ordered[is_first][:size]
    return smallest


def overlap(checksums: Checksums, sketched: Checksums, size: int) -> Overlap:
    """Find out how many cells are in a sketch.

    Args:
        checksums: (n,) checksums of cells; 0 for cells that cannot be recognised.
        sketched: Ascending checksums of a sketch.
        size: The size that the sketch was limited to.

    Returns:
        The number of cells that could be in the sketch, and of those that are.
    """
    if not len(sketched):
        return Overlap(0, 0)
    comparable = checksums[checksums > 0]
    # A sketch that was cut knows nothing about checksums above its last one.
    if len(sketched) == size:
        comparable = comparable[comparable <= sketched[-1]]
    return Overlap(len(comparable), int(np.isin(comparable, sketched).sum()))


def match_cells(cells: CellSketch | CellChecksums, sketch: CellSketch) -> SeenCells:
    """Find out how many cells of a region are in a sketched region, by counts and by places."""
    return SeenCells(overlap(cells.counts, sketch.counts, NUM_COUNTS), overlap(cells.places, sketch.places, NUM_PLACES))


def recognisable_checksums(counts: csr_matrix, keys: Checksums) -> Checksums:
    """Compute the checksums of cells by their counts.

    Args:
        counts: (N, G) counts.
        keys: (G,) from `checksums.gene_keys`.

    Returns:
        (N,) checksums; 0 for cells of so few genes and counts that another cell may have the same by chance.
    """
    checksums = cell_checksums(counts, keys)
    num_genes = np.diff(counts.indptr)
    checksums[num_genes < MIN_GENES] = 0
    several = np.flatnonzero(checksums)
    genes = num_genes[several].astype(np.float64)
    # Values that are not counts can be below 1.
    total = np.maximum(np.asarray(counts[several].sum(axis=1), dtype=np.float64).ravel(), genes)
    # Choices of the genes times the ways to divide the counts among them.
    bits = _log2_choose(float(counts.shape[1]), genes) + _log2_choose(total - 1, genes - 1)
    checksums[several[bits < MIN_BITS]] = 0
    return checksums


def place_checksums(xy_um: NDArray[np.float64]) -> Checksums:
    """Compute the checksums of cells by their places.

    Args:
        xy_um: (N, 2) cell centres, micrometres.

    Returns:
        (N,) checksums, the same if x and y are exchanged or mirrored at 0; all 0 for a grid, whose places other slides share.
    """
    steps = np.abs(np.rint(xy_um / _PLACE_UM)).astype(np.uint64)
    # A grid repeats its coordinates, also in a part of its cells.
    sample = steps[:: -(-len(steps) // _SAMPLED_PLACES) or 1]
    if any(len(np.unique(axis)) < _MIN_DISTINCT * len(sample) for axis in sample.T):
        return np.zeros(len(steps), dtype=np.uint64)
    steps.sort(axis=1)
    return np.maximum(_mix(_mix(steps[:, 0]) ^ steps[:, 1]), np.uint64(1))


def _mix(values: Checksums) -> Checksums:
    """The finaliser of SplitMix64 (Steele et al. 2014), which makes numbers uniform."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _log2_choose(n: NDArray[np.float64] | float, k: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithm of binomial coefficients."""
    logarithm: NDArray[np.float64] = (gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)) / np.log(2)
    return logarithm
