"""Options of `cifm prepare`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class SplitKind(StrEnum):
    """Ways to split a slide into regions."""

    regional = "regional"
    strips = "strips"
    blocks = "blocks"


Downloads = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="DOWNLOAD...",
        help="Output folders of Visium, Visium HD or Xenium, .h5ad files with obsm['spatial'], or SpatialData .zarr.",
    ),
]
Name = Annotated[str | None, typer.Option(help="Name of the slide.", show_default="that of the download")]
Platform = Annotated[str | None, typer.Option(help="Reader to use.", show_default="detected")]
BinUm = Annotated[int, typer.Option(help="Size of the bins to read from a Visium HD download, micrometres.")]
Condition = Annotated[str, typer.Option(help="Free text that describes the sample, such as tumour.")]
Tissue = Annotated[str, typer.Option(help="Free text, such as pancreas.")]
Sample = Annotated[str | None, typer.Option(help="Sample of the slide.", show_default="the slide's name")]
RadiusUm = Annotated[
    float | None,
    typer.Option(
        help="Radius of the graph, micrometres.",
        show_default="the platform's, or derived from the spacing of the cells",
    ),
]
MicronsPerPixel = Annotated[float | None, typer.Option(help="Scale of the coordinates, if they are not micrometres.")]
Layer = Annotated[str | None, typer.Option(help="Slot of the raw counts in an .h5ad: X, raw, or a layer.")]
GeneTable = Annotated[
    Path | None, typer.Option(help="CSV of Ensembl id and symbol, for symbols that the packaged table lacks.")
]
Orthologs = Annotated[
    Path | None, typer.Option(help="CSV of Ensembl ids of another species and of human, to map its genes.")
]
Matrix = Annotated[
    Path | None,
    typer.Option(help="Counts of another platform: .csv, .mtx, 10x .h5 or .h5ad; requires --cells."),
]
Cells = Annotated[Path | None, typer.Option(help="CSV of the cells of --matrix and their centres.")]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        help="Keep what is removed or refused otherwise: mitochondrial (genes), outside-tissue (cells), overlap (sections on "
        "top of each other); may be repeated."
    ),
]
Crop = Annotated[str | None, typer.Option(metavar="X0,Y0,X1,Y1", help="Keep the cells of a rectangle, micrometres.")]
By = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN[,COLUMN]",
        help="Make a slide of each section: the values of these columns of obs, such as library_id; or z, barcode-suffix, "
        "barcode-prefix.",
    ),
]
Z = Annotated[
    str | None,
    typer.Option(
        metavar="Z[,Z]", help="Keep the cells of one depth, or of a range, if positions have a third coordinate."
    ),
]
Split = Annotated[
    SplitKind,
    typer.Option(help="Split into train, validation and test as in the paper, in strips of y, or in random blocks."),
]
SplitGapUm = Annotated[
    float | None,
    typer.Option(
        min=0.1,
        help="Minimum distance between the regions of strips or blocks, micrometres; cells in between belong to no region.",
        show_default="6 radii",
    ),
]
Sheet = Annotated[
    Path | None,
    typer.Option(
        help="CSV of downloads: a column download, and columns name, condition, tissue, sample, platform, bin_um, "
        "radius_um, microns_per_pixel, layer, crop, by, z or cells for values that differ from the options of the command."
    ),
]
Jobs = Annotated[int, typer.Option(min=1, help="Number of downloads to prepare at a time, each in its own process.")]
Force = Annotated[bool, typer.Option("--force", help="Replace existing prepared slides.")]
