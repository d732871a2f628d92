"""`cifm embed`: embed the cells of prepared slides with a trained model."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from cifm_cli import workspace
from cifm_cli.commands import options


class Level(StrEnum):
    """Whether the neighbours of a cell enter its embedding."""

    MICROENVIRONMENT = "microenvironment"
    CELL = "cell"


def embed(
    slides: options.Slides = None,
    model: options.Model = None,
    levels: Annotated[
        list[Level] | None,
        typer.Option(
            "--level",
            help="Embed a cell with its neighbours (obsm X_cifm) or without them (X_cifm_cell); may be repeated.",
            show_default="both",
        ),
    ] = None,
    adapt: options.Adapt = "slide",
    out: options.Out = workspace.EMBEDDED,
    backend: options.Backend = "auto",
    device: options.Device = "auto",
    devices: Annotated[
        int, typer.Option(min=1, help="Processes that embed a slide together: one for each GPU, or several on CPU.")
    ] = 1,
    precision: options.Precision = "float32",
    seed: options.Seed = 0,
    no_verify: options.NoVerify = False,
    as_json: options.Json = False,
) -> None:
    """Embed every cell of prepared slides, with its neighbours and without them."""
    from cifm_cli.embedding.embed import SLOTS, embed_slides
    from cifm_cli.inference.loaded_model import load_model
    from cifm_cli.report.terminal import emit

    paths = workspace.slide_paths(slides or ())
    loaded = load_model(workspace.run_folder(model), backend, device, precision)
    chosen = [level for level in SLOTS if Level(level) in (levels or list(Level))]
    result = embed_slides(loaded, paths, chosen, out, devices, adapt=adapt, seed=seed)
    if as_json:
        emit({"slides": result})
