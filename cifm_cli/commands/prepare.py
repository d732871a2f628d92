"""`cifm prepare`: downloads in, prepared slides out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cifm_cli import workspace
from cifm_cli.commands import options


class SplitKind(StrEnum):
    """Ways of cutting a slide into regions."""

    regional = "regional"
    strips = "strips"
    blocks = "blocks"


def prepare(
    downloads: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="DOWNLOAD...",
            help="Output folders of Visium, Visium HD or Xenium, .h5ad files with obsm['spatial'], or SpatialData .zarr.",
        ),
    ] = None,
    out: options.Out = workspace.PREPARED,
    name: Annotated[str | None, typer.Option(help="Name of the slide.", show_default="that of the download")] = None,
    platform: Annotated[str | None, typer.Option(help="Insist on a reader.", show_default="recognised")] = None,
    bin_um: Annotated[int, typer.Option(help="Bins to take of a Visium HD download, micrometres.")] = 8,
    condition: Annotated[str, typer.Option(help="Free text that describes the sample, such as tumour.")] = "",
    tissue: Annotated[str, typer.Option(help="Free text, such as pancreas.")] = "",
    sample: Annotated[str | None, typer.Option(help="Sample the slide is of.", show_default="the slide's name")] = None,
    radius_um: Annotated[
        float | None,
        typer.Option(help="Radius of the graph, micrometres.", show_default="the platform's, or from the spacing"),
    ] = None,
    microns_per_pixel: Annotated[
        float | None, typer.Option(help="Scale of coordinates that are not micrometres.")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Where an .h5ad has its raw counts: X, raw, or a layer.")] = None,
    gene_table: Annotated[
        Path | None, typer.Option(help="CSV of Ensembl id and symbol, for symbols that the packaged table lacks.")
    ] = None,
    orthologs: Annotated[
        Path | None, typer.Option(help="CSV of Ensembl ids of another species and of human, to map its genes.")
    ] = None,
    matrix: Annotated[
        Path | None,
        typer.Option(help="Counts of another platform: .csv, .mtx, 10x .h5 or .h5ad; goes with --cells."),
    ] = None,
    cells: Annotated[Path | None, typer.Option(help="CSV of the cells of --matrix and their centres.")] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="Leave in what is dropped otherwise: mitochondrial, outside-tissue; may be repeated."),
    ] = None,
    crop: Annotated[
        str | None, typer.Option(metavar="X0,Y0,X1,Y1", help="Keep the cells of a rectangle, micrometres.")
    ] = None,
    split: Annotated[
        SplitKind,
        typer.Option(
            help="Cut into train, validation and test as the paper does, in strips of y, or in random blocks."
        ),
    ] = SplitKind.regional,
    split_gap_um: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            help="Least distance between regions of strips or blocks, micrometres; cells between are in none.",
            show_default="6 radii",
        ),
    ] = None,
    seed: options.Seed = 0,
    sheet: Annotated[
        Path | None,
        typer.Option(
            help="CSV with a column download, and name, condition, tissue, sample, platform, bin_um, radius_um, "
            "microns_per_pixel, layer, crop or cells where they differ from the options here."
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Downloads to prepare at a time, each in its own process.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace prepared slides that exist.")] = False,
    as_json: options.Json = False,
) -> None:
    """Turn downloads into prepared slides: genes and cells filtered, units checked, regions split, every drop reported."""
    from cifm_cli.data.prepare.batch import Task, prepare_all, refuse
    from cifm_cli.data.prepare.filters import parse_crop
    from cifm_cli.data.prepare.samplesheet import read_sheet
    from cifm_cli.data.prepare.splits import Split
    from cifm_cli.data.readers.base import PrepareConfig
    from cifm_cli.report.terminal import emit

    inputs = [*(downloads or ()), *([matrix] if matrix else ())]
    if bool(inputs) == bool(sheet):
        raise typer.BadParameter("give downloads, or --matrix with --cells, or a --sheet of them")
    if (cells is None) != (matrix is None) or (matrix is not None and len(inputs) > 1):
        raise typer.BadParameter("--matrix and --cells go together, without another download")
    asked = PrepareConfig(
        out=out,
        name=name,
        platform=platform,
        bin_um=bin_um,
        condition=condition,
        tissue=tissue,
        sample=sample,
        radius_um=radius_um,
        microns_per_pixel=microns_per_pixel,
        layer=layer,
        gene_table=gene_table,
        orthologs=orthologs,
        cells=cells,
        keep=tuple(keep or ()),
        crop=parse_crop(crop) if crop else None,
        split=Split(split.value, split_gap_um, seed),
        force=force,
        page=True,
    )
    tasks = read_sheet(sheet, asked) if sheet else [Task(download, asked) for download in inputs]
    results, failures = prepare_all(tasks, jobs)
    if as_json and results:
        emit({"slides": {result.name: result.to_json() for result in results}})
    refuse(failures, len(tasks))
