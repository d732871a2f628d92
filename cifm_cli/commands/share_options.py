"""Options of `cifm share`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Embedded = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="EMBEDDED...",
        help="Embedded slides (.h5ad or .zarr), or folders of them.",
        show_default="every slide in embedded/",
    ),
]
Level = Annotated[
    Literal["microenvironment", "cell"],
    typer.Option("--level", help="Embedding of a cell with its neighbours (X_cifm), or without them (X_cifm_cell)."),
]
Neighbours = Annotated[int, typer.Option("--k", metavar="N", min=1, help="Nearest neighbours of each cell.")]
Clusters = Annotated[
    int | None,
    typer.Option(
        "--clusters",
        metavar="N",
        min=1,
        max=50,
        help="Clusters of each sample.",
        show_default="the number with the best silhouette",
    ),
]
Of = Annotated[
    list[str] | None,
    typer.Option(
        "--of", metavar="SAMPLE", help="Cluster the cells of this sample; may be repeated.", show_default="every sample"
    ),
]
Label = Annotated[
    str | None,
    typer.Option(
        "--label", metavar="COLUMN", help="Column of obs with cell types.", show_default="cifm_cell_type, if present"
    ),
]
Group = Annotated[
    str | None,
    typer.Option(
        "--group",
        metavar="COLUMN",
        help="Compare groups of samples: a column of obs, or condition, tissue or platform.",
    ),
]
Center = Annotated[
    Literal["sample", "none"],
    typer.Option(
        "--center",
        help="sample: remove shifts between samples, such as batch effects, where microenvironments of two samples match "
        "under one shift. none: use the embeddings as they are.",
    ),
]
Balance = Annotated[
    bool | None,
    typer.Option(
        "--balance/--no-balance",
        help="Search neighbours among equal numbers of cells of each sample.",
        show_default="if one sample has more than twice the cells of another",
    ),
]
Search = Annotated[
    Literal["auto", "exact", "approximate"],
    typer.Option("--search", help="auto: exact up to 100,000 cells, approximate with measured recall above (faiss)."),
]
Permutations = Annotated[
    int, typer.Option("--permutations", metavar="N", min=19, help="Permutations for the types of clusters.")
]
