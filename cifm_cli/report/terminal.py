"""Terminal output of commands: messages, tables and progress bars on stderr, results as JSON or text on stdout."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import threading
import time
import unicodedata
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar, copy_context
from itertools import accumulate
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import rich.table
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
from rich.text import Text

from cifm_cli.errors import writing
from cifm_cli.path_text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.progress import Task

    from cifm_cli.report.table import Table

_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # categories of Unicode
_MAX_LENGTH = 100  # characters of a value in `flatten`
LINE_SECONDS = 30.0  # between two lines of progress where stderr is a file or a pipe
_MIN_TIMED = 2  # units whose speed is known, from which the remaining time is estimated
_QUIET: ContextVar[bool] = ContextVar("quiet", default=False)


class _Stderr:
    """stderr without errors: if the terminal is closed or the pipe has no reader, messages are lost and the work goes on."""

    def __init__(self) -> None:
        # Looked up each time, because tests and callers may replace sys.stderr.
        self._stream = sys.stderr

    def write(self, text: str) -> int:
        """Write a text, or nothing if that is not possible."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, if that is possible."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute of a stream
        """All other attributes are those of stderr."""
        return getattr(self._stream, name)


def prepare_streams() -> None:
    """Make stdout and stderr usable whatever the caller gave: closed, or with an encoding that lacks characters."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # closed: otherwise the next file would get its number, and messages of C libraries
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:  # how Python represents a closed stream
            setattr(sys, name, open(number, "w", encoding="utf8", errors="backslashreplace", closefd=False))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            # A terminal with ASCII lacks most characters, and names of files may hold bytes that are no text.
            stream.reconfigure(errors="backslashreplace")


def _stderr() -> Console:
    return Console(file=cast("IO[str]", _Stderr()), highlight=False, emoji=False, soft_wrap=True)


def visible(text: str) -> str:
    """Replace control characters and other invisible ones, which a name in a file may contain, by their codes.

    A terminal would run control characters, and cannot show halves of surrogate pairs.
    """
    return "".join(
        letter.encode("unicode_escape").decode("ascii")
        if letter not in "\n\t" and unicodedata.category(letter) in _INVISIBLE
        else letter
        for letter in printable(text)
    )


def say(message: str) -> None:
    """Print one plain line on stderr, unless `quietened`."""
    if _QUIET.get():
        return
    # Messages contain brackets, such as `cifm[dgl]`, which rich would take for markup.
    _stderr().print(visible(message), markup=False)


def warn(message: str) -> None:
    """Print one `warning:` line on stderr."""
    _stderr().print(Text.assemble(("warning: ", "yellow"), visible(message)))


class TerminalHandler(logging.Handler):
    """Prints log records on stderr: warnings as `warning:` lines, all others as plain lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record.

        Args:
            record: The log record.
        """
        (warn if record.levelno >= logging.WARNING else say)(record.getMessage())


@contextmanager
def showing_logs() -> Iterator[None]:
    """Show log records of `cifm_cli` and progress bars while a command runs.

    Outside this context, when the package is used as a library, nothing is printed: progress bars are off, and log
    records go to the handlers of the application (Python's default shows warnings only).
    """
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
    """Whether `showing_logs` is active in this process, and the level of the logger has not been raised."""
    logger = logging.getLogger("cifm_cli")
    return logger.isEnabledFor(logging.INFO) and any(
        isinstance(handler, TerminalHandler) for handler in logger.handlers
    )


@contextmanager
def quietened() -> Iterator[None]:
    """Within the block, print warnings, errors and results only: no messages, tables or progress."""
    logger = logging.getLogger("cifm_cli")
    level, token = logger.level, _QUIET.set(True)
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
        _QUIET.reset(token)


def fail(message: str, hint: str) -> None:
    """Print one `error:` line and one `hint:` line on stderr."""
    for label, style, text in (("error", "bold red", message), ("hint", "cyan", hint)):
        # Line breaks in messages of other libraries are replaced, so that an error is one line for scripts.
        _stderr().print(Text.assemble((f"{label}: ", style), " ".join(visible(text).split())))


def emit(content: Any) -> None:  # noqa: ANN401 - JSON is any
    """Print a result as JSON on stdout.

    Args:
        content: A JSON value without NaN.
    """
    _write(json.dumps(content, indent=2, allow_nan=False) + "\n")


def listing(rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns of text on stdout.

    Args:
        rows: Rows of text, all of the same length.
    """
    shown = [[visible(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        _write(line.rstrip() + "\n")


def _write(text: str) -> None:
    """Write to stdout, which may be a file on a full disk."""
    with writing(Path("stdout")):
        sys.stdout.write(text)


def flatten(facts: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten nested dictionaries to rows for `listing`.

    Args:
        facts: A dictionary of JSON values.
        prefix: Prefix of all keys.

    Returns:
        One row (`section.key`, text) per value; lists are joined by commas, long lists and texts are shortened.
    """
    rows: list[tuple[str, str]] = []
    for key, value in facts.items():
        if isinstance(value, dict):
            rows += flatten(value, f"{prefix}{key}.")
        else:
            values = value if isinstance(value, list) else ["-" if value is None else value]
            rows.append((prefix + key, _shorten(list(map(str, values)))))
    return rows


def _shorten(values: Sequence[str]) -> str:
    """Values joined by commas, those that fit into a line; a single long one is cut."""
    ends = accumulate(len(value) + 2 for value in values)  # with a comma and a space
    kept = [value for value, end in zip(values, ends, strict=True) if end - 2 <= _MAX_LENGTH]
    if len(kept) == len(values):
        return ", ".join(values)
    return f"{', '.join(kept)}, and {len(values) - len(kept)} more" if kept else f"{values[0][:_MAX_LENGTH]} ..."


def show_table(title: str, table: Table) -> None:
    """Print a table on stderr.

    Args:
        title: Text above the table.
        table: Its content; the cells in `table.best` are bold.
    """
    if _QUIET.get():
        return
    # Texts, because a name of a slide may contain brackets, which rich would take for markup.
    shown = rich.table.Table(title=Text(visible(title), style="bold"), title_justify="left", box=None, pad_edge=False)
    for position, name in enumerate(table.columns):
        shown.add_column(Text(visible(name)), justify="left" if position == 0 else "right", no_wrap=True)
    best = set(table.best)
    for i, row in enumerate(table.rows):
        shown.add_row(*(Text(visible(cell), style="bold" if (i, j) in best else "") for j, cell in enumerate(row)))
    console = _stderr()
    console.width = max(console.width, 400)  # rich would cut cells to fit; a narrow terminal wraps the line instead
    console.print(shown)


class _Rate(ProgressColumn):
    """Units per second."""

    def render(self, task: Task) -> Text:
        """Show the speed of a task; nothing before it is known."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f}/s", style="progress.data.speed")


class _Remaining(ProgressColumn):
    """Remaining time, which a limit may end before the last unit is done."""

    def __init__(self, limit_s: float | None) -> None:
        super().__init__()
        self._limit_s = limit_s

    def render(self, task: Task) -> Text:
        """Show the remaining time of a task; dashes before it is known."""
        left_s = _remaining_s(task.time_remaining, task.elapsed or 0.0, self._limit_s)
        return Text("-:--:--" if left_s is None else _clock(left_s), style="progress.remaining")


def _remaining_s(by_units_s: float | None, elapsed_s: float, limit_s: float | None) -> float | None:
    """The shorter one of the time that the other units take, and the time that is left of a limit."""
    known = [] if by_units_s is None else [by_units_s]
    known += [] if limit_s is None else [max(limit_s - elapsed_s, 0.0)]
    return min(known, default=None)


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


class _ProgressLines:
    """Progress as a line every `LINE_SECONDS`, for logs."""

    def __init__(self, description: str, total: float | None, limit_s: float | None) -> None:
        self._description, self._total, self._limit_s = description, total, limit_s
        self._done = self._skipped = 0.0
        self._start = self._last = time.monotonic()
        self._has_moved = False
        self._lock = threading.Lock()

    def advance(self, amount: float, description: str | None) -> None:
        """Count units; say so if the last line is old enough."""
        if not self._has_moved and time.monotonic() - self._start < 1.0:
            self._skipped += amount  # of an earlier run: it tells nothing about the speed
        self._has_moved, self._done = self._has_moved or amount > 0, self._done + amount
        self._description = description or self._description
        self.show_if_due()

    def show_if_due(self) -> None:
        """Print a line if the last one is old enough."""
        now = time.monotonic()
        with self._lock:
            if now - self._last < LINE_SECONDS:
                return
            self._last = now
        say(self._line(now - self._start))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within the block, print lines also while no unit ends: the first one may take minutes."""
        ended = threading.Event()

        def watch() -> None:
            """Print a line every `LINE_SECONDS` until the block ends."""
            while not ended.wait(LINE_SECONDS):
                self.show_if_due()

        thread = threading.Thread(target=copy_context().run, args=(watch,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _line(self, elapsed_s: float) -> str:
        """What is done, how fast, and how long it will take."""
        if self._total is None and not self._done:
            return f"{self._description}: {_clock(elapsed_s)} so far"
        done = f"{self._description}: {self._done:,.0f}"
        num_timed = self._done - self._skipped
        speed = num_timed / elapsed_s
        # The first units compile functions and fill caches: their speed says nothing about the others.
        if self._total is not None and num_timed < _MIN_TIMED:
            return f"{done} of {self._total:,.0f} after {_clock(elapsed_s)}"
        if self._total is None or speed <= 0:
            return f"{done} after {_clock(elapsed_s)}"
        left_s = _remaining_s((self._total - self._done) / speed, elapsed_s, self._limit_s)
        share = f"{100 * self._done / max(self._total, 1):.0f} %"
        return f"{done} of {self._total:,.0f} ({share}), {speed:,.1f}/s, {_clock(left_s or 0.0)} left"


@contextmanager
def progress(description: str, total: float | None, limit_s: float | None = None) -> Iterator[Callable[..., None]]:
    """Show a progress bar with rate and remaining time while a command runs; a line now and then if stderr is no terminal.

    Args:
        description: Text before the bar.
        total: Number of units; None if unknown.
        limit_s: Seconds after which the work ends, even if units are left.

    Yields:
        `advance(amount=1, description=None)`, which moves the bar on.
    """
    # stderr, so that stdout holds nothing but the result.
    console = _stderr()
    lines = _ProgressLines(description, total, limit_s) if shows_logs() and not console.is_terminal else None
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        _Remaining(limit_s),
    )
    with (
        Progress(
            *columns,
            console=console,
            disable=not (console.is_terminal and shows_logs()),
            transient=True,
            redirect_stdout=False,
        ) as bar,
        lines.watched() if lines else nullcontext(),
    ):
        task = bar.add_task(description, total=total)

        def advance(amount: float = 1, description: str | None = None) -> None:
            """Move the bar on, and change its text if one is given."""
            bar.update(task, advance=amount, description=description)
            if lines:
                lines.advance(amount, description)

        yield advance
