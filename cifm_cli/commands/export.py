"""`cifm export`: write a slide for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cifm_cli import workspace
from cifm_cli.commands import options


def export(
    source: Annotated[
        Path, typer.Argument(metavar="SLIDE", help="A prepared slide (.h5ad), or an embedded one (.h5ad or .zarr).")
    ],
    to: Annotated[
        Literal["spatialdata", "xenium-explorer", "loupe", "parquet"],
        typer.Option(
            "--to",
            help="spatialdata: a SpatialData store with a circle for each cell, in micrometres (extra spatialdata). "
            "xenium-explorer, loupe: cell groups as CSV for Xenium Explorer or Loupe Browser. "
            "parquet: a table of annotation and embeddings.",
        ),
    ],
    column: Annotated[
        str | None,
        typer.Option(
            "--column",
            metavar="COLUMN",
            help="Column of obs with the groups, for xenium-explorer and loupe.",
            show_default="cell types, else clusters",
        ),
    ] = None,
    out: options.Out = workspace.EXPORTED,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file or store.")] = False,
    no_verify: options.NoVerify = False,
    as_json: options.Json = False,
) -> None:
    """Write a prepared or embedded slide for SpatialData, Xenium Explorer, Loupe Browser, or as a table."""
    from cifm_cli.data.writers.export import export_slide
    from cifm_cli.report import terminal

    result = export_slide(source, out, to, column, force=force)
    for note in result.notes:
        terminal.say(f"note: {note}")
    groups = f", {result.num_groups:,} groups of obs column {result.column}" if result.column else ""
    terminal.say(f"wrote {result.path}: {result.num_cells:,} cells{groups}")
    if as_json:
        terminal.emit(result.to_json())
