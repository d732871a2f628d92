"""Worker processes: start them, give them work, pass their errors on, and end them.

`WorkerPool` gives tasks to processes that keep a state, such as a loaded model, from one task to the next. `run_group`
runs one function in several processes at once, as distributed training does. Workers are spawned, because a fork of a
process that has threads may hang. No worker outlives the parent, and workers write nothing to the terminal unless the
function that they run does so.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
import time
import traceback
from collections import deque
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from logging.handlers import QueueHandler
from multiprocessing import connection, get_context, parent_process, resource_tracker
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from cifm_backends import BackendUnavailableError
from cifm_cli.errors import POLITE_KILLS, CifmError, StopRequested, unwinding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from multiprocessing.connection import Connection
    from types import FrameType

Task = TypeVar("Task")
Result = TypeVar("Result")

GRACE_S = 20.0  # time that the other processes of a group have to end by themselves after one has failed
STOP_SIGNALS = (signal.SIGINT, *POLITE_KILLS)

_logger = logging.getLogger("cifm_cli")  # the parent of every logger of this package


class WorkerError(RuntimeError):
    """An unexpected exception in a worker process. The message holds the traceback of the worker."""


class LostContactError(CifmError):
    """A process of a group can't reach another one, whose own error is the cause."""


class Member(NamedTuple):
    """One process of a group.

    Args:
        name: Used in messages, such as `training process 0`.
        environment: Environment variables that are set before the work begins.
    """

    name: str
    environment: Mapping[str, str]


class WorkerPool(Generic[Task, Result]):
    """Processes that take the next task whenever they are done with one.

    A context manager: workers start when the block is entered, and end when it is left, also by an exception.

    Args:
        num_workers: Number of processes.
        start: Called once in each worker, with its number from 0 on. Returns the function that turns a task into a
            result, which may keep a state. Must be picklable: a function of a module, or a `functools.partial` of one.
        name: What a worker is called in messages, such as `embedding process`.
        hint: What the user can do when a worker is killed, such as `use fewer --devices`.
        num_threads: Threads of torch in each worker. None leaves them alone and does not import torch.
        log_level: The parent logs what workers log at this level or above, when it gets the result of the task.
    """

    def __init__(
        self,
        num_workers: int,
        start: Callable[[int], Callable[[Task], Result]],
        *,
        name: str,
        hint: str,
        num_threads: int | None = None,
        log_level: int = logging.ERROR,
    ) -> None:
        self._num_workers = num_workers
        self._start = start
        self._name = name
        self._hint = hint
        self._num_threads = num_threads
        self._log_level = log_level
        self._workers: list[_Worker] = []

    def __enter__(self) -> WorkerPool[Task, Result]:
        """Start the workers."""
        try:
            for number in range(self._num_workers):
                self._workers.append(self._start_worker(number))
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers, whatever they are doing."""
        self._end()

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Result]]:
        """Do tasks; the first error ends all. May be called several times, one call after the other.

        Args:
            tasks: Tasks, in the order in which they are begun.

        Yields:
            Each task with its result, in the order in which they are completed.

        Raises:
            CifmError: A task raised it, or a worker was killed.
            BackendUnavailableError: A task raised it.
            WorkerError: A task raised any other exception.
        """
        for task, result in self.attempt(tasks):
            if isinstance(result, CifmError):
                raise result
            yield task, result

    def attempt(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Result | CifmError]]:
        """Do tasks as `run` does, but go on after a `CifmError`; a worker that was killed is replaced.

        Args:
            tasks: Tasks, in the order in which they are begun.

        Yields:
            Each task with its result or its `CifmError`, in the order in which they are completed.
        """
        if not self._workers:
            raise RuntimeError("the pool has not been entered, or has ended")
        waiting, busy = deque(tasks), dict[int, Task]()
        try:
            for number in range(min(self._num_workers, len(waiting))):
                busy[number] = self._give(number, waiting.popleft())
            while busy:
                ready = connection.wait([self._workers[number].pipe for number in busy])
                for number in [number for number in busy if self._workers[number].pipe in ready]:
                    task, result = busy.pop(number), self._take(number)
                    if waiting:  # before the caller gets the result, so that no worker waits for the caller
                        busy[number] = self._give(number, waiting.popleft())
                    yield task, result
        finally:
            if busy:  # results that are still to come would be mistaken for those of later tasks
                self._end()

    def _start_worker(self, number: int) -> _Worker:
        name = f"{self._name} {number}"
        settings = _Settings(name, self._num_threads, log_level=self._log_level, ignores_interrupts=True)
        return _Worker(settings, _serve, (number, self._start))

    def _give(self, number: int, task: Task) -> Task:
        with suppress(BrokenPipeError, ConnectionResetError):  # the worker is gone, which `_take` reports
            self._workers[number].pipe.send(task)
        return task

    def _take(self, number: int) -> Any:  # noqa: ANN401 - the result of the task, or a CifmError
        worker = self._workers[number]
        reply = worker.receive()
        if reply is None:
            worker.end(wait_s=5.0)  # the pipe is closed a little before the exit code is known
            self._workers[number] = self._start_worker(number)
            return CifmError(f"{worker.name} {worker.describe_end()}", self._hint)
        for record in reply.records:
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)
        if reply.error and not isinstance(reply.error, CifmError):
            raise reply.error
        return reply.error or reply.result

    def _end(self) -> None:
        for worker in self._workers:
            worker.end()
        self._workers = []


def run_group(
    work: Callable[[], Result], members: Sequence[Member], *, hint: str, num_threads: int | None = None
) -> list[Result]:
    """Run one function in several processes at once, and wait for the end of all of them.

    SIGINT, SIGTERM and SIGUSR1 are passed on to the processes, which may finish what they are doing. When one process
    fails, the others have `GRACE_S` seconds to end by themselves, and are killed then.

    Args:
        work: What every process does. Must be picklable; its environment tells the processes apart.
        members: The processes.
        hint: What the user can do when a process is killed.
        num_threads: Threads of torch in each process. None leaves them alone.

    Returns:
        The results, in the order of `members`.

    Raises:
        CifmError: A process raised it, or was killed. A `LostContactError` is raised only if no process has another
            error, and `StopRequested` or `KeyboardInterrupt` only if no process has a `CifmError` of its own.
        WorkerError: A process raised any other exception.
    """
    workers: list[_Worker] = []
    try:
        for member in members:
            settings = _Settings(member.name, num_threads, environment=dict(member.environment))
            workers.append(_Worker(settings, _run_once, (work,)))
        with _passing_signals_on(workers) as signals:
            _wait_for_all(workers)
    finally:
        for worker in workers:
            worker.end()
    if error := _first_cause(workers, signals, hint):
        raise error
    return [worker.reply.result for worker in workers if worker.reply]


@dataclass(frozen=True)
class _Settings:
    """What a worker sets up before its work begins."""

    name: str
    num_threads: int | None
    log_level: int = logging.ERROR
    ignores_interrupts: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Reply:
    """A result or an error, and what was logged on the way there."""

    result: Any = None
    error: BaseException | None = None
    records: Sequence[logging.LogRecord] = ()


class _Worker:
    """A spawned process, and the parent's end of a pipe to it.

    The process calls `target(pipe, *arguments)` with its own end of the pipe.
    """

    def __init__(self, settings: _Settings, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        context = get_context("spawn")
        self.name = settings.name
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_main, args=(settings, theirs, target, arguments), name=settings.name)
        self.reply: _Reply | None = None
        with _interrupts_blocked() if settings.ignores_interrupts else nullcontext():
            self.process.start()
        theirs.close()

    def receive(self) -> _Reply | None:
        """Wait for a reply and keep it; None when the process ends without one."""
        try:
            self.reply = self.pipe.recv()
        except (EOFError, OSError):  # closed, or cut off within a reply
            self.reply = None
        return self.reply

    def end(self, wait_s: float = 0.0) -> None:
        """Terminate the process if it still runs after some seconds."""
        self.process.join(wait_s)
        self.process.terminate()
        self.process.join()
        self.pipe.close()

    def describe_end(self) -> str:
        """How the process ended, after the words `process N`."""
        code = self.process.exitcode or 0
        return f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"


def _main(settings: _Settings, pipe: Connection, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """What a worker process does."""
    if settings.ignores_interrupts:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent as well, which ends its workers
    os.environ.update(settings.environment)
    if settings.num_threads is not None:
        import torch

        torch.set_num_threads(settings.num_threads)
    _logger.setLevel(settings.log_level)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(BrokenPipeError, EOFError):  # the parent is gone, or has closed the pool
        target(pipe, *arguments)


def _serve(pipe: Connection, number: int, start: Callable[[int], Callable[[Any], Any]]) -> None:
    """Do tasks until the pipe is closed. When the start has failed, every task gets that error."""
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    _logger.addHandler(QueueHandler(records))  # the parent shows them, where it shows its own
    _logger.propagate = False
    started = _attempt(start, number)
    while True:
        task = pipe.recv()
        reply = started if started.error else _attempt(started.result, task)
        logged = [records.get() for _ in range(records.qsize())]
        pipe.send(_Reply(reply.result, reply.error, logged))


def _run_once(pipe: Connection, work: Callable[[], Any]) -> None:
    """Do the work of a group. Signals to stop become exceptions there, so that it can save what it has."""
    with unwinding():
        reply = _attempt(work)
    pipe.send(reply)


def _attempt(function: Callable[..., Any], *arguments: object) -> _Reply:
    """Call a function; what it raises becomes part of the reply."""
    try:
        return _Reply(function(*arguments))
    except (CifmError, BackendUnavailableError, KeyboardInterrupt, StopRequested) as error:
        return _Reply(error=error)
    except Exception:  # noqa: BLE001 - the parent raises it, with the traceback that is only known here
        return _Reply(error=WorkerError(f"unexpected error in a worker process\n\n{traceback.format_exc()}"))


def _end_with_parent() -> None:
    """Send SIGTERM to this process when its parent has ended, even if the parent was killed."""
    if parent := parent_process():
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _wait_for_all(workers: Sequence[_Worker]) -> None:
    """Collect the replies of a group until all processes have ended."""
    latest = float("inf")
    while running := [worker for worker in workers if worker.process.is_alive()]:
        silent = [worker for worker in running if worker.reply is None]
        connection.wait([*(worker.process.sentinel for worker in running), *(worker.pipe for worker in silent)], 1.0)
        _collect_replies(workers)
        if any(_has_failed(worker) for worker in workers):
            latest = min(latest, time.monotonic() + GRACE_S)
        if time.monotonic() > latest:
            for worker in running:
                lost = LostContactError(f"{worker.name} was stopped because another process failed", "")
                worker.reply = worker.reply or _Reply(error=lost)
                worker.process.kill()
    _collect_replies(workers)  # a process may have replied and ended since the last look


def _collect_replies(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        if worker.reply is None and worker.pipe.poll():
            worker.receive()


def _has_failed(worker: _Worker) -> bool:
    """Whether a process has ended in any other way than with a result."""
    return worker.process.exitcode is not None and (worker.reply is None or worker.reply.error is not None)


def _first_cause(workers: Sequence[_Worker], signals: Sequence[int], hint: str) -> BaseException | None:
    """The one error to raise: causes come before what follows from them. None when all processes have a result."""
    errors: list[BaseException] = []
    for worker in workers:
        if worker.reply is None and signals:  # the signal came before the process could handle it
            errors.append(KeyboardInterrupt() if signals[0] == signal.SIGINT else StopRequested())
        elif worker.reply is None:
            errors.append(CifmError(f"{worker.name} {worker.describe_end()}", hint))
        elif worker.reply.error:
            errors.append(worker.reply.error)
    return min(errors, key=_rank_of_cause, default=None)


def _rank_of_cause(error: BaseException) -> int:
    if isinstance(error, LostContactError):
        return 2
    return 1 if isinstance(error, KeyboardInterrupt | StopRequested) else 0


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block SIGINT in processes that are started within the block, so that Ctrl-C is ignored before `_main` says so."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows has none
        yield
        return
    resource_tracker.ensure_running()  # multiprocessing starts it with the first process, and unblocks SIGINT then
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _passing_signals_on(workers: Sequence[_Worker]) -> Iterator[list[int]]:
    """Within the block a signal to stop goes to every process instead.

    Yields:
        The signals that were passed on.
    """
    passed_on: list[int] = []

    def pass_on(number: int) -> None:
        passed_on.append(number)
        for worker in workers:
            if worker.process.pid and worker.process.is_alive():
                os.kill(worker.process.pid, number)

    with handling_signals(STOP_SIGNALS, pass_on):
        yield passed_on


@contextmanager
def handling_signals(signals: Sequence[int], handler: Callable[[int], None]) -> Iterator[None]:
    """Within the block, call a function with the number of each signal that arrives, and do nothing else.

    Python handles signals in the main thread. In any other thread the block changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        handler(number)

    before = {number: signal.signal(number, handle) for number in signals}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
