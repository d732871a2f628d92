"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cifm_cli.verification import verification_skipped


def _skip_verification(context: typer.Context, given: bool) -> bool:
    """Skip the verification until the command has ended."""
    if given:
        context.with_resource(verification_skipped())
    return given


Slides = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[SLIDE]...",
        help="Prepared slides (.h5ad), or folders of them.",
        show_default="every slide in prepared/",
    ),
]
Slide = Annotated[
    Path | None,
    typer.Argument(metavar="[SLIDE]", help="A prepared slide (.h5ad).", show_default="the slide in prepared/"),
]
Model = Annotated[
    Path | None,
    typer.Option(
        "--model", metavar="RUN", help="A training run, or its model.safetensors.", show_default="runs/latest"
    ),
]
Models = Annotated[
    list[Path] | None,
    typer.Option(
        "--model",
        metavar="RUN",
        help="A training run, or its model.safetensors; may be repeated.",
        show_default="runs/latest",
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Output folder; created if missing.")]
Seed = Annotated[
    int, typer.Option("--seed", min=0, help="Seed of all random draws; the same seed gives the same result.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
TrustPickle = Annotated[
    bool,
    typer.Option(
        "--trust-pickle",
        help="Read annotators that are stored as pickles. A pickle can run code: use files from trusted sources only.",
    ),
]
NoVerify = Annotated[
    bool,
    typer.Option(
        "--no-verify",
        callback=_skip_verification,
        help="Use slides and models whose content was changed after they were written, without comparing checksums.",
    ),
]
Adapt = Annotated[
    Literal["none", "slide"],
    typer.Option(
        "--adapt",
        help="slide: fit the model to each slide before it is used, from the slide's own visible cells, in seconds and without "
        "training; genes that the model was not trained on are then predicted too. none: use the model as trained.",
    ),
]
Backend = Annotated[
    str,
    typer.Option(
        "--backend", metavar="NAME", help="Implementation of the graph network: auto, or a name in `cifm backends`."
    ),
]
Device = Annotated[
    str,
    typer.Option("--device", metavar="NAME", help="Device: auto, cpu or cuda."),
]
Precision = Annotated[
    Literal["float32", "bfloat16"],
    typer.Option(
        "--precision", help="Precision of matrix products; bfloat16 needs hardware support, and weights stay float32."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a key of the recipe, such as train.steps=500; may be repeated."
    ),
]
