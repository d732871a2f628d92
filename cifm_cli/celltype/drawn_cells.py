"""Labelled cells drawn from profiles: tables of mean expression by type, and pseudo-bulk sums by type and donor.

A profile has no cells, but a classifier of cells must see their noise. Counts are drawn from a Poisson distribution whose rate
varies between cells (a gamma distribution), with a share of the mean of all profiles, as cells of a section have from
their neighbours.

Letters: P profiles, G genes, M drawn cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.sparse import csr_matrix, vstack

from cifm_cli.celltype.labelled_cells import LabelledCells, read_labelled_cells
from cifm_cli.data.readers.text_records import read_records
from cifm_cli.errors import CifmError
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from cifm_cli.celltype.fitting import TargetSlide

DISPERSION: Final = 2.0  # shape of the gamma distribution; counts have the variance mean + mean^2 / shape
BACKGROUND: Final = 0.1  # mean share of the counts that stem from the mean profile
DEPTH: Final = 1_000.0  # counts of a cell where there is no slide to train for
_TABLES: Final = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
_CELLS_AT_ONCE: Final = 2_000


def is_profile_table(path: Path) -> bool:
    """Whether a file is a table of profiles, by its name."""
    return path.name.lower().endswith(_TABLES)


def read_profile_table(path: Path) -> LabelledCells:
    """Read a table of mean expression, with genes in rows and cell types in columns.

    Args:
        path: A CSV or TSV, plain or gzip; the first column holds gene symbols.

    Returns:
        One row per type, with its name as label.

    Raises:
        CifmError: The table cannot be read, or an element is no number, negative or infinite.
    """
    records = read_records(path)
    types = records.columns[1:]
    if len(types) < 2 or not records.rows:
        raise CifmError(
            f"{path}: a table of {len(records.rows)} genes and {len(types)} types, two types are needed",
            "write genes in rows and types in columns",
        )
    try:
        values = np.array([row[1:] for row in records.rows], dtype=np.float64)
    except ValueError as error:
        raise CifmError(
            f"{path}: an element is no number ({error})", "write genes in rows and types in columns"
        ) from error
    if not np.isfinite(values).all() or (values < 0).any():
        raise CifmError(f"{path}: a negative or infinite value", "write mean counts, not logarithms or differences")
    return LabelledCells(csr_matrix(values.T), tuple(row[0] for row in records.rows), np.array(types, dtype=object))


def read_training_cells(
    path: Path, label: str | None, target: TargetSlide | None, *, pseudo_bulk: bool, num_cells: int, seed: int
) -> LabelledCells:
    """Read labelled cells, or draw them from profiles.

    Args:
        path: An `.h5ad` file, or a table of profiles.
        label: obs column that holds the types; None for a table.
        target: Slide that a classifier is trained for.
        pseudo_bulk: Whether the rows of the `.h5ad` are sums over many cells.
        num_cells: Approximate number of cells that are drawn from profiles.
        seed: Seed of the draws.

    Returns:
        The cells.

    Raises:
        CifmError: The file cannot be read, or the label is missing.
    """
    if is_profile_table(path):
        if label is not None:
            raise CifmError(f"{path}: a table of profiles has no column {label!r}", "leave out --label")
        return draw_cells(read_profile_table(path), target, num_cells, seed)
    if label is None:
        raise CifmError(f"{path}: the column of the cell types is missing", "name it with --label COLUMN")
    cells = read_labelled_cells(path, label, fractional=pseudo_bulk)
    return draw_cells(cells, target, num_cells, seed) if pseudo_bulk else cells


def draw_cells(profiles: LabelledCells, target: TargetSlide | None, num_cells: int, seed: int) -> LabelledCells:
    """Draw cells from profiles.

    Args:
        profiles: P profiles, rows of non-negative numbers on any scale.
        target: Slide whose genes and depth the cells get; all genes and `DEPTH` counts when absent.
        num_cells: Approximate number of cells, as many for each label.
        seed: Seed of the draws.

    Returns:
        M cells; profiles without any count in the genes of the slide are left out.

    Raises:
        CifmError: The profiles have none of the genes of the slide.
    """
    counts, symbols = _shared_genes(profiles, target)
    totals = np.asarray(counts.sum(axis=1)).ravel()
    usable = np.flatnonzero(totals > 0)
    fractions = csr_matrix(counts[usable].multiply(1 / totals[usable, None]))
    labels = profiles.labels[usable].astype(str)
    mean = np.asarray(fractions.mean(axis=0)).ravel()
    generator = numpy_generator(seed, "cells drawn from profiles")
    names = np.unique(labels)
    per_type = max(20, num_cells // max(len(names), 1))
    rows = np.concatenate([generator.choice(np.flatnonzero(labels == name), per_type) for name in names])
    depths = np.full(len(rows), DEPTH) if target is None else generator.choice(target.total_counts, len(rows))
    blocks = []
    for first in range(0, len(rows), _CELLS_AT_ONCE):
        block = slice(first, first + _CELLS_AT_ONCE)
        share = generator.beta(1.5, 1.5 / BACKGROUND - 1.5, len(rows[block]))[:, None]
        rate = depths[block, None] * ((1 - share) * fractions[rows[block]].toarray() + share * mean)
        blocks.append(csr_matrix(_noisy(rate, generator)))
    return LabelledCells(csr_matrix(vstack(blocks)), symbols, labels[rows].astype(object))


def _noisy(rate: NDArray[Any], generator: np.random.Generator) -> NDArray[np.float32]:
    """Counts of a gamma-Poisson distribution with the given means."""
    return generator.poisson(generator.gamma(DISPERSION, rate / DISPERSION)).astype(np.float32)


def _shared_genes(profiles: LabelledCells, target: TargetSlide | None) -> tuple[csr_matrix, tuple[str, ...]]:
    """The profiles in the genes of the slide."""
    counts = csr_matrix(profiles.counts, dtype=np.float64)
    if target is None:
        return counts, profiles.symbols
    panel = {symbol.upper() for symbol in target.symbols}
    columns = [column for column, symbol in enumerate(profiles.symbols) if symbol.upper() in panel]
    if not columns:
        raise CifmError(
            f"the profiles have none of the genes of the slide (such as {min(panel, default='')})", "use gene symbols"
        )
    return counts[:, columns], tuple(profiles.symbols[column] for column in columns)
