"""`cifm evaluate`: how well a model predicts hidden cells, beside every baseline."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from cifm_cli import workspace
from cifm_cli.commands import options


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


def evaluate(
    slides: options.Slides = None,
    model: options.Models = None,
    region: Annotated[
        Region | None,
        typer.Option(
            "--region", help="Region whose cells are hidden and predicted.", show_default="the recipe's, or test"
        ),
    ] = None,
    geometry: Annotated[
        list[Geometry] | None,
        typer.Option(
            "--geometry",
            help="Hide scattered cells (5 %), blocks of cells, or the whole region; may be repeated.",
            show_default="the recipe's, or scattered and region",
        ),
    ] = None,
    block_radii: Annotated[
        list[float] | None,
        typer.Option(
            "--block-radii",
            min=0.5,
            help="Side of the blocks of --geometry region, in radii; may be repeated.",
            show_default="the recipe's, or 5",
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            "--rounds",
            min=1,
            help="Largest number of folds per geometry; all folds together hide every cell once.",
            show_default="the recipe's, or all",
        ),
    ] = None,
    annotator: Annotated[
        str | None,
        typer.Option(
            "--annotator",
            metavar="NAME[:PATH]",
            help="Also compare cell types of actual and predicted cells: markers, or one in `cifm annotate list`.",
            show_default="the recipe's, or none",
        ),
    ] = None,
    trust_pickle: options.TrustPickle = False,
    save_predictions: Annotated[
        bool, typer.Option("--save-predictions", help="Also write the predictions of every hidden cell (.h5ad).")
    ] = False,
    out: options.Out = workspace.EVALUATION,
    backend: options.Backend = "auto",
    device: options.Device = "auto",
    devices: Annotated[
        int, typer.Option(min=1, help="Processes that share the predictors; GPUs are taken in turn.")
    ] = 1,
    precision: options.Precision = "float32",
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Measure models on hidden cells, beside strong baselines, with paired intervals."""
    from cifm_cli.evaluation.report import files
    from cifm_cli.evaluation.run import evaluate as run_evaluation
    from cifm_cli.evaluation.setup import EvaluateConfig
    from cifm_cli.report import terminal

    files.check_folder(out)  # before the work whose results go there
    evaluation = run_evaluation(
        EvaluateConfig(
            slides=workspace.slide_paths(slides or ()),
            models=[workspace.run_folder(run) for run in model] if model else [workspace.run_folder(None)],
            region=region.value if region else "",
            geometries=[chosen.value for chosen in geometry or ()],
            block_radii=block_radii or (),
            num_folds=rounds,
            annotator=annotator,
            trust_pickle=trust_pickle,
            save_predictions=save_predictions,
            backend=backend,
            device=device,
            precision=precision,
            seed=seed,
            num_processes=devices,
        ),
        terminal.show_table,
    )
    files.write(out, evaluation.metrics, evaluation.results, save_predictions=save_predictions)
    terminal.say(f"report and tables: {out}")
    if as_json:
        terminal.emit(evaluation.metrics)
