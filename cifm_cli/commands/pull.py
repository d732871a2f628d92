"""`cifm pull`: download a model from the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cifm_cli import workspace
from cifm_cli.commands import options


def pull(
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Folder of the run.", show_default="runs/NAME"),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option("--revision", metavar="REVISION", help="Branch, tag or commit.", show_default="the newest"),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Download a model from the Hugging Face hub as a run, which all commands take with --model (extra hub)."""
    from cifm_cli.hub.models import pull_model
    from cifm_cli.report import terminal

    folder = out or workspace.RUNS / repository.rpartition("/")[2]
    model = pull_model(repository, folder, revision)
    if model.left_out:
        terminal.say(f"note: not downloaded, as no model of cifm has such files: {', '.join(model.left_out)}")
    terminal.say(f"{folder}: {model.parameters:,} parameters, {model.genes:,} genes; use it with --model {folder}")
    if as_json:
        terminal.emit(model.to_json())
