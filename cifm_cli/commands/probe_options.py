"""Options of `cifm probe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Embedded = Annotated[
    list[Path], typer.Argument(metavar="EMBEDDED...", help="Embedded slides (.h5ad or .zarr), or folders of them.")
]
Label = Annotated[
    str,
    typer.Option(
        "--label",
        metavar="COLUMN",
        help="Label to predict: a column of obs; condition, tissue or sample of the slides; or FILE.csv:COLUMN, a table with the "
        "barcode of each cell in a column called barcode. {slide} in FILE stands for the name of each slide.",
    ),
]
TrainOn = Annotated[
    list[str] | None,
    typer.Option(
        "--train-on",
        metavar="NAME",
        help="Slides, samples or platforms to train the classifier on, by name or pattern such as 'visium*'; may be repeated.",
        show_default="all that --test-on does not name",
    ),
]
TestOn = Annotated[
    list[str] | None,
    typer.Option(
        "--test-on",
        metavar="NAME",
        help="Slides, samples or platforms to test it on; may be repeated. Without --train-on and --test-on, samples (or blocks "
        "of a single slide) are held out in turn.",
        show_default="all that --train-on does not name",
    ),
]
Positive = Annotated[
    str | None,
    typer.Option("--positive", metavar="CLASS", help="Predict this class against all others together."),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore", metavar="CLASS", help="Leave out the cells of this class, such as undetermined; may be repeated."
    ),
]
OutFile = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        help="JSON file to write; a page (.html), charts (.png, .svg) and tables (.csv, .parquet) of the same name are written too.",
    ),
]
Folds = Annotated[int, typer.Option("--folds", min=2, max=20, help="Folds of the cross-validation.")]
MaxCells = Annotated[
    int,
    typer.Option(
        "--max-cells",
        metavar="N",
        min=100,
        help="Largest number of cells, with --train-on or --test-on of each side; larger data are sampled.",
    ),
]
