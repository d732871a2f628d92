"""The command reference: every command, argument and option of the Typer application, with its default and help text."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args, get_origin

from typer.main import get_command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

    Command = TyperCommand | TyperGroup
    Parameter = TyperArgument | TyperOption

HEAD = """\
# Commands

Every command with its arguments, options and defaults, as `cifm COMMAND --help` prints them. This page is made from the code.

Options of `cifm` itself, such as `--quiet`, stand before the command: `cifm --quiet train ...`. Results for other programs go to
stdout (`--json`); progress, tables and warnings go to stderr.

## Exit codes

| code | meaning |
|---|---|
| 0 | success |
| 1 | an error that you can fix: one line `error:`, one line `hint:` |
| 2 | wrong usage, such as an unknown option |
| 130, 143 | interrupted by Ctrl-C, or by SIGTERM, SIGUSR1 or SIGHUP; finished results are kept |

A traceback is a bug; please report it with the output of `cifm doctor`. `cifm --debug COMMAND` shows the traceback of every error.
"""
TYPE_NAMES = {str: "TEXT", int: "INTEGER", float: "NUMBER", Path: "PATH"}


def render_commands() -> str:
    """Return the page in Markdown."""
    from cifm_cli.app import app

    sections = [_section(path, command) for path, command in _commands(get_command(app), "cifm")]
    return "\n".join([HEAD, *sections])


def _commands(command: Command, path: str) -> Iterator[tuple[str, Command]]:
    """The command with its path as it is typed, then the commands below it."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from _commands(inner, f"{path} {name}")


def _section(path: str, command: Command) -> str:
    """Heading, help text, usage, and one table for the arguments and one for each group of options."""
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    arguments = [parameter for parameter in shown if not _options(parameter)]
    options = [parameter for parameter in shown if _options(parameter)]
    lines = ["#" * max(2, len(path.split())), " ", path, "\n\n", command.help or "", "\n\n"]
    words = [path, *(["[OPTIONS]"] if options else []), *(_value(argument) for argument in arguments)]
    if hasattr(command, "commands"):
        words.append("COMMAND")
    lines += ["```text\n", " ".join(words), "\n```\n\n"]
    lines.append(_table("argument", arguments))
    for panel in dict.fromkeys(getattr(option, "rich_help_panel", None) for option in options):
        lines.append(f"{panel}:\n\n" if panel else "")
        lines.append(_table("option", [option for option in options if option.rich_help_panel == panel]))
    return "".join(lines)


def _options(parameter: Parameter) -> list[str]:
    """The option strings, such as `--out` and `-o`; none for an argument."""
    return [text for text in [*parameter.opts, *getattr(parameter, "secondary_opts", [])] if text.startswith("-")]


def _table(kind: str, parameters: list[Parameter]) -> str:
    """A table of parameters, or nothing if there are none."""
    if not parameters:
        return ""
    rows = [f"| {_name(parameter)} | {_default(parameter)} | {_help(parameter)} |" for parameter in parameters]
    return "\n".join([f"| {kind} | default | |", "|---|---|---|", *rows, "", ""])


def _name(parameter: Parameter) -> str:
    """The option strings and the placeholder of the value, as code."""
    options = _options(parameter)
    if not options:
        return f"`{_value(parameter)}`"
    value = "" if getattr(parameter, "is_flag", False) else f" `{_value(parameter)}`"
    return ", ".join(f"`{option}`" for option in options) + value.replace("|", "\\|")


def _value(parameter: Parameter) -> str:
    """What is typed for a parameter: its placeholder, its choices, or the name of its type."""
    if parameter.metavar:
        return str(parameter.metavar)
    annotation = parameter.type_descriptor.annotation
    if get_origin(annotation) is list:
        (annotation,) = get_args(annotation)
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "|".join(str(choice.value) for choice in annotation)
    return TYPE_NAMES.get(annotation, str(parameter.name).upper())


def _default(parameter: Parameter) -> str:
    """The default: the words that the help shows in its place, or the value itself."""
    described = getattr(parameter, "show_default", None)
    if isinstance(described, str):
        return described.replace("|", "\\|")
    value = parameter.default
    if getattr(parameter, "required", False):
        return "required"
    if value is None or value is False or value in ((), [], ""):
        return ""
    if isinstance(value, (list, tuple)):
        return ", ".join(f"`{item}`" for item in value)
    if isinstance(value, Enum):
        value = value.value
    return "on" if value is True else f"`{value}`"


def _help(parameter: Parameter) -> str:
    """The help text in one line of a table, with the variable of the environment that sets the option."""
    text = " ".join((parameter.help or "").split()).replace("|", "\\|").replace("<", "&lt;")
    variable = getattr(parameter, "envvar", None)
    return f"{text} Also set by the environment variable `{variable}`." if variable else text
