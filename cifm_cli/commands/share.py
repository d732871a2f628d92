"""`cifm share`: find which microenvironments samples have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cifm_cli import workspace
from cifm_cli.commands import options


def share(
    slides: Annotated[
        list[Path], typer.Argument(metavar="EMBEDDED...", help="Embedded slides (.h5ad), or folders of them.")
    ],
    level: Annotated[
        Literal["microenvironment", "cell"],
        typer.Option(
            "--level", help="Embedding of a cell with its neighbours (X_cifm), or without them (X_cifm_cell)."
        ),
    ] = "microenvironment",
    k: Annotated[int, typer.Option("--k", metavar="N", min=1, help="Nearest neighbours of each cell.")] = 100,
    clusters: Annotated[
        int | None,
        typer.Option(
            "--clusters",
            metavar="N",
            min=1,
            max=50,
            help="Clusters of each sample.",
            show_default="the number with the best silhouette",
        ),
    ] = None,
    of: Annotated[
        list[str] | None,
        typer.Option(
            "--of",
            metavar="SAMPLE",
            help="Cluster the cells of this sample; may be repeated.",
            show_default="every sample",
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            "--label",
            metavar="COLUMN",
            help="Column of obs with cell types.",
            show_default="cifm_cell_type, if present",
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            "--group",
            metavar="COLUMN",
            help="Compare groups of samples: a column of obs, or condition, tissue or platform.",
        ),
    ] = None,
    center: Annotated[
        Literal["sample", "none"],
        typer.Option(
            "--center",
            help="sample: remove shifts between samples, such as batch effects, where microenvironments of two samples match "
            "under one shift. none: use the embeddings as they are.",
        ),
    ] = "sample",
    balance: Annotated[
        bool | None,
        typer.Option(
            "--balance/--no-balance",
            help="Search neighbours among equal numbers of cells of each sample.",
            show_default="if one sample has more than twice the cells of another",
        ),
    ] = None,
    search: Annotated[
        Literal["auto", "exact", "approximate"],
        typer.Option(
            "--search", help="auto: exact up to 100,000 cells, approximate with measured recall above (faiss)."
        ),
    ] = "auto",
    permutations: Annotated[
        int, typer.Option("--permutations", metavar="N", min=19, help="Permutations for the types of clusters.")
    ] = 999,
    out: options.Out = workspace.SHARING,
    seed: options.Seed = 0,
    no_verify: options.NoVerify = False,
    as_json: options.Json = False,
) -> None:
    """Find which microenvironments samples have in common, from the nearest neighbours of their embeddings."""
    from cifm_cli.report import terminal
    from cifm_cli.sharing import report
    from cifm_cli.sharing.outputs import share_slides
    from cifm_cli.sharing.share import ShareConfig

    paths = workspace.slide_paths(slides, workspace.EMBEDDED, "cifm embed SLIDE")
    config = ShareConfig(k, clusters, tuple(of or ()), center, balance, search, permutations, seed)
    sharing, content = share_slides(paths, level, label, group, config, out)
    terminal.show_table("What samples share", report.matrix_summary(sharing))
    terminal.say(report.explain(sharing))
    if sharing.group_test is not None:
        terminal.say(report.explain_groups(sharing))
    terminal.say(f"report: {out / 'sharing.html'}")
    if as_json:
        terminal.emit(content)
