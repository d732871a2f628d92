"""Options of `cifm train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Recipe = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or a name in `cifm recipes list`.")]
Data = Annotated[
    list[Path] | None,
    typer.Option(
        "--data",
        metavar="PATH",
        help="Prepared slides or folders of them; may be repeated.",
        show_default="prepared, or those of the resumed run",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="DIR", help="Folder of the run.", show_default="runs/RECIPE-TIME"),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out, or runs/latest.")]
Init = Annotated[
    Path | None, typer.Option("--init", metavar="RUN", help="Start from the weights of this run (fine-tuning).")
]
Devices = Annotated[
    int | None,
    typer.Option(min=1, help="Processes on each machine: one for each GPU, or several on CPU.", show_default="1"),
]
Nodes = Annotated[
    int, typer.Option(min=1, help="Number of machines; start the command on each, with srun or torchrun.")
]
SingleProcess = Annotated[
    bool,
    typer.Option("--single-process", help="Train in this process alone, also within a SLURM step of several tasks."),
]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16"] | None,
    typer.Option("--precision", help="Short for --set train.precision=NAME.", show_default="the recipe's"),
]
MaxMinutes = Annotated[
    float | None,
    typer.Option(
        "--max-minutes",
        min=0.001,
        help="Largest time of the training, in minutes: short for --set train.max_minutes=N.",
        show_default="the recipe's",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        min=0,
        help="Seed of all random draws; the same seed gives the same result.",
        show_default="0, or that of the resumed run",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check slides, recipe and machine, print the plan, and train nothing.")
]
