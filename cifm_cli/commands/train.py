"""`cifm train`: train a model on prepared slides."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from cifm_cli import workspace
from cifm_cli.commands import options


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or a name in `cifm recipes list`.")],
    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data",
            metavar="PATH",
            help="Prepared slides or folders of them.",
            show_default="prepared, or those of the resumed run",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder of the run.", show_default="runs/RECIPE-TIME"),
    ] = None,
    settings: options.Settings = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out, or runs/latest.")] = False,
    init: Annotated[
        Path | None, typer.Option("--init", metavar="RUN", help="Start from the weights of this run (fine-tuning).")
    ] = None,
    backend: options.Backend = "auto",
    device: options.Device = "auto",
    devices: Annotated[
        int | None,
        typer.Option(min=1, help="Processes on each machine: one for each GPU, or several on CPU.", show_default="1"),
    ] = None,
    nodes: Annotated[
        int, typer.Option(min=1, help="Number of machines; start the command on each, with srun or torchrun.")
    ] = 1,
    precision: Annotated[
        Literal["float32", "bfloat16"] | None,
        typer.Option("--precision", help="Short for --set train.precision=NAME.", show_default="the recipe's"),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            min=0,
            help="Seed of every random choice: same seed, same result.",
            show_default="0, or that of the resumed run",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Train a model on prepared slides to infer masked cells from the cells around them."""
    from cifm_cli import recipe as recipes
    from cifm_cli.report.terminal import emit
    from cifm_cli.training.config import TrainConfig
    from cifm_cli.training.launch import launch

    path = recipes.find(recipe)
    changes = [*(settings or ()), *([f"train.precision={precision}"] if precision else [])]
    name = f"{path.stem}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    result = launch(
        TrainConfig(
            recipe=recipes.load(path, changes),
            slides=workspace.slide_paths(data or ()) if data or not resume else (),
            folder=out or (workspace.LATEST.resolve() if resume else workspace.RUNS / name),
            resume=resume,
            init=workspace.run_folder(init) if init else None,
            backend=backend,
            device=device,
            seed=seed,
            latest=workspace.LATEST,
            devices=devices,
            nodes=nodes,
        )
    )
    if as_json and result:
        emit(result.to_json())
