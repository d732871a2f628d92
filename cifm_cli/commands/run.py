"""`cifm run`: prepare, train, evaluate and embed in one command, leaving out what is done."""

from __future__ import annotations

import os
import shlex
from contextlib import chdir
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cifm_cli import workspace
from cifm_cli.commands import options
from cifm_cli.commands.printed_commands import list_results, run_printed
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from cifm_cli.recipe import Recipe

RESULTS = {
    "evaluation/report.html": "the model compared with simple predictors, on cells that were not used for training",
    "embedded": "embeddings of all cells, for scanpy: obsm X_cifm and X_cifm_cell",
    "prepared": "the prepared slides, and a page of quality control for each",
    "runs/latest": "the model, its recipe, its learning curve and its model card (README.md)",
}


def run(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped recipe.")],
    downloads: Annotated[
        list[str],
        typer.Argument(
            metavar="DOWNLOAD...",
            help="Output folders of Visium, Visium HD or Xenium, .h5ad files, or SpatialData .zarr.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Working folder; created if missing.")] = Path(
        "cifm_run"
    ),
    seed: options.Seed = 0,
    max_minutes: Annotated[
        float | None,
        typer.Option(
            "--max-minutes", min=0.001, help="Largest time of the training, in minutes.", show_default="the recipe's"
        ),
    ] = None,
    tissue: Annotated[
        str,
        typer.Option(
            help="Tissue of all downloads, such as pancreas, by which cell types are named.", show_default="the panel's"
        ),
    ] = "",
    rounds: Annotated[
        int | None,
        typer.Option(
            "--rounds",
            min=1,
            help="Largest number of rounds of the evaluation; 4 give a first impression.",
            show_default="the recipe's",
        ),
    ] = None,
) -> None:
    """Prepare downloads, train a model on them, evaluate it and embed all cells. Started again, it continues where it stopped."""
    from cifm_cli import recipe as recipes
    from cifm_cli.report import terminal

    changes = [] if max_minutes is None else [f"train.max_minutes={max_minutes:g}"]
    resolved = recipes.load(recipes.find(recipe), changes)  # before the preparation, which may take long
    if missing := [download for download in downloads if not Path(download).exists()]:  # before the folder is made
        raise CifmError(f"{missing[0]}: no such file or folder", "give the folder of a download, or an .h5ad")
    inputs = [_from_folder(download, out) for download in downloads]
    name = _from_folder(recipe, out) if Path(recipe).is_file() else recipe
    model = workspace.RUNS / recipes.find(recipe).stem
    out.mkdir(parents=True, exist_ok=True)
    terminal.say(f"\n$ cd {shlex.quote(str(out))}")
    with chdir(out):
        run_printed(context, ["prepare", *inputs, *(["--tissue", tissue] if tissue else [])])
        _train(context, ["train", name], model, resolved, changes, seed)
        _evaluate_and_embed(context, model, seed, rounds, rounds or resolved.evaluate.rounds)
    list_results(out, RESULTS)


def _train(
    context: typer.Context, command: list[str], model: Path, resolved: Recipe, changes: list[str], seed: int
) -> None:
    """Start a training, continue it, or say that it is done."""
    from cifm_cli.pipeline.finished_steps import has_started, is_trained
    from cifm_cli.report import terminal

    slides = workspace.slide_paths(())
    if is_trained(model, resolved, slides, seed):
        terminal.say(f"\n{model} is trained")
        workspace.link_latest(model)
        return
    words = [*command, "--data", str(workspace.PREPARED), "--out", str(model), "--seed", str(seed)]
    words += [word for change in changes for word in ("--set", change)]
    run_printed(context, [*words, *(["--resume"] if has_started(model) else [])])


def _evaluate_and_embed(
    context: typer.Context, model: Path, seed: int, given_rounds: int | None, rounds: int | None
) -> None:
    """Evaluate the model and embed the slides, if that was not done; `rounds` are the given ones or the recipe's."""
    from cifm_cli.pipeline.finished_steps import embedding_states, is_evaluated
    from cifm_cli.report import terminal

    slides, words = workspace.slide_paths(()), ["--model", str(model), "--seed", str(seed)]
    if is_evaluated(workspace.EVALUATION, model, slides, seed, rounds):
        terminal.say(f"\n{workspace.EVALUATION} is up to date")
    else:
        run_printed(context, ["evaluate", *words, *([] if given_rounds is None else ["--rounds", str(given_rounds)])])
    states = embedding_states(workspace.EMBEDDED, model, slides)
    if states["current"]:
        terminal.say(f"\n{workspace.EMBEDDED} is up to date")
    else:
        # Embeddings of an earlier model; `cifm embed` refuses to replace files that another program has added to.
        run_printed(context, ["embed", *words, *(["--force"] if states["replaceable"] else [])])


def _from_folder(path: str, folder: Path) -> str:
    """A path as it is written within another folder."""
    try:
        return os.path.relpath(path, folder)
    except ValueError:  # on another drive of Windows
        return str(Path(path).absolute())
