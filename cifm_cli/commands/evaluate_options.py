"""Options of `cifm evaluate`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Region(StrEnum):
    """Regions of the split."""

    train = "train"
    validation = "validation"
    test = "test"
    all = "all"


class Geometry(StrEnum):
    """Ways of hiding cells."""

    scattered = "scattered"
    region = "region"
    whole = "whole"


RegionName = Annotated[
    Region | None,
    typer.Option("--region", help="Region whose cells are hidden and predicted.", show_default="the recipe's, or test"),
]
Geometries = Annotated[
    list[Geometry] | None,
    typer.Option(
        "--geometry",
        help="Hide scattered cells (5 % at a time), blocks of cells, or the whole region; may be repeated.",
        show_default="the recipe's, or scattered and region",
    ),
]
BlockRadii = Annotated[
    list[float] | None,
    typer.Option(
        "--block-radii",
        min=0.5,
        help="Side of the blocks of --geometry region, in radii of the graph; may be repeated.",
        show_default="the recipe's, or 5",
    ),
]
Rounds = Annotated[
    int | None,
    typer.Option(
        "--rounds",
        min=1,
        help="Largest number of folds per geometry; all folds together hide every cell once.",
        show_default="the recipe's, or all",
    ),
]
Annotator = Annotated[
    str | None,
    typer.Option(
        "--annotator",
        metavar="NAME[:PATH]",
        help="Also compare cell types of actual and predicted cells: markers, or one in `cifm annotate list`.",
        show_default="the recipe's, or none",
    ),
]
SavePredictions = Annotated[
    bool, typer.Option("--save-predictions", help="Also write the predictions of every hidden cell (.h5ad).")
]
Devices = Annotated[
    int,
    typer.Option(min=1, help="Number of processes to divide the predictors among; they use the GPUs in turn."),
]
