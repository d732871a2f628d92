"""`cifm evaluate`: compare models with baselines on hidden cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from cifm_cli import workspace
from cifm_cli.commands import evaluate_options as own
from cifm_cli.commands import options

if TYPE_CHECKING:
    from pathlib import Path

    from cifm_cli.evaluation.run import Evaluation, ShowTable
    from cifm_cli.evaluation.setup import EvaluateConfig
    from cifm_cli.report.table import Table

PRETRAIN = "pretrain"  # the shipped recipe that --leave-out trains with by default


def evaluate(
    slides: options.Slides = None,
    model: options.Models = None,
    region: own.RegionName = None,
    geometry: own.Geometries = None,
    block_radii: own.BlockRadii = None,
    rounds: own.Rounds = None,
    leave_out: own.LeaveOut = None,
    recipe: own.Recipe = None,
    settings: own.Settings = None,
    train_minutes: own.TrainMinutes = None,
    adapt: options.Adapt = "slide",
    annotator: own.Annotator = None,
    trust_pickle: options.TrustPickle = False,
    save_predictions: own.SavePredictions = False,
    out: options.Out = workspace.EVALUATION,
    backend: options.Backend = "auto",
    device: options.Device = "auto",
    devices: own.Devices = 1,
    precision: options.Precision = "float32",
    seed: options.Seed = 0,
    no_verify: options.NoVerify = False,
    as_json: options.Json = False,
) -> None:
    """Compare models with strong baselines on the same hidden cells, with confidence intervals of the differences."""
    from cifm_cli.evaluation.report import files
    from cifm_cli.evaluation.run import evaluate as run_evaluation
    from cifm_cli.evaluation.setup import EvaluateConfig
    from cifm_cli.report import terminal

    _check_usage(leave_out, model, trains=any((recipe, settings, train_minutes)))
    files.check_folder(out)  # before the computation, which may take hours
    config = EvaluateConfig(
        slides=workspace.slide_paths(slides or ()),
        models=[] if leave_out is not None else [workspace.run_folder(run) for run in model or (None,)],
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
        adapt=adapt,
        seed=seed,
        num_processes=devices,
    )
    tables: list[tuple[str, Table]] = []  # shown after the verdict, which is known last
    if leave_out is not None:
        limit = [] if train_minutes is None else [f"train.max_minutes={train_minutes}"]
        changes = [*(settings or ()), *limit]
        evaluation = _leave_out(config, leave_out, recipe, changes, out, lambda *table: tables.append(table))
    else:
        evaluation = run_evaluation(config, lambda *table: tables.append(table))
    files.write(out, evaluation.metrics, evaluation.results, save_predictions=save_predictions)
    _show(evaluation, tables, out / files.REPORT_FILE)
    if as_json:
        terminal.emit(evaluation.metrics)


def _show(evaluation: Evaluation, tables: list[tuple[str, Table]], page: Path) -> None:
    """Print the verdict, then the tables, and write the verdict into the cards of the models."""
    from cifm_cli.model_card.card import update_cards
    from cifm_cli.report import terminal

    verdict = evaluation.metrics["verdict"]
    terminal.say(verdict["sentence"])
    for remark in verdict["remarks"]:
        terminal.say(f"- {remark}")
    for title, table in tables:
        terminal.show_table(title, table)
    terminal.say(f"maps, all predictors and what the words mean: {page}")
    # The models of --leave-out are those of an experiment, which nobody shares.
    for card in [] if "leave_out" in evaluation.metrics else update_cards(evaluation.metrics):
        terminal.say(f"wrote the verdict into the model card {card}")


def _check_usage(leave_out: str | None, model: list[Path] | None, *, trains: bool) -> None:
    """Refuse options that exclude each other; `trains` tells whether an option of the trainings is given."""
    if leave_out is not None and model:
        raise typer.BadParameter("--leave-out trains its own models, leave --model out")
    if trains and leave_out is None:
        raise typer.BadParameter("--recipe, --set and --train-minutes are for the trainings of --leave-out")


def _leave_out(
    config: EvaluateConfig, key: str, recipe: str | None, changes: list[str], out: Path, show_table: ShowTable
) -> Evaluation:
    """Train and evaluate with each group of slides left out."""
    from cifm_cli import recipe as recipes
    from cifm_cli.cross_validation.run import FOLDER, LeaveOutConfig, leave_out

    loaded = recipes.load(recipes.find(recipe or PRETRAIN), changes)
    return leave_out(LeaveOutConfig(key, loaded, out / FOLDER, config), show_table)
