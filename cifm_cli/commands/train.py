"""`cifm train`: train a model on prepared slides."""

from __future__ import annotations

import os
from datetime import datetime
from typing import TYPE_CHECKING

import typer

from cifm_cli import workspace
from cifm_cli.commands import options
from cifm_cli.commands import train_options as own

if TYPE_CHECKING:
    from cifm_cli.training.config import TrainConfig


def train(
    recipe: own.Recipe,
    data: own.Data = None,
    out: own.Out = None,
    settings: options.Settings = None,
    resume: own.Resume = False,
    init: own.Init = None,
    backend: options.Backend = "auto",
    device: options.Device = "auto",
    devices: own.Devices = None,
    nodes: own.Nodes = 1,
    single_process: own.SingleProcess = False,
    precision: own.Precision = None,
    max_minutes: own.MaxMinutes = None,
    seed: own.Seed = None,
    dry_run: own.DryRun = False,
    no_verify: options.NoVerify = False,
    as_json: options.Json = False,
) -> None:
    """Train a model on prepared slides to predict the expression of masked cells from the surrounding cells."""
    from cifm_cli import recipe as recipes
    from cifm_cli.model_card.card import write_card
    from cifm_cli.report.terminal import emit
    from cifm_cli.training.config import TrainConfig
    from cifm_cli.training.launch import launch
    from cifm_cli.training.learning_curve import write_learning_curve

    path = recipes.find(recipe)
    changes = list(settings or ())
    changes += [f"train.precision={precision}"] if precision else []
    changes += [] if max_minutes is None else [f"train.max_minutes={max_minutes:g}"]
    name = f"{path.stem}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    if (workspace.RUNS / name).exists():  # of another training that started in this second
        name = f"{name}-{os.getpid()}"
    config = TrainConfig(
        recipe=recipes.load(path, changes),
        slides=workspace.slide_paths(data or ()) if data or not resume else (),
        folder=workspace.follow_latest(out or (workspace.LATEST if resume else workspace.RUNS / name)),
        resume=resume,
        init=workspace.run_folder(init) if init else None,
        backend=backend,
        device=device,
        seed=seed,
        latest=workspace.LATEST,
        devices=devices,
        nodes=nodes,
        single_process=single_process,
    )
    if dry_run:
        _show_plan(config, as_json=as_json)
        return
    result = launch(config)
    if result:
        write_learning_curve(result.folder)
        write_card(result.folder)
    if as_json and result:
        emit(result.to_json())


def _show_plan(config: TrainConfig, *, as_json: bool) -> None:
    """Print what the training would do."""
    from cifm_cli.report import terminal
    from cifm_cli.training.plan import describe_plan

    if config.resume:
        raise typer.BadParameter("--dry-run is for a new training, and --resume continues one")
    plan = describe_plan(config)
    if as_json:
        terminal.emit(plan)
    else:
        terminal.listing(terminal.flatten(plan))
        terminal.say("nothing was trained or written; the speed is shown once the first steps are taken")
