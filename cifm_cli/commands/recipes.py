"""`cifm recipes`: list, show, copy and check training recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cifm_cli.commands import options

app = typer.Typer(help="List, show, copy and check training recipes.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A shipped recipe, or the path of a recipe.")]


@app.command("list")
def list_recipes(as_json: options.Json = False) -> None:
    """List the recipes that come with cifm."""
    from cifm_cli import recipe
    from cifm_cli.report import terminal

    descriptions = {name: recipe.load(path).description for name, path in recipe.shipped().items()}
    if as_json:
        terminal.emit(descriptions)
    else:
        terminal.listing(list(descriptions.items()))


@app.command()
def show(name: Name) -> None:
    """Print a recipe with its comments."""
    from cifm_cli import recipe

    typer.echo(recipe.read(recipe.find(name)), nl=False)


@app.command()
def copy(
    name: Name,
    target: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="File or folder to write.", show_default="NAME.toml")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Copy a recipe to edit it."""
    from cifm_cli import recipe, workspace
    from cifm_cli.errors import CifmError
    from cifm_cli.report import terminal

    source = recipe.find(name)
    target = target or Path(source.name)
    target = target / source.name if target.is_dir() else target
    if target.exists() and not force:
        raise CifmError(f"{target}: already exists", "give another name, or replace it with --force")
    with workspace.atomic_path(target) as temporary:
        temporary.write_bytes(source.read_bytes())
    terminal.say(f"wrote {target}; train with: cifm train {target}")


@app.command()
def check(
    name: Name,
    settings: options.Settings = None,
    as_json: options.Json = False,
) -> None:
    """Check a recipe and list all its mistakes, without training."""
    from cifm_cli import recipe
    from cifm_cli.report import terminal

    path = recipe.find(name)
    resolved = recipe.load(path, settings or ())
    terminal.say(f"{path}: valid")
    if as_json:
        terminal.emit(resolved.model_dump(mode="json"))
