"""The command line: every command in one app, and the one place where errors become messages and exit codes.

0 done · 1 an error the user can put right · 2 wrong usage · 130 Ctrl-C · 143 SIGTERM. A bug keeps its traceback.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.main import get_command

from cifm_backends import BackendUnavailableError
from cifm_cli import __version__
from cifm_cli.commands import (
    annotate,
    backends,
    demo,
    doctor,
    embed,
    evaluate,
    inspect,
    predict,
    prepare,
    probe,
    recipes,
    simulate,
    train,
)
from cifm_cli.errors import CifmError, StopRequested, raising_on_stop_signals
from cifm_cli.report import terminal

if TYPE_CHECKING:
    from collections.abc import Callable

USAGE, INTERRUPTED, TERMINATED = 2, 130, 143

# Pools whose threads spin while they wait make minutes into quarters of an hour on a machine that others use too.
# Read by OpenMP and OpenBLAS when they are first imported; what the user has set stays.
THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}

EPILOG = """\
Getting started:

- `cifm demo`: the whole way on a synthetic tissue, in four minutes
- `cifm prepare DOWNLOAD`, `cifm train recipes/xenium.toml`, `cifm evaluate`: the same on your slide
- `cifm COMMAND --help`: everything that a command takes
"""


@dataclass
class Switches:
    """Options of `cifm` itself."""

    debug: bool = False


app = typer.Typer(
    name="cifm",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

WAY: dict[str, Callable[..., None]] = {
    "prepare": prepare.prepare,
    "train": train.train,
    "evaluate": evaluate.evaluate,
    "embed": embed.embed,
    "predict": predict.predict,
    "probe": probe.probe,
    "simulate": simulate.simulate,
}
AROUND: dict[str, Callable[..., None]] = {
    "demo": demo.demo,
    "inspect": inspect.inspect,
    "backends": backends.backends,
    "doctor": doctor.doctor,
}
for panel, commands in (("The way from a download to an answer", WAY), ("Around it", AROUND)):
    for name, command in commands.items():
        app.command(name, rich_help_panel=panel)(command)
app.add_typer(annotate.app, name="annotate", rich_help_panel="Around it")
app.add_typer(recipes.app, name="recipes", rich_help_panel="Around it")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cifm {__version__}")
        raise typer.Exit


@app.callback()
def cifm(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", envvar="CIFM_DEBUG", hidden=True)] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Infer the expression of a cell from the cells around it, on 10x Visium, Visium HD and Xenium slides.

    Prepare a download, train a Cellular Interaction Foundation Model on it, measure the model beside simple
    predictors, and use it. Each command finds what the one before it wrote in the folder you work in.
    """
    context.obj.debug |= debug  # `cifm demo` comes through here again for each of its lines


def main(argv: list[str] | None = None) -> int:
    """Run a command line: the one error boundary.

    Args:
        argv: Words after `cifm`; those of the process when absent.

    Returns:
        The exit code.
    """
    words = sys.argv[1:] if argv is None else argv
    switches = Switches()
    try:
        with raising_on_stop_signals(), terminal.showing_logs():
            code: Any = get_command(app).main(words or ["--help"], "cifm", standalone_mode=False, obj=switches)
    except (CifmError, BackendUnavailableError) as error:
        if switches.debug:
            raise
        hint = error.hint if isinstance(error, CifmError) else "see which backends work here with `cifm backends`"
        terminal.fail(str(error), hint)
        return 1
    except typer.TyperException as error:
        return _report_usage(error)
    except StopRequested:
        return _report_interruption(TERMINATED)
    if code == INTERRUPTED:  # what Typer makes of Ctrl-C
        return _report_interruption(INTERRUPTED)
    return code if isinstance(code, int) else 0


def run() -> None:
    """The console script."""
    for name, value in THREADS.items():
        os.environ.setdefault(name, value)
    code = main()
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough; keep the interpreter's last flush quiet
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _report_usage(error: typer.TyperException) -> int:
    """Say what is wrong with the command line, in the style of every other error."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "cifm"
    message = error.format_message()
    terminal.fail(message[:1].lower() + message[1:].rstrip("."), f"see `{path} --help`")
    return USAGE


def _report_interruption(code: int) -> int:
    """Say that the command was stopped; a training run has said by itself how to go on."""
    terminal.say("interrupted; nothing half-written is left")
    return code
