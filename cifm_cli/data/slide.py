"""Prepared slides: coordinates in memory, counts in memory or read from the file row by row.

Letters: N cells, G genes of the slide's panel.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix

from cifm_cli import keys
from cifm_cli.data.barcodes import read_barcodes
from cifm_cli.data.checksums import gene_keys
from cifm_cli.data.column_record import NAMES, ColumnRecord
from cifm_cli.data.content_record import CellContent, record_content, require_unchanged, warn_of_edits
from cifm_cli.data.counts_source import CountChecksums, FileCounts, MemoryCounts
from cifm_cli.data.metadata import SLIDE_FACTS, check_metadata, read_stored_metadata
from cifm_cli.data.slide_file import open_slide_file, reading_slot, reopen_slide_file
from cifm_cli.data.units import describe_extent, isolation_note
from cifm_cli.data.validate_slide import (
    read_column,
    read_coordinates,
    read_genes,
    read_regions,
    read_totals,
    require_valid_structure,
)
from cifm_cli.errors import CifmError
from cifm_cli.path_text import file_name
from cifm_cli.verification import verification_enabled

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    import h5py
    from numpy.typing import NDArray

    from cifm_cli.data.counts_source import CountsSource

    Rows = NDArray[np.int64]

logger = logging.getLogger(__name__)

# What a slide is: the first of its metadata that a reader looks for.
_ABOUT = (keys.PLATFORM, keys.SAMPLE, keys.TISSUE, keys.CONDITION, keys.RADIUS_UM)
RADIUS_TOLERANCE = 0.05  # relative difference of radii of the graph that needs no warning
_IN_MEMORY_NONZEROS = 25_000_000  # 200 MB of values and columns; larger matrices stay in the file


@dataclass(frozen=True)
class Slide:
    """One tissue section, cells in Hilbert order."""

    name: str  # name of the slide; for a file, its stem
    xy_um: NDArray[np.float64]  # (N, 2) cell centres in micrometres
    total_counts: NDArray[np.float64]  # (N,) counts over the panel, by which expression is normalised
    split: NDArray[np.int8]  # (N,) positions in `keys.REGIONS`
    gene_ids: tuple[str, ...]  # G Ensembl ids without version
    symbols: tuple[str, ...]  # G gene symbols
    radius_um: float  # radius of the graph in micrometres
    source: CountsSource  # the counts, in memory or in the file
    path: Path | None = None  # the prepared file; None for a slide that is only in memory
    # platform, tissue, condition and sample, from `uns["cifm"]`; None for a slide that has none
    facts: dict[str, str] | None = None

    @property
    def file(self) -> Path:
        """The prepared file that the slide was opened from. Raises `ValueError` for a slide in memory."""
        if self.path is None:
            raise ValueError(f"slide {self.name} is in memory and has no file")
        return self.path

    @property
    def num_cells(self) -> int:
        """Number of cells, N."""
        return len(self.xy_um)

    @property
    def num_genes(self) -> int:
        """Number of genes, G."""
        return len(self.gene_ids)

    @cached_property
    def columns(self) -> dict[str, int]:
        """Column of each Ensembl id."""
        return {gene: column for column, gene in enumerate(self.gene_ids)}

    def region(self, name: str) -> Rows:
        """Select the rows of a region.

        Args:
            name: `train`, `validation`, `test`, `buffer` or `all`.

        Returns:
            (n,) ascending rows of its cells.
        """
        if name == keys.ALL:
            return np.arange(self.num_cells)
        return self.regions([name])

    def regions(self, names: Collection[str]) -> Rows:
        """Select the rows of several regions.

        Args:
            names: Of `train`, `validation`, `test` and `buffer`.

        Returns:
            (n,) ascending rows of their cells.
        """
        return np.flatnonzero(np.isin(self.split, [keys.REGIONS.index(name) for name in names]))

    def counts(self, rows: Rows) -> csr_matrix:
        """Read the raw counts of some cells.

        Args:
            rows: (n,) rows of the slide, in any order.

        Returns:
            (n, G) float32.
        """
        return self.source.read(rows)

    def expression(self, rows: Rows, target_sum: float) -> csr_matrix:
        """Compute the log-normalised expression of some cells, log1p(target_sum * counts / total_counts).

        Args:
            rows: (n,) rows of the slide, in any order.
            target_sum: Sum to which the counts of a cell are scaled.

        Returns:
            (n, G) float32, sparse as the counts.
        """
        return log_normalise(self.counts(rows), self.total_counts[rows], target_sum)

    def barcodes(self, rows: Rows) -> NDArray[Any]:
        """Read the names of some cells.

        Args:
            rows: (n,) rows of the slide, in any order.

        Returns:
            (n,) names as text; the row numbers for a slide without a file.
        """
        if self.path is None:
            return rows.astype(str).astype(object)
        with reopen_slide_file(self.path) as file:
            names = read_barcodes(file, rows, self.path)
            # Only all names together can be compared with those of the preparation.
            if len(np.unique(rows)) == self.num_cells == len(rows):
                ColumnRecord.read(file, self.path).compare(NAMES, names, rows)
        return names

    def subset(self, rows: Rows) -> Slide:
        """Make a slide of some of the cells, in memory.

        Args:
            rows: (n,) rows, in the order of the new slide.

        Returns:
            The slide of the n cells.
        """
        return replace(
            self,
            xy_um=self.xy_um[rows],
            total_counts=self.total_counts[rows],
            split=self.split[rows],
            source=MemoryCounts(self.counts(rows)),
            # The file holds all cells, so rows of this slide would select other cells in it.
            path=None,
        )

    def with_radius(self, radius_um: float | None) -> Slide:
        """The same slide with another graph radius, micrometres; the slide itself for None. `radius_notes` returns warnings."""
        if radius_um is None or radius_um == self.radius_um:
            return self
        return replace(self, radius_um=radius_um)


def radius_notes(slide: Slide, radius_um: float | None) -> list[str]:
    """Warnings about using a slide with a graph radius other than its own.

    Args:
        slide: The slide, with the radius that it was prepared for.
        radius_um: The radius to use, micrometres; None for the slide's own.

    Returns:
        A warning if the radius differs by more than a twentieth, and one if most cells have no neighbour within it; may be empty.
    """
    # Radii that are derived from the spacing of cells differ a little between sections of one platform.
    if radius_um is None or abs(radius_um - slide.radius_um) <= RADIUS_TOLERANCE * slide.radius_um:
        return []
    # Only for another radius: `cifm prepare` has checked the slide's own.
    isolated = isolation_note(slide.xy_um, radius_um)
    return [
        f"slide {slide.name}: its radius is {slide.radius_um:g} um, used with {radius_um:g} um",
        *([f"slide {slide.name}: {isolated}"] if isolated else []),
    ]


def log_normalise(counts: csr_matrix, total_counts: NDArray[np.float64], target_sum: float) -> csr_matrix:
    """Scale counts to a common sum and take log1p (paper, B.1).

    Args:
        counts: (N, G).
        total_counts: (N,) depth of each cell; zero for a void cell, whose expression is zero.
        target_sum: The common sum.

    Returns:
        (N, G) float32; shares the index arrays of `counts`.
    """
    # In double precision, but with a single temporary array, as the matrix may be that of a whole region.
    # The maximum only affects void cells, which have no values: it avoids a division by zero.
    values = np.repeat(target_sum / np.maximum(total_counts, 1.0), np.diff(counts.indptr))
    np.multiply(values, counts.data, out=values)
    np.log1p(values, out=values)
    return csr_matrix((values.astype(np.float32), counts.indices, counts.indptr), shape=counts.shape)


def slide_from_arrays(
    name: str,
    xy_um: NDArray[np.float64],
    counts: csr_matrix,
    gene_ids: tuple[str, ...],
    radius_um: float,
    *,
    symbols: tuple[str, ...] | None = None,
    split: NDArray[np.int8] | None = None,
) -> Slide:
    """Make a slide in memory from arrays.

    Args:
        name: Name in messages and results.
        xy_um: (N, 2) cell centres in micrometres; the order of the cells is kept.
        counts: (N, G).
        gene_ids: G Ensembl ids.
        radius_um: Radius of the graph in micrometres.
        symbols: G symbols; None to use the ids.
        split: (N,) positions in `keys.REGIONS`; None for all cells in the training region.

    Returns:
        The slide.
    """
    return Slide(
        name=name,
        xy_um=np.asarray(xy_um, dtype=np.float64),
        total_counts=np.asarray(counts.sum(axis=1), dtype=np.float64).ravel(),
        split=np.zeros(len(xy_um), dtype=np.int8) if split is None else split,
        gene_ids=gene_ids,
        symbols=symbols or gene_ids,
        radius_um=radius_um,
        source=MemoryCounts(csr_matrix(counts)),
    )


def open_slide(path: Path, *, hold: bool = True) -> Slide:
    """Open a prepared slide, or an embedded one.

    Everything that is read is checked. What `cifm prepare` recorded is compared, unless verification is skipped: positions,
    totals, split and genes here, the counts when they are read.

    Args:
        path: A file that `cifm prepare` or `cifm embed` wrote.
        hold: Whether to load the counts into memory if they are few; otherwise they are read from the file when needed.

    Returns:
        The slide.

    Raises:
        CifmError: The file is damaged, or is not a prepared slide of a format that this version reads; coordinates
            or counts are not valid; or the file was changed since it was prepared.
    """
    with open_slide_file(path) as file:
        return read_slide(file, path, hold=hold)


def hold_counts(slides: Sequence[Slide]) -> list[Slide]:
    """Load the counts of opened slides into memory if they are few together: random tiles are then read in less time.

    Args:
        slides: Slides from `open_slide`.

    Returns:
        The slides with counts in memory, or as they are if the counts are many.
    """
    in_files = [slide.source.indptr[-1] for slide in slides if isinstance(slide.source, FileCounts)]
    if sum(in_files) > _IN_MEMORY_NONZEROS:
        return list(slides)
    return [replace(slide, source=MemoryCounts(slide.counts(np.arange(slide.num_cells)))) for slide in slides]


def read_slide(file: h5py.File, path: Path, *, hold: bool) -> Slide:
    """Read an open slide; see `open_slide`."""
    metadata = _read_metadata(file, path)
    genes = read_genes(file, path)
    indptr = require_valid_structure(file, len(genes.ids), path)
    num_cells = len(indptr) - 1
    # Of obs, only the columns that are needed: barcodes and annotation may need more memory than the rest of the slide.
    split = read_regions(file, num_cells, path)
    xy_um = read_coordinates(file, num_cells, path)
    total_counts = read_totals(file, num_cells, path)
    checksums = _read_checksums(file, num_cells, metadata, path)
    if checksums is not None and keys.CONTENT in metadata and verification_enabled():
        rows = read_column(file, keys.DOWNLOAD_ROW, num_cells, path, "iu").astype(np.int64)
        now = record_content(
            CellContent(rows, xy_um, total_counts, split, checksums), genes.ids, genes.symbols, metadata
        )
        require_unchanged(now, metadata[keys.CONTENT], path)
        warn_of_edits(now, metadata[keys.CONTENT], rows, path)
    counts = None if checksums is None else CountChecksums(checksums, gene_keys(genes.ids))
    source: CountsSource = FileCounts(path, indptr, len(genes.ids), counts)
    # Training reads random tiles over and over, which is faster in memory.
    if hold and indptr[-1] <= _IN_MEMORY_NONZEROS:
        source = MemoryCounts(source.read(np.arange(num_cells)))
    return Slide(
        name=file_name(path),
        xy_um=xy_um,
        total_counts=total_counts,
        split=split,
        gene_ids=genes.ids,
        symbols=genes.symbols,
        radius_um=metadata[keys.RADIUS_UM],
        source=source,
        path=path,
        facts={key: metadata[key] for key in SLIDE_FACTS},
    )


def describe_slide(path: Path) -> dict[str, Any]:
    """Summarise a prepared slide, for `cifm inspect`.

    Args:
        path: A prepared slide.

    Returns:
        Number of cells and genes, sizes of the regions, lowest and highest `x` and `y` of the cells as `extent_um`, the columns
        of `obs`, and the decoded `uns["cifm"]`, what the slide is before how it was made.

    Raises:
        CifmError: As for `open_slide`, which this calls, so that a slide that can be described can be used.
    """
    with open_slide_file(path) as file:
        slide, metadata = read_slide(file, path, hold=True), _read_metadata(file, path)
        columns = sorted(set(file["obs"]) - {"_index", keys.CHECKSUM})
    metadata.pop(keys.CONTENT, None)  # checksums, which have just been compared
    sizes = {region: len(slide.region(region)) for region in keys.REGIONS}
    facts = {"cells": slide.num_cells, "genes": slide.num_genes, "extent_um": describe_extent(slide.xy_um)}
    about = {key: metadata.pop(key) for key in _ABOUT if key in metadata}
    return {"kind": "prepared slide", **facts, **about, "columns": columns, "split": sizes, **metadata}


def _read_metadata(file: h5py.File, path: Path) -> dict[str, Any]:
    """The decoded and checked metadata of a prepared slide."""
    # An `.h5ad` of another program is the usual mistake, and has a remedy of its own.
    with reading_slot(path, "uns"):
        prepared = f"uns/{keys.CIFM}/{keys.FORMAT}" in file
    if not prepared:
        raise CifmError(f"{path}: an .h5ad that cifm did not prepare", f"prepare it first: `cifm prepare {path}`")
    return check_metadata(read_stored_metadata(file, path), path)


def _read_checksums(file: h5py.File, num_cells: int, metadata: dict[str, Any], path: Path) -> NDArray[np.uint64] | None:
    """(N,) checksums of the counts; None for a slide that was written before there were any, or where they are not used."""
    with reading_slot(path, "obs"):
        stored = keys.CHECKSUM in file["obs"]
    if not verification_enabled() or not (stored or keys.CONTENT in metadata):
        logger.debug("%s: no checksums are compared", path)
        return None
    return read_column(file, keys.CHECKSUM, num_cells, path, "iu").astype(np.uint64)
