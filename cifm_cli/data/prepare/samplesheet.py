"""Sample sheets: one download per row, with the options in which it differs from the command's."""

from __future__ import annotations

import difflib
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from cifm_cli.data.crop import parse_crop
from cifm_cli.data.prepare.batch import PrepareTask
from cifm_cli.data.prepare.slide_names import slide_name
from cifm_cli.data.readers.files import LATIN_1, open_maybe_gzip, reading
from cifm_cli.data.readers.registry import find_reader
from cifm_cli.data.readers.text_tables import separator
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cifm_cli.data.prepare.config import PrepareConfig

DOWNLOAD, CELLS = "download", "cells"
# Column to the function that converts its text.
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
_FIRST_ROW = 2  # as spreadsheets count: the header is row 1


def read_samplesheet(path: Path, defaults: PrepareConfig) -> list[PrepareTask]:
    """Read a sample sheet and check that every download in it exists and is recognised.

    Args:
        path: CSV or TSV with the column `download`, `cells` for downloads that are a matrix alone, and any of
            `COLUMNS`. Paths are relative to the folder of the sheet. An empty field keeps the option of the command.
        defaults: The options of the command.

    Returns:
        One task per row.

    Raises:
        CifmError: The sheet has errors; the message lists all of them, each with its row.
    """
    table = _read_table(path)
    problems = _unknown_columns(list(table.columns))
    tasks: dict[int, PrepareTask] = {}
    for number, fields in enumerate(table.to_dict("records"), start=_FIRST_ROW):
        row = {str(name): str(value).strip() for name, value in fields.items()}
        # Spreadsheets often export empty rows at the end.
        if not any(row.values()):
            continue
        task, row_problems = _read_row(row, path.parent, defaults)
        problems += [f"row {number}: {problem}" for problem in row_problems]
        # All rows are checked before an error is raised, so that a sheet is corrected in one go.
        if not row_problems:
            tasks[number] = task
    problems += _repeated_names(tasks)
    if not tasks and not problems:
        problems.append("no row names a download")
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise CifmError(f"{path}: {count}: {'; '.join(problems)}", "correct the sheet; nothing was prepared")
    return list(tasks.values())


def _read_table(path: Path) -> pd.DataFrame:
    """All fields as text, columns in lower case."""
    with reading(path), open_maybe_gzip(path) as handle:
        table = pd.read_csv(
            handle,
            sep=separator(path),
            dtype=str,
            keep_default_na=False,
            encoding_errors=LATIN_1,
            skip_blank_lines=False,  # row numbers in messages must be those of the file
            skipinitialspace=True,
        )
    return table.rename(columns=lambda name: str(name).strip().lower())


def _unknown_columns(names: list[str]) -> list[str]:
    known = [DOWNLOAD, CELLS, *COLUMNS]
    problems = [] if DOWNLOAD in names else [f"no column {DOWNLOAD} (it has {', '.join(names)})"]
    for name in set(names) - set(known):
        similar = difflib.get_close_matches(name, known, n=1)
        suggestion = f"did you mean {similar[0]}?" if similar else f"known are {', '.join(known)}"
        problems.append(f"unknown column {name}, {suggestion}")
    return sorted(problems)


def _read_row(row: dict[str, str], folder: Path, defaults: PrepareConfig) -> tuple[PrepareTask, list[str]]:
    """The task of a row, and its problems."""
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
    task = PrepareTask(folder / row.get(DOWNLOAD, ""), replace(defaults, **changes))
    if row.get(DOWNLOAD):
        problems += _check_task(task)
    elif DOWNLOAD in row:
        problems.append(f"no {DOWNLOAD}")
    return task, problems


def _check_task(task: PrepareTask) -> list[str]:
    """Problems of a task that show before its download is read."""
    problems = []
    for check in (lambda: slide_name(*task), lambda: _check_files(task)):
        try:
            check()
        except CifmError as error:
            problems.append(error.message)
    return problems


def _check_files(task: PrepareTask) -> None:
    if task.config.cells is None:
        find_reader(task.download, task.config.platform)
    for file in (task.download, task.config.cells):
        if file is not None and not file.exists():
            raise CifmError(f"{file}: no such file", "correct the path")


def _repeated_names(tasks: dict[int, PrepareTask]) -> list[str]:
    rows = defaultdict(list)
    for number, task in tasks.items():
        rows[slide_name(*task)].append(str(number))
    return [f"rows {', '.join(same)}: all named {name!r}" for name, same in rows.items() if len(same) > 1]
