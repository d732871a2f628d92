"""One function in several processes at once, as distributed training needs it."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from multiprocessing import connection
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from cifm_cli.errors import STOP_SIGNALS, CifmError, StopRequested, handling_signals, raising_on_stop_signals
from cifm_cli.processes.worker import Reply, Worker, WorkerSettings, attempt, unblock_interrupts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from multiprocessing.connection import Connection

Result = TypeVar("Result")

GRACE_S = 20.0  # time that the other processes of a group have to end by themselves after one has failed


class LostContactError(CifmError):
    """A process of a group lost its connection to another process; the error of the other process is the cause."""


class Member(NamedTuple):
    """One process of a group."""

    name: str  # used in messages, such as `training process 0`
    environment: Mapping[str, str]  # environment variables that are set before the work begins


def run_group(
    work: Callable[[], Result], members: Sequence[Member], *, hint: str, num_threads: int | None = None
) -> list[Result]:
    """Run one function in several processes at once, and wait for the end of all of them.

    SIGINT, SIGTERM and SIGUSR1 are passed on to the processes, which may finish their current work. When one process
    fails, the others have `GRACE_S` seconds to end by themselves, and are killed then.

    Args:
        work: Function that every process runs. Must be picklable. A process recognises its part by its environment
            variables.
        members: The processes.
        hint: What the user can do when a process is killed.
        num_threads: Threads of torch in each process; None keeps torch's default.

    Returns:
        The results, in the order of `members`.

    Raises:
        CifmError: A process raised it, or was killed. A `LostContactError` is raised only if no process has another
            error, and `StopRequested` or `KeyboardInterrupt` only if no process has a `CifmError` of its own.
        WorkerError: A process raised any other exception.
    """
    workers: list[Worker] = []
    try:
        for member in members:
            settings = WorkerSettings(member.name, num_threads, environment=dict(member.environment))
            workers.append(Worker(settings, _run_once, (work,)))
        with _passing_signals_on(workers) as signals:
            _wait_for_all(workers)
    finally:
        for worker in workers:
            worker.end()
    if error := _first_cause(workers, signals, hint):
        raise error
    return [worker.reply.result for worker in workers if worker.reply]


def _run_once(pipe: Connection, work: Callable[[], object]) -> None:
    """Run the function of a group. Signals to stop raise exceptions in it, so that it can save its state."""
    # The reply is sent after the block, as a second signal must not interrupt it half-way.
    with raising_on_stop_signals():
        reply = attempt(_with_interrupts, work)
    pipe.send(reply)


def _with_interrupts(work: Callable[[], Result]) -> Result:
    unblock_interrupts()
    return work()


def _wait_for_all(workers: Sequence[Worker]) -> None:
    """Collect the replies of a group until all processes have ended."""
    latest = float("inf")
    while running := [worker for worker in workers if worker.process.is_alive()]:
        silent = [worker for worker in running if worker.reply is None]
        # A pipe is read while its process still runs: a process with a large result cannot end before that. The
        # timeout serves the deadline below.
        connection.wait([*(worker.process.sentinel for worker in running), *(worker.pipe for worker in silent)], 1.0)
        _collect_replies(workers)
        # The others may wait for the failed process forever.
        if any(_has_failed(worker) for worker in workers):
            latest = min(latest, time.monotonic() + GRACE_S)
        if time.monotonic() > latest:
            for worker in running:
                lost = LostContactError(f"{worker.name} was stopped because another process failed", "")
                # A reply that arrived earlier is kept, as it may hold the cause.
                worker.reply = worker.reply or Reply(error=lost)
                worker.process.kill()
    _collect_replies(workers)  # a process may have replied and ended since the last check


def _collect_replies(workers: Sequence[Worker]) -> None:
    for worker in workers:
        if worker.reply is None and worker.pipe.poll():
            worker.receive()


def _has_failed(worker: Worker) -> bool:
    """Whether a process has ended without a result."""
    return worker.process.exitcode is not None and (worker.reply is None or worker.reply.error is not None)


def _first_cause(workers: Sequence[Worker], signals: Sequence[int], hint: str) -> BaseException | None:
    """The error to raise: an error of a process itself before its consequences in others. None if all have a result."""
    errors: list[BaseException] = []
    for worker in workers:
        if worker.reply is None and signals:  # the signal came before the process could handle it
            errors.append(KeyboardInterrupt() if signals[0] == signal.SIGINT else StopRequested())
        elif worker.reply is None:
            errors.append(CifmError(f"{worker.name} {worker.describe_end()}", hint))
        elif worker.reply.error:
            errors.append(worker.reply.error)
    return min(errors, key=_distance_from_cause, default=None)


def _distance_from_cause(error: BaseException) -> int:
    """0 for an error of a process itself, larger where it follows from a signal or from another process."""
    if isinstance(error, LostContactError):
        return 2
    return 1 if isinstance(error, KeyboardInterrupt | StopRequested) else 0


@contextmanager
def _passing_signals_on(workers: Sequence[Worker]) -> Iterator[list[int]]:
    """Pass signals to stop on to every process within the block, instead of ending the parent.

    Yields:
        The signals that were passed on.
    """
    passed_on: list[int] = []

    def pass_on(number: int) -> None:
        """Send a signal to all workers that run."""
        passed_on.append(number)
        for worker in workers:
            # The number of a process that has ended may belong to another one by now.
            if worker.process.pid and worker.process.is_alive():
                os.kill(worker.process.pid, number)

    with handling_signals((signal.SIGINT, *STOP_SIGNALS), pass_on):
        yield passed_on
