"""Donors: the cells whose copies are injected, from the slide itself or from a labelled reference.

Letters: D donors, G genes of the slide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.celltype.labelled_cells import read_reference
from cifm_cli.celltype.markers import find_type
from cifm_cli.errors import CifmError
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.celltype.base import Annotation
    from cifm_cli.data.slide import Rows, Slide


@dataclass(frozen=True)
class Reference:
    """Labelled cells of another data set.

    Args:
        path: An `.h5ad` with counts.
        label: Column of its `obs` with cell types.
    """

    path: Path
    label: str


@dataclass(frozen=True)
class Donors:
    """Cells of the injected type, to be copied.

    Args:
        cell_type: Their type.
        counts: (D, G) counts.
        total_counts: (D,) depth that normalisation divides by.
    """

    cell_type: str
    counts: csr_matrix
    total_counts: NDArray[np.float64]


def slide_donors(slide: Slide, rows: Rows, types: Annotation, cell_type: str) -> Donors:
    """The slide's own cells of a type.

    Args:
        slide: Any slide.
        rows: Rows that were typed.
        types: Of these rows.
        cell_type: One of `types.names`.

    Returns:
        The donors.

    Raises:
        CifmError: There are none.
    """
    found = rows[types.of_type(cell_type)]
    if not len(found):
        raise CifmError(
            f"slide {slide.name}: no {cell_type} among {len(rows):,} cells",
            "take them from labelled cells of another data set with --reference FILE.h5ad",
        )
    return Donors(cell_type, slide.counts(found), slide.total_counts[found])


def reference_donors(slide: Slide, reference: Reference, wanted: str, seed: int) -> Donors:
    """A reference's cells of a type, thinned to the slide's depth.

    Args:
        slide: Gives genes and depth.
        reference: Where the cells are.
        wanted: Cell type, as the user typed it.
        seed: The user's seed.

    Returns:
        The donors.

    Raises:
        CifmError: The reference cannot be used, or has no such cells.
    """
    counts, labels = read_reference(reference.path, reference.label, slide)
    label = find_type(wanted, sorted(set(labels)), {})
    found = counts[np.flatnonzero(labels == label)]
    deep = Donors(label, found, np.asarray(found.sum(axis=1), dtype=np.float64).ravel())
    donors = thin(deep, float(np.median(slide.total_counts)), numpy_generator(seed, "thin"))
    if not len(donors.total_counts):
        raise CifmError(
            f"{reference.path}: no {label} with a count in the genes of slide {slide.name}", "use another reference"
        )
    return donors


def thin(donors: Donors, depth: float, generator: np.random.Generator) -> Donors:
    """Thin deeper cells to about the depth of the slide, as if they had been measured on it.

    Args:
        donors: Cells of another assay, with whole counts.
        depth: Counts of a typical cell of the slide.
        generator: Source of randomness.

    Returns:
        Donors of at most about that depth; cells left without counts are gone.
    """
    kept_share = np.minimum(depth / np.maximum(donors.total_counts, 1.0), 1.0)
    counts = donors.counts.copy()
    counts.data = generator.binomial(
        np.rint(counts.data).astype(np.int64), np.repeat(kept_share, np.diff(counts.indptr))
    ).astype(np.float32)
    counts.eliminate_zeros()
    total = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    alive = np.flatnonzero(total)
    return Donors(donors.cell_type, counts[alive], total[alive])
