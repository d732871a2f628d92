"""What people read while a command runs: progress, tables and notes, all on stderr. Results go to stdout, as JSON."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import rich.table
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from cifm_cli.report.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.progress import Task

_LONG = 100  # characters of a value before it is cut


def _stderr() -> Console:
    # Made anew each time: tests and callers may replace sys.stderr.
    return Console(file=sys.stderr, highlight=False, emoji=False, soft_wrap=True)


def say(message: str) -> None:
    """Print one plain line for people."""
    _stderr().print(message, markup=False)


def warn(message: str) -> None:
    """Print one `warning:` line for people."""
    _stderr().print(Text.assemble(("warning: ", "yellow"), message))


class TerminalHandler(logging.Handler):
    """Shows what library code logs: warnings as `warning:` lines, everything else as plain lines, all on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record.

        Args:
            record: What was logged.
        """
        (warn if record.levelno >= logging.WARNING else say)(record.getMessage())


@contextmanager
def showing_logs() -> Iterator[None]:
    """Show what `cifm_cli` logs while a command runs; without this, Python shows warnings only."""
    logger, handler = logging.getLogger("cifm_cli"), TerminalHandler()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def shows_logs() -> bool:
    """Whether `showing_logs` is in force in this process, and its level has not been raised."""
    logger = logging.getLogger("cifm_cli")
    return logger.isEnabledFor(logging.INFO) and any(isinstance(one, TerminalHandler) for one in logger.handlers)


def fail(message: str, hint: str) -> None:
    """Print what went wrong and what to do about it: one `error:` line and one `hint:` line, for people and grep."""
    for label, style, text in (("error", "bold red", message), ("hint", "cyan", hint)):
        _stderr().print(Text.assemble((f"{label}: ", style), " ".join(text.split())))


def emit(content: Any) -> None:  # noqa: ANN401 - JSON is any
    """Print a result on stdout as JSON, for scripts.

    Args:
        content: What `json.dumps` takes; NaN is refused.
    """
    sys.stdout.write(json.dumps(content, indent=2, allow_nan=False) + "\n")


def listing(rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns on stdout: the result of a command that only tells, so that it can be piped.

    Args:
        rows: Cells as text, all rows of the same length.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")


def flatten(facts: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Turn nested facts into `(section.key, text)` rows for `listing`.

    Args:
        facts: What `emit` would take.
        prefix: Put before each key.

    Returns:
        One row for every leaf; lists are joined by commas, long texts end in an ellipsis.
    """
    rows: list[tuple[str, str]] = []
    for key, value in facts.items():
        if isinstance(value, dict):
            rows += flatten(value, f"{prefix}{key}.")
        else:
            values = value if isinstance(value, list) else ["-" if value is None else value]
            text = ", ".join(map(str, values))
            rows.append((prefix + key, text if len(text) <= _LONG else text[:_LONG] + " ..."))
    return rows


def show_table(title: str, table: Table) -> None:
    """Print a table on stderr.

    Args:
        title: Text above the table.
        table: Its content; the cells in `table.best` are bold.
    """
    shown = rich.table.Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for position, name in enumerate(table.columns):
        shown.add_column(name, justify="left" if position == 0 else "right", no_wrap=True)
    best = set(table.best)
    for i, row in enumerate(table.rows):
        shown.add_row(*(Text(cell, style="bold" if (i, j) in best else "") for j, cell in enumerate(row)))
    console = _stderr()
    console.width = max(console.width, 400)  # rich would cut cells to fit; a narrow terminal wraps the line instead
    console.print(shown)


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], best: Sequence[tuple[int, int]] = ()
) -> None:
    """Print a table given by its parts; see `show_table`."""
    show_table(title, Table(columns, rows, best))


class _Rate(ProgressColumn):
    """Units per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f}/s", style="progress.data.speed")


@contextmanager
def progress(description: str, total: float | None) -> Iterator[Callable[..., None]]:
    """A live bar with rate and time left; silent when stderr is not a terminal, or logs are not shown on it.

    Args:
        description: What is being counted.
        total: How many units; None when unknown.

    Yields:
        `advance(amount=1, description=None)`.
    """
    console = _stderr()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(
        *columns,
        console=console,
        disable=not (console.is_terminal and shows_logs()),
        transient=True,
        redirect_stdout=False,
    ) as bar:
        task = bar.add_task(description, total=total)

        def advance(amount: float = 1, description: str | None = None) -> None:
            bar.update(task, advance=amount, description=description)

        yield advance
