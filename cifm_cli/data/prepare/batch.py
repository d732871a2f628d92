"""Preparing several downloads in one call. Each becomes one or more slides; a failure does not affect the others."""

from __future__ import annotations

import logging
from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from cifm_cli.data.prepare.pipeline import prepare_sections
from cifm_cli.data.prepare.slide_names import slide_name
from cifm_cli.errors import CifmError
from cifm_cli.processes import WorkerPool
from cifm_cli.storage.names import require_different_files
from cifm_cli.workspace import require_folder_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from cifm_cli.data.prepare.config import PrepareConfig
    from cifm_cli.data.prepare.existing import PrepareResult


class PrepareTask(NamedTuple):
    """A download and the options to prepare it with."""

    download: Path
    config: PrepareConfig


class PrepareFailure(NamedTuple):
    """A download, or a section of one, that could not be prepared, with the message and the hint of the error."""

    download: Path
    message: str
    hint: str


def prepare_all(tasks: Sequence[PrepareTask], num_jobs: int = 1) -> Iterator[PrepareResult | PrepareFailure]:
    """Prepare downloads, and go on after a failure.

    Args:
        tasks: Downloads with their options.
        num_jobs: Number of downloads that are prepared at a time, each in a process of its own. With 1, all are
            prepared in this process.

    Returns:
        An iterator over the outcomes in the order of the tasks, one per section of a download that is split. An outcome is
        available as soon as it and those before it are known.

    Raises:
        CifmError: Two slides would get the same name, or the folder has the name of a file. No download is prepared in
            that case.
    """
    # Checked before any work, as both slides would be written to the same file.
    targets = Counter((task.config.out, slide_name(*task)) for task in tasks)
    (out, name), times = targets.most_common(1)[0]
    if times > 1:
        same = [str(task.download) for task in tasks if (task.config.out, slide_name(*task)) == (out, name)]
        raise CifmError(
            f"{times} downloads would be prepared as {name!r}: {', '.join(same)}",
            "name each with --name, or in the column name of a --sheet",
        )
    for folder in {folder for folder, _ in targets}:
        require_folder_name(folder)
        names = [name for other, name in targets if other == folder]
        require_different_files(names, folder, "name each with --name, or in the column name of a --sheet")
    num_workers = min(num_jobs, len(tasks))
    if num_workers > 1:
        return _attempt_in_pool(tasks, num_workers)
    return chain.from_iterable(map(_attempt, tasks))


def failure_error(failures: Sequence[PrepareFailure], num_tasks: int, num_outcomes: int | None = None) -> CifmError:
    """The error that a call with failures ends with.

    Args:
        failures: At least one.
        num_tasks: Number of downloads of the call.
        num_outcomes: Number of slides and failures, if a download was split; by default that of the downloads.

    Returns:
        The failure itself if it is the only outcome, or else an error that lists the downloads that failed.
    """
    number = num_outcomes or num_tasks
    if number == 1:
        return CifmError(failures[0].message, failures[0].hint)
    downloads = ", ".join(dict.fromkeys(str(failure.download) for failure in failures))
    what = (
        f"downloads were not prepared: {downloads}"
        if number == num_tasks
        else f"slides were not prepared, of {downloads}"
    )
    return CifmError(
        f"{len(failures)} of {number} {what}",
        "correct the errors above and run the same command again; slides that are already prepared are kept",
    )


def _attempt(task: PrepareTask) -> Iterator[PrepareResult | PrepareFailure]:
    """Prepare one download in this process."""
    try:
        for outcome in prepare_sections(*task):
            if isinstance(outcome, CifmError):
                yield PrepareFailure(task.download, outcome.message, outcome.hint)
            else:
                yield outcome
    except CifmError as error:
        yield PrepareFailure(task.download, error.message, error.hint)


def _attempt_in_pool(tasks: Sequence[PrepareTask], num_workers: int) -> Iterator[PrepareResult | PrepareFailure]:
    """Prepare downloads in several processes, and yield the outcomes in the order of the tasks."""
    outcomes: dict[int, list[PrepareResult | PrepareFailure]] = {}
    hint = "the memory may have been used up: prepare fewer downloads at a time with --jobs"
    next_number = 0
    with WorkerPool(num_workers, _start_worker, name="preparing process", hint=hint, log_level=logging.INFO) as pool:
        for (number, task), outcome in pool.attempt(enumerate(tasks)):
            if isinstance(outcome, CifmError):  # the process was killed: `_attempt` returns every other error
                outcomes[number] = [PrepareFailure(task.download, f"{task.download}: {outcome.message}", outcome.hint)]
            else:
                outcomes[number] = outcome
            while next_number in outcomes:
                yield from outcomes.pop(next_number)
                next_number += 1


def _start_worker(_number: int) -> Callable[[tuple[int, PrepareTask]], list[PrepareResult | PrepareFailure]]:
    return _attempt_numbered


def _attempt_numbered(numbered: tuple[int, PrepareTask]) -> list[PrepareResult | PrepareFailure]:
    return list(_attempt(numbered[1]))
