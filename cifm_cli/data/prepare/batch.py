"""Several downloads in one call: each becomes a slide of its own, and a failure does not stop the others."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TYPE_CHECKING, NamedTuple

from cifm_cli.data.prepare.pipeline import PrepareResult, prepare_download, slide_name
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from cifm_cli.data.prepare.config import PrepareConfig


class PrepareTask(NamedTuple):
    """A download and the options to prepare it with."""

    download: Path
    config: PrepareConfig


class PrepareFailure(NamedTuple):
    """A download that could not be prepared, with the message and the hint of the error."""

    download: Path
    message: str
    hint: str


def prepare_all(tasks: Sequence[PrepareTask], num_jobs: int = 1) -> Iterator[PrepareResult | PrepareFailure]:
    """Prepare downloads; after a failure the next one is tried.

    Args:
        tasks: Downloads with their options.
        num_jobs: Number of downloads to prepare at a time, each in a process of its own; with 1, all in this process.

    Returns:
        An iterator over the outcomes, in the order of the tasks, each available as soon as it is known.

    Raises:
        CifmError: Two slides would have one name. This is checked before the first download is read.
    """
    names = Counter((task.config.out, slide_name(*task)) for task in tasks)
    (_, name), times = names.most_common(1)[0]
    if times > 1:
        raise CifmError(
            f"{times} downloads would be prepared as {name!r}",
            "name each with --name, or in the column name of a --sheet",
        )
    num_workers = min(num_jobs, len(tasks))
    return map(_prepare, tasks) if num_workers == 1 else _prepare_in_processes(tasks, num_workers)


def failure_error(failures: Sequence[PrepareFailure], num_tasks: int) -> CifmError:
    """The error that a call with failures ends with.

    Args:
        failures: At least one.
        num_tasks: Number of downloads of the call.

    Returns:
        The failure itself for a single download, or else an error that lists the downloads that failed.
    """
    if num_tasks == 1:
        return CifmError(failures[0].message, failures[0].hint)
    return CifmError(
        f"{len(failures)} of {num_tasks} downloads were not prepared: {', '.join(str(f.download) for f in failures)}",
        "correct the errors above and run the same command again; slides that are already prepared are kept",
    )


def _prepare(task: PrepareTask) -> PrepareResult | PrepareFailure:
    try:
        return prepare_download(*task)
    except CifmError as error:
        return PrepareFailure(task.download, error.message, error.hint)


def _prepare_in_processes(tasks: Sequence[PrepareTask], num_workers: int) -> Iterator[PrepareResult | PrepareFailure]:
    # A fork of a process with threads may hang, and a fork counts the memory of its parent as its own.
    pool = ProcessPoolExecutor(num_workers, mp_context=get_context("spawn"))
    try:
        for task, future in [(task, pool.submit(_prepare, task)) for task in tasks]:
            try:
                outcome = future.result()
            except BrokenProcessPool:
                outcome = _killed(task)
            yield outcome
    finally:
        pool.shutdown(cancel_futures=True)


def _killed(task: PrepareTask) -> PrepareFailure:
    message = f"{task.download}: a process was killed before this download was prepared"
    return PrepareFailure(task.download, message, "if memory ran out, prepare fewer downloads at a time with --jobs")
