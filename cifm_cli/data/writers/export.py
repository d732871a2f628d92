"""Export of a slide to the files of other programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from cifm_cli import keys
from cifm_cli.data.writers import cell_groups, cell_table, spatialdata_store
from cifm_cli.data.writers.export_cells import read_cells
from cifm_cli.errors import CifmError, writing
from cifm_cli.path_text import path_text
from cifm_cli.workspace import atomic_path

if TYPE_CHECKING:
    from pathlib import Path

    from cifm_cli.data.writers.cell_groups import GroupFormat
    from cifm_cli.data.writers.export_cells import ExportCells

ExportFormat: TypeAlias = Literal["spatialdata", "xenium-explorer", "loupe", "parquet"]
_STORE_MARKS = ("zarr.json", ".zgroup")  # files of a Zarr store
_SUFFIXES: dict[ExportFormat, str] = {
    "spatialdata": ".zarr",
    "xenium-explorer": ".xenium_explorer.csv",
    "loupe": ".loupe.csv",
    "parquet": ".parquet",
}


@dataclass(frozen=True)
class ExportResult:
    """A file or store that was written."""

    path: Path
    num_cells: int  # cells of the slide
    column: str | None = None  # the column of obs that became groups; None for formats without groups
    num_groups: int = 0
    notes: tuple[str, ...] = ()  # for the user

    def to_json(self) -> dict[str, Any]:
        """The result as `cifm export --json` prints it."""
        facts: dict[str, Any] = {"path": path_text(self.path), "cells": self.num_cells}
        if self.column is not None:
            facts |= {"column": self.column, "groups": self.num_groups}
        return facts | {"notes": list(self.notes)}


def export_slide(
    source: Path, out: Path, to: ExportFormat, column: str | None = None, *, force: bool = False
) -> ExportResult:
    """Write a slide for another program.

    Args:
        source: A prepared slide (.h5ad), or an embedded one (.h5ad or Zarr).
        out: Folder of the file; created if it is missing.
        to: The format.
        column: Column of obs with the groups, for `xenium-explorer` and `loupe`; None for types, else clusters.
        force: Whether an existing file or store is replaced.

    Returns:
        What was written.

    Raises:
        CifmError: The slide cannot be read, has no such column, or the file exists; a package is missing.
    """
    is_groups = to in ("xenium-explorer", "loupe")
    if column is not None and not is_groups:
        raise CifmError(f"--column {column}: --to {to} writes all columns", "leave out --column")
    if to == "spatialdata":
        spatialdata_store.require_spatialdata()
    cells = read_cells(source)
    target = out / f"{cells.path.stem}{_SUFFIXES[to]}"
    _require_free(target, source, force=force)
    if is_groups:
        return _export_groups(target, cells, "loupe" if to == "loupe" else "xenium-explorer", column)
    with atomic_path(target) as temporary, writing(target):
        if to == "spatialdata":
            spatialdata_store.write_spatialdata(temporary, cells)
        else:
            cell_table.write_cell_table(temporary, cells)
    return ExportResult(target, len(cells.obs))


def _export_groups(target: Path, cells: ExportCells, program: GroupFormat, column: str | None) -> ExportResult:
    groups = cell_groups.cell_groups(cells, column)
    with atomic_path(target) as temporary:
        cell_groups.write_cell_groups(temporary, groups, program)
    notes = []
    if column is None and groups.column == keys.CLUSTER:
        notes.append(
            "the groups are the clusters of the download; for cell types, type the cells first: "
            f"cifm annotate apply --write-obs {cells.path}"
        )
    if groups.num_without:
        notes.append(f"{groups.num_without:,} cells have no value in {groups.column}, and no row in the file")
    platforms, name = cell_groups.PLATFORMS[program], cell_groups.PROGRAMS[program]
    if cells.platform not in platforms:
        notes.append(
            f"{cells.path} is a slide of the platform {cells.platform}: {name} finds its cells only if they have the names "
            f"that they have in the file that {name} opens"
        )
    return ExportResult(target, len(cells.obs), groups.column, groups.groups.nunique(), tuple(notes))


def _require_free(target: Path, source: Path, *, force: bool) -> None:
    """Refuse to replace the source, another kind of folder, or without `force` anything."""
    if not target.exists():
        return
    if target.resolve() == source.resolve():
        raise CifmError(f"{target}: the export would replace its source", "write elsewhere with --out")
    if target.is_dir() and not any((target / mark).is_file() for mark in _STORE_MARKS):
        raise CifmError(
            f"{target}: exists and is not a Zarr store", "write elsewhere with --out, or move it away first"
        )
    if not force:
        raise CifmError(f"{target}: exists", "replace it with --force, or write elsewhere with --out")
