"""Sample sheets: one download per row, with the options in which it differs from the command's."""

from __future__ import annotations

import difflib
import math
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cifm_cli.data.crop import parse_crop
from cifm_cli.data.prepare.batch import PrepareTask
from cifm_cli.data.prepare.planes import parse_depth
from cifm_cli.data.prepare.section_columns import parse_columns
from cifm_cli.data.prepare.slide_names import slide_name
from cifm_cli.data.readers.files import as_stored
from cifm_cli.data.readers.registry import find_reader
from cifm_cli.data.readers.text_records import read_records
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cifm_cli.data.prepare.config import PrepareConfig


def _positive(text: str) -> float:
    """A finite number above zero."""
    number = float(text)
    if not 0 < number < math.inf:
        raise ValueError("not positive")
    return number


DOWNLOAD, CELLS = "download", "cells"
# Column to the function that converts its text.
COLUMNS: dict[str, Callable[[str], Any]] = {
    "name": str,
    "condition": str,
    "tissue": str,
    "sample": str,
    "platform": str,
    "bin_um": int,
    "radius_um": _positive,
    "microns_per_pixel": _positive,
    "layer": str,
    "crop": parse_crop,
    "by": parse_columns,
    "z": parse_depth,
}


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
    records = read_records(path)
    columns = [name.lower() for name in records.columns]
    problems = _unknown_columns(list(filter(None, columns)))
    tasks: dict[int, PrepareTask] = {}
    for number, fields in zip(records.lines, records.rows, strict=True):
        row = dict(zip(columns, fields, strict=True))
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
                kind = "whole" if column == "bin_um" else "positive"
                problems.append(f"{column} {text!r} is not a {kind} number")
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
        except OSError as error:  # a name that is too long, or a disk that is not there
            problems.append(f"{str(task.download)[:80]}: {error.strerror}")
    return problems


def _check_files(task: PrepareTask) -> None:
    if task.config.cells is None:
        find_reader(task.download, task.config.platform)
    for file in (task.download, task.config.cells):
        if file is not None and not as_stored(file).exists():
            raise CifmError(f"{file}: no such file", "correct the path")


def _repeated_names(tasks: dict[int, PrepareTask]) -> list[str]:
    rows = defaultdict(list)
    for number, task in tasks.items():
        rows[slide_name(*task)].append(str(number))
    return [f"rows {', '.join(same)}: all named {name!r}" for name, same in rows.items() if len(same) > 1]
