"""A sheet of samples: one download a row, with what differs from the options of the command."""

from __future__ import annotations

import difflib
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from cifm_cli.data.prepare.batch import Task
from cifm_cli.data.prepare.filters import parse_crop
from cifm_cli.data.prepare.pipeline import recognise, slide_name
from cifm_cli.data.readers.base import PrepareConfig, open_maybe_gzip, reading
from cifm_cli.data.readers.count_table import separator
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DOWNLOAD, CELLS = "download", "cells"
COLUMNS: dict[str, Callable[[str], Any]] = {
    "name": str,
    "condition": str,
    "tissue": str,
    "sample": str,
    "platform": str,
    "bin_um": int,
    "radius_um": float,
    "microns_per_pixel": float,
    "layer": str,
    "crop": parse_crop,
}
_FIRST_ROW = 2  # as a spreadsheet counts: the header is row 1


def read_sheet(path: Path, defaults: PrepareConfig) -> list[Task]:
    """Read a sheet and look at every download in it.

    Args:
        path: CSV or TSV with the column `download`, `cells` where downloads are bare matrices, and any of `COLUMNS`.
            Paths start at the folder of the sheet; an empty field leaves the option of the command as it is.
        defaults: The options of the command.

    Returns:
        One task a row.

    Raises:
        CifmError: Something in the sheet is wrong; every problem is named, with its row.
    """
    with reading(path), open_maybe_gzip(path) as handle:
        table = pd.read_csv(
            handle,
            sep=separator(path),
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            skip_blank_lines=False,
            skipinitialspace=True,
        )
    table = table.rename(columns=lambda name: str(name).strip().lower())
    problems = _unknown_columns(list(table.columns))
    tasks: dict[int, Task] = {}
    for number, cells_of_row in enumerate(table.to_dict("records"), start=_FIRST_ROW):
        row = {str(name): str(value).strip() for name, value in cells_of_row.items()}
        if not any(row.values()):
            continue
        task, wrong = _read_row(row, path.parent, defaults)
        problems += [f"row {number}: {problem}" for problem in wrong]
        if not wrong:
            tasks[number] = task
    problems += _same_names(tasks)
    if not tasks and not problems:
        problems.append("no row names a download")
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise CifmError(f"{path}: {count}: {'; '.join(problems)}", "put them right; nothing was prepared")
    return list(tasks.values())


def _unknown_columns(names: list[str]) -> list[str]:
    known = [DOWNLOAD, CELLS, *COLUMNS]
    problems = [] if DOWNLOAD in names else [f"no column {DOWNLOAD} (it has {', '.join(names)})"]
    for name in set(names) - set(known):
        near = difflib.get_close_matches(name, known, n=1)
        problems.append(
            f"unknown column {name}, " + (f"nearest {near[0]}" if near else f"known are {', '.join(known)}")
        )
    return sorted(problems)


def _read_row(row: dict[str, str], folder: Path, defaults: PrepareConfig) -> tuple[Task, list[str]]:
    """The task of a row and what is wrong with it."""
    changes: dict[str, Any] = {}
    problems = []
    for column, convert in COLUMNS.items():
        if text := row.get(column):
            try:
                changes[column] = convert(text)
            except ValueError:
                problems.append(f"{column} {text!r} is not a number")
            except CifmError as error:
                problems.append(error.message.removeprefix("--"))
    if row.get(CELLS):
        changes[CELLS] = folder / row[CELLS]
    task = Task(folder / row.get(DOWNLOAD, ""), replace(defaults, **changes))
    if not row.get(DOWNLOAD):
        problems += [f"no {DOWNLOAD}"] if DOWNLOAD in row else []
    else:
        problems += _look(task)
    return task, problems


def _look(task: Task) -> list[str]:
    """What can be said against a task before anything is read."""
    problems = []
    for check in (lambda: slide_name(*task), lambda: _find(task)):
        try:
            check()
        except CifmError as error:
            problems.append(error.message)
    return problems


def _find(task: Task) -> None:
    if task.options.cells is None:
        recognise(task.download, task.options.platform)
    for file in (task.download, task.options.cells):
        if file is not None and not file.exists():
            raise CifmError(f"{file}: no such file", "correct the path")


def _same_names(tasks: dict[int, Task]) -> list[str]:
    rows = defaultdict(list)
    for number, task in tasks.items():
        rows[slide_name(*task)].append(str(number))
    return [f"rows {', '.join(same)}: all named {name!r}" for name, same in rows.items() if len(same) > 1]
