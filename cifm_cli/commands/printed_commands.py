"""Running of other commands by `cifm demo` and `cifm run`, which print each command as a user would type it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer


def run_printed(context: typer.Context, words: Sequence[str]) -> None:
    """Print a command, then parse and run it as the shell would, so that the printed command is the one that runs.

    Args:
        context: Context of the command that calls this one.
        words: The command line after `cifm`.

    Raises:
        typer.Exit: The command has failed.
    """
    from cifm_cli.report import terminal

    terminal.say(f"\n$ {shlex.join(['cifm', *words])}")
    root = context.find_root()
    code = root.command.main(list(words), "cifm", standalone_mode=False, obj=root.obj)
    if code:
        raise typer.Exit(code)


def list_results(folder: Path, results: Mapping[str, str]) -> None:
    """Print where results are and what they are.

    Args:
        folder: The folder that the commands ran in.
        results: Path within the folder to a description.
    """
    from cifm_cli.report import terminal

    terminal.say("\nDone. Results:")
    for path, content in results.items():
        terminal.say(f"  {folder / path!s:<40}  {content}")
