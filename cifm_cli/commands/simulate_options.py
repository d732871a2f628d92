"""Options of `cifm simulate`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Form(StrEnum):
    """What an updated cell becomes; see `cifm_cli.simulation.config`."""

    state = "state"
    sample = "sample"
    mean = "mean"
    gated = "gated"


Inject = Annotated[
    str, typer.Option("--inject", metavar="TYPE", help="Cell type to inject, such as tcell or 'plasma cell'.")
]
Count = Annotated[
    int | None,
    typer.Option("--count", min=0, help="Number of cells to inject.", show_default="2 % of the cells of the window"),
]
Steps = Annotated[
    int | None, typer.Option("--steps", min=1, help="Number of steps.", show_default="two updates of every cell")
]
Share = Annotated[
    float,
    typer.Option("--share", min=0.001, max=0.5, help="Fraction of the cells that one step masks and predicts."),
]
FormName = Annotated[
    Form,
    typer.Option(
        "--form",
        help="What a cell becomes: a cell of one of the tissue's own states, counts drawn gene by gene, the mean, or the "
        "gated mean.",
    ),
]
Replicates = Annotated[
    int, typer.Option("--replicates", min=1, help="Repetitions with other positions and another schedule.")
]
Crop = Annotated[
    str | None,
    typer.Option("--crop", metavar="X0,Y0,X1,Y1", help="Simulate only this box, in micrometres."),
]
MaxCells = Annotated[
    int, typer.Option("--max-cells", min=10, help="Simulate at most this many cells, in the middle of the tissue.")
]
Markers = Annotated[
    Path | None,
    typer.Option(
        "--markers", metavar="TSV", help="Marker genes (columns cell_type and symbol) that extend the packaged table."
    ),
]
Reference = Annotated[
    Path | None,
    typer.Option(
        "--inject-from", "--reference", metavar="H5AD", help="Inject copies of cells of this file, not of the slide."
    ),
]
ReferenceLabel = Annotated[
    str,
    typer.Option(
        "--inject-label", "--reference-label", metavar="COLUMN", help="obs column of --inject-from with cell types."
    ),
]
