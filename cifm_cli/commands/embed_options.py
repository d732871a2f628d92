"""Options of `cifm embed`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import typer


class Level(StrEnum):
    """Whether the neighbours of a cell enter its embedding."""

    MICROENVIRONMENT = "microenvironment"
    CELL = "cell"


_ANALYSIS = "Analysis of all slides together"

Levels = Annotated[
    list[Level] | None,
    typer.Option(
        "--level",
        help="Embed a cell with its neighbours (obsm X_cifm) or without them (X_cifm_cell); may be repeated.",
        show_default="both",
    ),
]
Devices = Annotated[
    int, typer.Option(min=1, help="Processes that embed a slide together: one for each GPU, or several on CPU.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace embedded slides of another model or with other content.")]
Format = Annotated[
    Literal["h5ad", "zarr", "parquet", "npy"],
    typer.Option(
        "--format",
        help="h5ad or zarr: AnnData with the counts. parquet: a table of cells. npy: arrays, and the names of the cells.",
    ),
]
Umap = Annotated[
    bool, typer.Option("--umap", help="UMAP of the cells of all slides (obsm X_umap).", rich_help_panel=_ANALYSIS)
]
Clusters = Annotated[
    bool,
    typer.Option(
        "--clusters", help="Leiden clusters of the cells of all slides (obs leiden).", rich_help_panel=_ANALYSIS
    ),
]
Neighbors = Annotated[
    bool,
    typer.Option(
        "--neighbors",
        help="Write the graph of nearest neighbours (obsp distances and connectivities, uns neighbors).",
        rich_help_panel=_ANALYSIS,
    ),
]
K = Annotated[
    int,
    typer.Option(
        "--k",
        metavar="N",
        min=3,
        max=200,
        help="Nearest neighbours of each cell in the graph, with the cell itself.",
        rich_help_panel=_ANALYSIS,
    ),
]
Resolution = Annotated[
    float | None,
    typer.Option(
        "--resolution",
        metavar="X",
        min=0.001,
        max=1000,
        help="Resolution of the clusters; more gives more clusters.",
        show_default="the first of 1, 0.5, 0.25, 0.1, 0.05 that gives at most 20 clusters",
        rich_help_panel=_ANALYSIS,
    ),
]
MaxCells = Annotated[
    int,
    typer.Option(
        "--max-cells",
        metavar="N",
        min=100,
        help="Largest number of cells that are analysed; of more, a random sample is, and the others are assigned by it.",
        rich_help_panel=_ANALYSIS,
    ),
]
Label = Annotated[
    str | None,
    typer.Option(
        "--label",
        metavar="COLUMN",
        help="Column of obs with cell types, for the page.",
        show_default="cifm_cell_type or cell_type, if present",
        rich_help_panel=_ANALYSIS,
    ),
]
