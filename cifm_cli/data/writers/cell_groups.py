"""Cell groups as CSV files, which the desktop programs of 10x Genomics import: Xenium Explorer and Loupe Browser.

Xenium Explorer reads cell groups from the columns `cell_id` and `group`; the tables of cell types that 10x Genomics publishes
with its Xenium data have the same two columns. Loupe Browser reads categories from a first column `Barcode` and a further column
for each category, under its name. Neither program needs a row for every cell.

Letters: N cells.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import pandas as pd
from pandas.api.types import is_bool_dtype, is_float_dtype, is_numeric_dtype

from cifm_cli import keys
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

    from cifm_cli.data.writers.export_cells import ExportCells

GroupFormat: TypeAlias = Literal["xenium-explorer", "loupe"]
# Tried in this order if the user names no column: types, then clusters of the embeddings, then those of the download.
DEFAULT_COLUMNS: Final = (keys.CELL_TYPE, f"cifm_{keys.LEIDEN}", keys.LEIDEN, keys.CLUSTER)
MAX_GROUPS: Final = 1_000  # more are measurements or names of cells, not groups
PLATFORMS: Final = {"xenium-explorer": ("xenium",), "loupe": ("visium", "visium_hd")}
PROGRAMS: Final = {"xenium-explorer": "Xenium Explorer", "loupe": "Loupe Browser"}


@dataclass(frozen=True)
class CellGroups:
    """The group of each cell."""

    column: str  # the column of obs
    groups: pd.Series[str]  # names of groups by name of the cell, for the cells that have one
    num_without: int  # number of cells without a group


def choose_column(cells: ExportCells, column: str | None) -> str:
    """Find the column of the groups.

    Args:
        cells: The cells.
        column: Name of a column of obs; None for the first of `DEFAULT_COLUMNS` that exists.

    Returns:
        The name.

    Raises:
        CifmError: There is no such column.
    """
    names = [str(name) for name in cells.obs]
    if column is None:
        column = next((name for name in DEFAULT_COLUMNS if name in names), None)
        if column is None:
            raise CifmError(
                f"{cells.path}: obs has no types or clusters ({', '.join(DEFAULT_COLUMNS)})",
                f"name a column with --column: {_listed(cells)}",
            )
    if column not in names:
        raise CifmError(f"{cells.path}: obs has no column {column}", f"its columns with groups: {_listed(cells)}")
    return column


def cell_groups(cells: ExportCells, column: str | None = None) -> CellGroups:
    """Read the groups of the cells from a column of obs.

    Args:
        cells: The cells.
        column: As for `choose_column`.

    Returns:
        The groups.

    Raises:
        CifmError: There is no such column; it holds measurements or too many values; no cell has a group; or two cells have
            the same name.
    """
    name = choose_column(cells, column)
    values = cells.obs[name]
    where = f"{cells.path}: obs column {name}"
    if not _is_groups(values):
        raise CifmError(
            f"{where} holds {values.nunique():,} different values of type {values.dtype}, which are no groups",
            f"name another column with --column: {_listed(cells)}",
        )
    present = values[values.notna()].astype(str)
    present = present[present != ""]
    if present.empty:
        raise CifmError(f"{where}: no cell has a value", f"name another column with --column: {_listed(cells)}")
    if cells.obs.index.has_duplicates:
        twice = cells.obs.index[cells.obs.index.duplicated()][0]
        raise CifmError(f"{cells.path}: two cells are called {twice}", "export the slides of a joint file one by one")
    return CellGroups(name, present, len(values) - len(present))


def write_cell_groups(target: Path, groups: CellGroups, program: GroupFormat) -> None:
    """Write the groups as a CSV file in UTF-8.

    Args:
        target: The file.
        groups: The groups.
        program: The program that imports the file, which decides the names of the columns.
    """
    header = ("cell_id", "group") if program == "xenium-explorer" else ("Barcode", groups.column)
    with target.open("w", encoding="utf8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(zip(groups.groups.index, groups.groups, strict=True))


def _is_groups(values: pd.Series[str]) -> bool:
    """Whether the values of a column can be groups: categories, texts, booleans or whole numbers, and few of them."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        return len(values.cat.categories) <= MAX_GROUPS
    return not is_float_dtype(values) and values.nunique() <= MAX_GROUPS


def _listed(cells: ExportCells) -> str:
    """The columns that can be groups, for a hint."""
    groups = {str(name): values for name, values in cells.obs.items() if _is_groups(values)}
    # Whole numbers are mostly counts: they are named only where there is nothing else.
    texts = [name for name, values in groups.items() if is_bool_dtype(values) or not is_numeric_dtype(values)]
    names = texts or list(groups)
    return f"{', '.join(names[:10])}{', ...' if len(names) > 10 else ''}" if names else "none"
