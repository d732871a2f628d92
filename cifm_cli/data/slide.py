"""Prepared slides: coordinates in memory, counts in memory or read from the file row by row.

Letters: N cells, G genes of the slide's panel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from anndata.io import read_elem
from scipy.sparse import csr_matrix

from cifm_cli import keys
from cifm_cli.data.barcodes import read_barcodes
from cifm_cli.data.counts_source import FileCounts, MemoryCounts
from cifm_cli.data.metadata import decode_metadata
from cifm_cli.data.open_hdf5 import open_for_reading
from cifm_cli.data.units import isolation_note
from cifm_cli.data.validate_slide import require_finite_coordinates, require_valid_structure, require_valid_totals
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

    import h5py
    import pandas as pd
    from numpy.typing import NDArray

    from cifm_cli.data.counts_source import CountsSource

    Rows = NDArray[np.int64]

SLIDE_FACTS = (keys.PLATFORM, keys.TISSUE, keys.CONDITION, keys.SAMPLE)  # texts in `uns["cifm"]` that describe a slide
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
        return np.flatnonzero(self.split == keys.REGIONS.index(name))

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
        with open_for_reading(self.path) as file:
            return read_barcodes(file, rows)

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
        A warning if the radius differs, and one if most cells have no neighbour within it; may be empty.
    """
    if radius_um is None or radius_um == slide.radius_um:
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
    """Open a prepared slide.

    Args:
        path: A file that `cifm prepare` wrote.
        hold: Whether to load the counts into memory if they are few; otherwise they are read from the file when needed.

    Returns:
        The slide.

    Raises:
        CifmError: The file is damaged, or is not a prepared slide of a format that this version reads; or coordinates
            or counts are not valid.
    """
    try:
        with open_for_reading(path) as file:
            return _read(file, path, hold=hold)
    except (OSError, KeyError) as error:
        raise CifmError(
            f"{path}: not a prepared slide, or a damaged one ({error})", "write it again with `cifm prepare DOWNLOAD`"
        ) from error


def _read(file: h5py.File, path: Path, *, hold: bool) -> Slide:
    # An `.h5ad` of another program is the usual mistake, and has a remedy of its own.
    if f"uns/{keys.CIFM}" not in file:
        raise CifmError(f"{path}: an .h5ad that cifm did not prepare", f"prepare it first: `cifm prepare {path}`")
    # The format is checked before anything else is read, as a newer one may store other slots.
    metadata = cast("dict[str, Any]", read_elem(file[f"uns/{keys.CIFM}"]))
    if int(metadata[keys.FORMAT]) != keys.PREPARED_FORMAT:
        raise CifmError(
            f"{path}: prepared-slide format {metadata[keys.FORMAT]}, this cifm reads {keys.PREPARED_FORMAT}",
            "prepare the download again with this version",
        )
    obs, var = file["obs"], cast("pd.DataFrame", read_elem(file["var"]))
    indptr = require_valid_structure(file, len(var), path)
    # Of obs, only the columns that are needed: barcodes and annotation may need more memory than the rest of the slide.
    split = cast("pd.Categorical", read_elem(obs[keys.SPLIT]))
    xy_um = file[f"obsm/{keys.SPATIAL}"][:].astype(np.float64)
    total_counts = obs[keys.TOTAL_COUNTS][:].astype(np.float64)
    require_finite_coordinates(xy_um, file, path)
    require_valid_totals(total_counts, file, path)
    source: CountsSource = FileCounts(path, indptr, len(var))
    # Training reads random tiles over and over, which is faster in memory.
    if hold and indptr[-1] <= _IN_MEMORY_NONZEROS:
        source = MemoryCounts(source.read(np.arange(len(indptr) - 1)))
    return Slide(
        name=path.stem,
        xy_um=xy_um,
        total_counts=total_counts,
        # Slides that were written before there was a buffer have three categories.
        split=split.set_categories(list(keys.REGIONS)).codes.astype(np.int8),
        gene_ids=tuple(var.index),
        symbols=tuple(var[keys.SYMBOL]),
        radius_um=float(metadata[keys.RADIUS_UM]),
        source=source,
        path=path,
        facts={key: str(metadata[key]) for key in SLIDE_FACTS},
    )


def describe_slide(path: Path) -> dict[str, Any]:
    """Summarise a prepared slide, for `cifm inspect`.

    Args:
        path: A prepared slide.

    Returns:
        Number of cells and genes, sizes of the regions, and the decoded `uns["cifm"]`.
    """
    slide = open_slide(path)
    with open_for_reading(path) as file:
        stored = cast("dict[str, Any]", read_elem(file[f"uns/{keys.CIFM}"]))
    parsed = {
        key: value.item() if isinstance(value, np.generic) else value for key, value in decode_metadata(stored).items()
    }
    sizes = {region: len(slide.region(region)) for region in keys.REGIONS}
    return {"kind": "prepared slide", "cells": slide.num_cells, "genes": slide.num_genes, "split": sizes, **parsed}
