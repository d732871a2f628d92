"""Options of `cifm predict`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Form(StrEnum):
    """Point estimate to write."""

    MEAN = "mean"
    MEDIAN = "median"
    GATED = "gated"


Slide = Annotated[Path, typer.Argument(metavar="SLIDE", help="A prepared slide (.h5ad).")]
At = Annotated[
    Path | None,
    typer.Option(
        "--at",
        metavar="CSV",
        help="Locations at which to predict: a CSV with the columns x_um and y_um, in micrometres.",
        show_default="every cell, each while it is hidden",
    ),
]
FormName = Annotated[
    Form,
    typer.Option(
        "--form",
        help="Point estimate to write. mean; gated: the mean, but zero where P(expressed) is at most --threshold; median: "
        "zero where P(expressed) is at most 1/2, else mean / P(expressed), the mean of cells that express the gene.",
    ),
]
Threshold = Annotated[
    float, typer.Option("--threshold", min=0, max=1, help="P(expressed) up to which `gated` is zero.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        help="The .h5ad to write.",
        show_default="predicted/SLIDE.h5ad, with --at predicted/SLIDE_at_CSV.h5ad",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]
