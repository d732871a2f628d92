"""The command line: all commands in one Typer app, and the only place where errors become messages and exit codes.

Exit codes: 0 success, 1 an error that the user can fix, 2 wrong usage, 130 Ctrl-C, 143 SIGTERM. Any other exception is a
bug and keeps its traceback.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.main import get_command

from cifm_backends import BackendUnavailableError
from cifm_cli.commands import (
    annotate,
    backends,
    demo,
    doctor,
    embed,
    evaluate,
    export,
    import_release,
    inspect,
    predict,
    prepare,
    probe,
    pull,
    push,
    recipes,
    share,
    simulate,
    train,
)
from cifm_cli.commands import (
    run as run_steps,
)
from cifm_cli.errors import (
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    EXIT_USAGE,
    CifmError,
    StopRequested,
    raising_on_stop_signals,
)
from cifm_cli.report import terminal
from cifm_cli.system_errors import machine_problem
from cifm_cli.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable


# Idle threads that spin slow down everything on a machine with other busy processes. OpenMP and OpenBLAS read these
# variables when they are imported; values that the user has set are kept.
THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}
# joblib, which is imported by other libraries only, warns where /dev/shm is read-only.
OTHER_VARIABLES = {"JOBLIB_MULTIPROCESSING": "0"}

_MAX_NAME = 200  # characters of the name of a file in a message

# What a command that lacks an argument looks like.
EXAMPLES = {
    "run": "cifm run xenium DOWNLOAD/",
    "train": "cifm train recipes/xenium.toml",
    "predict": "cifm predict prepared/SLIDE.h5ad --at places.csv",
    "probe": "cifm probe embedded/ --label cluster",
    "export": "cifm export embedded/SLIDE.h5ad --to xenium-explorer",
    "inspect": "cifm inspect prepared/SLIDE.h5ad",
}

EPILOG = """\
Getting started:

- `cifm demo`: all steps on a synthetic tissue, in four minutes
- `cifm prepare DOWNLOAD`, `cifm train recipes/xenium.toml`, `cifm evaluate`: the same on your slide
- `cifm run xenium DOWNLOAD`: these three and `cifm embed` in one command
- `cifm COMMAND --help`: all options of a command
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

PIPELINE: dict[str, Callable[..., None]] = {
    "run": run_steps.run,
    "prepare": prepare.prepare,
    "train": train.train,
    "evaluate": evaluate.evaluate,
    "embed": embed.embed,
    "predict": predict.predict,
    "probe": probe.probe,
    "share": share.share,
    "simulate": simulate.simulate,
    "export": export.export,
}
TOOLS: dict[str, Callable[..., None]] = {
    "demo": demo.demo,
    "inspect": inspect.inspect,
    "import-release": import_release.import_release,
    "push": push.push,
    "pull": pull.pull,
    "backends": backends.backends,
    "doctor": doctor.doctor,
}
for panel, commands in (("From a download to results", PIPELINE), ("Tools", TOOLS)):
    for name, command in commands.items():
        app.command(name, rich_help_panel=panel)(command)
app.add_typer(annotate.app, name="annotate", rich_help_panel="Tools")
app.add_typer(recipes.app, name="recipes", rich_help_panel="Tools")


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"cifm {__version__}")
        raise typer.Exit


def _be_quiet(context: typer.Context, given: bool) -> bool:
    """Be quiet until the command has ended."""
    if given:
        context.with_resource(terminal.quietened())
    return given


@app.callback()
def cifm(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", envvar="CIFM_DEBUG", hidden=True)] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet",
            "-q",
            envvar="CIFM_QUIET",
            callback=_be_quiet,
            help="Print warnings, errors and results only. Stands before the command: cifm --quiet train ...",
        ),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Predict the expression of a cell from the cells around it, on 10x Visium, Visium HD and Xenium slides.

    Prepare a download, train a Cellular Interaction Foundation Model on it, compare the model with simple
    predictors, and use it. Each command finds the output of the previous one in the working folder.
    """
    del quiet  # its callback has done its work
    context.obj.debug |= debug  # `cifm demo` calls this again for each of its commands


def main(argv: list[str] | None = None) -> int:
    """Run a command line and turn errors into messages and exit codes.

    Args:
        argv: Arguments after `cifm`; those of the process by default.

    Returns:
        The exit code.
    """
    words = sys.argv[1:] if argv is None else argv
    switches = Switches()
    try:
        return _run_command(words or ["--help"], switches)
    except (CifmError, BackendUnavailableError) as error:
        if switches.debug:
            raise
        hint = error.hint if isinstance(error, CifmError) else "see which backends work here with `cifm backends`"
        terminal.fail(str(error), hint)
        return EXIT_ERROR
    except OSError as error:
        problem = machine_problem(error)
        if switches.debug or problem is None:
            raise
        terminal.fail(f"{_shortened(error.filename)}: {problem.reason}", problem.hint)
        return EXIT_ERROR
    except typer.TyperException as error:
        return _report_usage(error)


def _run_command(words: list[str], switches: Switches) -> int:
    """Run a command line; returns the exit code, also after a signal."""
    try:
        with raising_on_stop_signals(), terminal.showing_logs():
            code: Any = get_command(app).main(words, "cifm", standalone_mode=False, obj=switches)
    except StopRequested:
        return _report_interruption(EXIT_TERMINATED)
    except KeyboardInterrupt:  # while the command line is built, before Typer catches it
        code = EXIT_INTERRUPTED
    if code == EXIT_INTERRUPTED:  # Typer's exit code for Ctrl-C
        return _report_interruption(EXIT_INTERRUPTED)
    return code if isinstance(code, int) else 0


def run() -> None:
    """Entry point of the console script."""
    for name, value in (THREADS | OTHER_VARIABLES).items():
        os.environ.setdefault(name, value)
    terminal.prepare_streams()
    code = main()
    try:
        sys.stdout.flush()
    except OSError as error:
        if not code and not isinstance(
            error, BrokenPipeError
        ):  # that is a reader, such as `head`, which has seen enough
            terminal.fail(f"cannot write stdout: {os.strerror(error.errno or 0).lower()}", "write it elsewhere")
            code = EXIT_ERROR
        # The interpreter flushes once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _shortened(name: object) -> str:
    """The name of a file, without the middle of a very long one."""
    text = str(name)
    return text if len(text) <= _MAX_NAME else f"{text[:40]} ... {text[-40:]}"


def _report_usage(error: typer.TyperException) -> int:
    """Report wrong usage in the format of all other errors."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "cifm"
    message = error.format_message().replace("Value error, ", "")  # the prefix of a pydantic message
    hint = f"see `{path} --help`"
    example = EXAMPLES.get(path.removeprefix("cifm "), "")
    if message.lower().startswith("missing argument") and example:
        hint = f"for example `{example}`; see `{path} --help`"
    if message.startswith("No such command") and path == "cifm annotate" and (given := message.split("'")[1:-1]):
        # Other commands take their slides as first word.
        hint = f"to assign types: cifm annotate apply {given[0]}" if Path(given[0]).exists() else hint
    if path != "cifm" and getattr(error, "option_name", None) in ("--quiet", "-q"):
        hint = f"it stands before the command: cifm --quiet {path.removeprefix('cifm ')}"
    terminal.fail(message[:1].lower() + message[1:].rstrip("."), hint)
    return EXIT_USAGE


def _report_interruption(code: int) -> int:
    """Report that the command was stopped. A training run has already logged how to resume it."""
    terminal.say("interrupted; no incomplete file is left")
    return code
