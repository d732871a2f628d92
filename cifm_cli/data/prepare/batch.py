"""Preparing several downloads in one call. Each becomes a slide; a failure does not affect the other downloads."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from cifm_cli.data.prepare.pipeline import PrepareResult, prepare_download, slide_name
from cifm_cli.errors import CifmError
from cifm_cli.processes import WorkerPool
from cifm_cli.report import terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
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
    """Prepare downloads, and go on after a failure.

    Args:
        tasks: Downloads, each with its options.
        num_jobs: Number of downloads that are prepared at a time, each in a process of its own. With 1, all are
            prepared in this process.

    Returns:
        Prepared slides and failures, each in the order of the tasks.

    Raises:
        CifmError: Two slides would get the same name. No download is prepared in that case.
    """
    names = Counter((task.options.out, slide_name(*task)) for task in tasks)
    (_, name), times = names.most_common(1)[0]
    if times > 1:
        raise CifmError(
            f"{times} downloads would be prepared as {name!r}",
            "name each with --name, or in the column name of a --sheet",
        )
    num_workers = min(num_jobs, len(tasks))
    outcomes = [_attempt(task) for task in tasks] if num_workers == 1 else _attempt_in_pool(tasks, num_workers)
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
    """Prepare one download in this process."""
    try:
        return prepare_download(*task)
    except CifmError as error:
        return Failure(task.download, error.message, error.hint)


def _attempt_in_pool(tasks: Sequence[Task], num_workers: int) -> list[PrepareResult | Failure]:
    """Prepare downloads in several processes; outcomes are in the order of the tasks."""
    outcomes: dict[int, PrepareResult | Failure] = {}
    hint = "the memory may have been used up: prepare fewer downloads at a time with --jobs"
    with WorkerPool(num_workers, _start_worker, name="preparing process", hint=hint, log_level=logging.INFO) as pool:
        for (number, task), outcome in pool.attempt(enumerate(tasks)):
            if isinstance(outcome, CifmError):  # the process was killed: `_attempt` returns every other error
                outcomes[number] = Failure(task.download, f"{task.download}: {outcome.message}", outcome.hint)
            else:
                outcomes[number] = outcome
    return [outcomes[number] for number in range(len(tasks))]


def _start_worker(_number: int) -> Callable[[tuple[int, Task]], PrepareResult | Failure]:
    return _attempt_numbered


def _attempt_numbered(numbered: tuple[int, Task]) -> PrepareResult | Failure:
    return _attempt(numbered[1])
