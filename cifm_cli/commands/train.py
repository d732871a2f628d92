"""`cifm train`: train a model on prepared slides."""

from __future__ import annotations

import os
from datetime import datetime

from cifm_cli import workspace
from cifm_cli.commands import options
from cifm_cli.commands import train_options as own


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
    seed: own.Seed = None,
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
    changes = [*(settings or ()), *([f"train.precision={precision}"] if precision else [])]
    name = f"{path.stem}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    if (workspace.RUNS / name).exists():  # of another training that started in this second
        name = f"{name}-{os.getpid()}"
    result = launch(
        TrainConfig(
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
    )
    if result:
        write_learning_curve(result.folder)
        write_card(result.folder)
    if as_json and result:
        emit(result.to_json())
