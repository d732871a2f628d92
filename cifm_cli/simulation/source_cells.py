"""Source cells: cells of the slide itself, or labelled cells of another data set, that are copied into a tissue.

Letters: S source cells, G genes of the slide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.celltype.labelled_cells import read_reference, source_name
from cifm_cli.celltype.markers import find_type
from cifm_cli.data.counts_source import row_sums
from cifm_cli.errors import CifmError
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.simulation.edits.requests import ReferenceCells


@dataclass(frozen=True)
class SourceCells:
    """Cells of the injected type."""

    cell_type: str  # their type
    counts: csr_matrix  # (S, G) counts
    total_counts: NDArray[np.float64]  # (S,) depths that normalisation divides by
    donors: NDArray[np.object_] | None = None  # (S,) donor of each cell; None if unknown

    @property
    def num_cells(self) -> int:
        """S."""
        return len(self.total_counts)

    @property
    def is_void(self) -> bool:
        """Whether the cells have no counts."""
        return not self.total_counts.any()

    def draw(self, count: int, generator: np.random.Generator) -> Rows:
        """Draw cells with replacement, equally many of each donor where donors are known.

        Args:
            count: Number of cells.
            generator: Source of randomness.

        Returns:
            (count,) rows.
        """
        if not count:
            return np.empty(0, dtype=np.int64)
        if self.donors is None:
            return generator.integers(self.num_cells, size=count)
        _, donor, sizes = np.unique(self.donors.astype(str), return_inverse=True, return_counts=True)
        # The rows of each donor follow each other in this order.
        order, first = np.argsort(donor, kind="stable"), np.cumsum(sizes) - sizes
        chosen = generator.permutation(np.arange(count) % len(sizes))
        return np.asarray(order[first[chosen] + (generator.random(count) * sizes[chosen]).astype(np.int64)])

    def take(self, rows: Rows) -> SourceCells:
        """Some of the cells."""
        donors = None if self.donors is None else self.donors[rows]
        return SourceCells(self.cell_type, self.counts[rows], self.total_counts[rows], donors)


def source_cells_of_reference(slide: Slide, reference: ReferenceCells, requested: str, seed: int) -> SourceCells:
    """Take the cells of one type from a reference and downsample them to the depth of the slide.

    Args:
        slide: The slide whose genes and depth are used.
        reference: The labelled cells.
        requested: Cell type as the user typed it.
        seed: Seed of the downsampling.

    Returns:
        The source cells.

    Raises:
        CifmError: The reference cannot be read, or contains no such cell.
    """
    cells = read_reference(reference.source, reference.label, slide, reference.donor_key)
    # Sorted, so that a hint lists the types in a fixed order.
    label = find_type(requested, sorted(set(cells.labels)), {})
    selected = np.flatnonzero(cells.labels == label)
    counts = cells.counts[selected]
    source = SourceCells(label, counts, row_sums(counts), None if cells.donors is None else cells.donors[selected])
    source = downsample(source, float(np.median(slide.total_counts)), numpy_generator(seed, "thin"))
    if not source.num_cells:
        raise CifmError(
            f"{source_name(reference.source)}: no {label} with a count in the genes of slide {slide.name}",
            "use another reference",
        )
    return source


def downsample(source: SourceCells, depth: float, generator: np.random.Generator) -> SourceCells:
    """Downsample deep cells of another assay to about the depth of the slide.

    Args:
        source: Cells with integer counts.
        depth: Typical sum of counts of a cell of the slide.
        generator: Source of randomness.

    Returns:
        Cells of at most about that depth, without those that lost all counts.
    """
    # Cells that are shallower than the slide keep all counts.
    keep_probability = np.minimum(depth / np.maximum(source.total_counts, 1.0), 1.0)
    # Binomial thinning of every count gives the counts of a shallower measurement of the same cell.
    counts = source.counts.copy()
    counts.data = generator.binomial(
        np.rint(counts.data).astype(np.int64), np.repeat(keep_probability, np.diff(counts.indptr))
    ).astype(np.float32)
    # Thinned entries may be zero, and the sparsity of counts means `expressed` elsewhere.
    counts.eliminate_zeros()
    total = row_sums(counts)
    expressing = np.flatnonzero(total)
    return SourceCells(source.cell_type, counts, total, source.donors).take(expressing)
