"""Several downloads in one call: each becomes a slide of its own, and one that fails leaves the others be."""

from __future__ import annotations

import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr
from io import StringIO
from multiprocessing import get_context
from typing import TYPE_CHECKING, NamedTuple

from cifm_cli.data.prepare.pipeline import PrepareResult, prepare_download, slide_name
from cifm_cli.errors import CifmError
from cifm_cli.report import terminal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from cifm_cli.data.readers.base import PrepareConfig


class Task(NamedTuple):
    """A download and what is asked of it."""

    download: Path
    options: PrepareConfig


class Failure(NamedTuple):
    """A download that could not be prepared, and the error it met."""

    download: Path
    message: str
    hint: str


def prepare_all(tasks: Sequence[Task], num_jobs: int = 1) -> tuple[list[PrepareResult], list[Failure]]:
    """Prepare downloads; all are tried.

    Args:
        tasks: Downloads, each with its options.
        num_jobs: How many to prepare at a time, each in a process of its own; 1 for none but this.

    Returns:
        Prepared slides and failures, each in the order of the tasks.

    Raises:
        CifmError: Two slides would get one name; none is prepared then.
    """
    names = Counter((task.options.out, slide_name(*task)) for task in tasks)
    (_, name), times = names.most_common(1)[0]
    if times > 1:
        raise CifmError(
            f"{times} downloads would be prepared as {name!r}",
            "name each with --name, or in the column name of a --sheet",
        )
    workers = min(num_jobs, len(tasks))
    outcomes = list(map(_attempt, tasks) if workers == 1 else _attempt_apart(tasks, workers))
    results = [outcome for outcome in outcomes if isinstance(outcome, PrepareResult)]
    return results, [outcome for outcome in outcomes if isinstance(outcome, Failure)]


def refuse(failures: Sequence[Failure], num_tasks: int) -> None:
    """Tell of every failure.

    Args:
        failures: Failures.
        num_tasks: Downloads that were tried.

    Raises:
        CifmError: There is a failure.
    """
    if num_tasks == 1 and failures:
        raise CifmError(failures[0].message, failures[0].hint)
    for failure in failures:
        terminal.fail(failure.message, failure.hint)
    if failures:
        raise CifmError(
            f"{len(failures)} of {num_tasks} downloads were not prepared: {', '.join(str(f.download) for f in failures)}",
            "put right what is said above and run the same again; the slides that are prepared are kept as they are",
        )


def _attempt(task: Task) -> PrepareResult | Failure:
    try:
        return prepare_download(*task)
    except CifmError as error:
        return Failure(task.download, error.message, error.hint)


def _attempt_apart(tasks: Sequence[Task], num_jobs: int) -> Iterator[PrepareResult | Failure]:
    # A fork of a process with threads may hang, and a fork counts the memory of its parent as its own.
    pool = ProcessPoolExecutor(num_jobs, mp_context=get_context("spawn"))
    try:
        for task, future in [(task, pool.submit(_attempt_quietly, task)) for task in tasks]:
            try:
                outcome, told = future.result()
            except BrokenProcessPool:
                outcome, told = _killed(task), ""
            sys.stderr.write(told)
            yield outcome
    finally:
        pool.shutdown(cancel_futures=True)


def _attempt_quietly(task: Task) -> tuple[PrepareResult | Failure, str]:
    """Attempt a download in a process of its own; what it tells people comes back, to be shown in one piece."""
    with redirect_stderr(StringIO()) as told:
        outcome = _attempt(task)
    return outcome, told.getvalue()


def _killed(task: Task) -> Failure:
    message = f"{task.download}: a process was killed before this download was prepared"
    return Failure(task.download, message, "was the memory used up? prepare fewer at a time with --jobs")
