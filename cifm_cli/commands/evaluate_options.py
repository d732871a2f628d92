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
    typer.Option(
        "--region",
        help="Region whose cells are hidden and predicted.",
        show_default="the recipe's, or test; with --leave-out all",
    ),
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
LeaveOut = Annotated[
    str | None,
    typer.Option(
        "--leave-out",
        metavar="KEY",
        help="Leave every slide, sample or other group of slides out once: train on the others, and evaluate it. KEY: slide, "
        "or a key that the slides store, such as sample (`cifm prepare --sample`, the same for all slides of a patient).",
        show_default="off",
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="RECIPE",
        help="With --leave-out: recipe of the trainings, a file or a name in `cifm recipes list`.",
        show_default="pretrain",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="With --leave-out: change a key of the recipe, such as train.steps=500; may be repeated.",
    ),
]
TrainMinutes = Annotated[
    float | None,
    typer.Option(
        "--train-minutes",
        min=0.001,
        help="With --leave-out: largest time of each training, in minutes.",
        show_default="the recipe's",
    ),
]
