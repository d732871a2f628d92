"""A pool of processes that each keep a state, such as a loaded model, from one task to the next."""

from __future__ import annotations

import logging
import queue
import signal
from collections import deque
from contextlib import suppress
from logging.handlers import QueueHandler
from multiprocessing import connection
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from cifm_cli.errors import CifmError
from cifm_cli.processes.worker import PACKAGE_LOGGER, Reply, Worker, WorkerSettings, attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from multiprocessing.connection import Connection

Task = TypeVar("Task")
Result = TypeVar("Result")


class WorkerPool(Generic[Task, Result]):
    """Processes that keep a state, and get the next task when they have completed one.

    A context manager: workers start when the block is entered, and end when it is left, also by an exception.

    Args:
        num_workers: Number of processes.
        start: Called once in each worker, with its number from 0 on. Returns the function that turns a task into a
            result, which may keep a state. Must be picklable: a function of a module, or a `functools.partial` of one.
        name: Name of a worker in messages, such as `embedding process`.
        hint: What the user can do when a worker is killed, such as `use fewer --devices`.
        num_threads: Threads of torch in each worker. None keeps torch's default and does not import torch.
        log_level: Records that workers log at this level or above are logged by the parent, with the result of their task.
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
        self._workers: list[Worker] = []

    def __enter__(self) -> WorkerPool[Task, Result]:
        """Start the workers."""
        try:
            for number in range(self._num_workers):
                self._workers.append(self._start_worker(number))
        # `__exit__` is not called if `__enter__` raises, also for Ctrl-C.
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers, also those that are busy with a task."""
        self._end()

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Result]]:
        """Complete tasks; the first error ends all workers. May be called again after it has ended.

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
        """Complete tasks as `run` does, but go on after a `CifmError`; a worker that was killed is replaced.

        Args:
            tasks: Tasks, in the order in which they are begun.

        Yields:
            Each task with its result or its `CifmError`, in the order in which they are completed.
        """
        if not self._workers:
            raise RuntimeError("the pool has not been entered, or has ended")
        waiting, busy = deque(tasks), dict[int, Task]()
        try:
            # One task per worker at a time, so that slow and fast tasks are spread evenly.
            for number in range(min(self._num_workers, len(waiting))):
                busy[number] = self._give(number, waiting.popleft())
            while busy:
                ready = connection.wait([self._workers[number].pipe for number in busy])
                for number in [number for number in busy if self._workers[number].pipe in ready]:
                    task, result = busy.pop(number), self._take(number)
                    if waiting:  # before the result is yielded, so that the worker does not wait for the caller
                        busy[number] = self._give(number, waiting.popleft())
                    yield task, result
        finally:
            if busy:  # results that are still to come would be mistaken for those of later tasks
                self._end()

    def _start_worker(self, number: int) -> Worker:
        name = f"{self._name} {number}"
        settings = WorkerSettings(name, self._num_threads, log_level=self._log_level)
        return Worker(settings, _serve, (number, self._start))

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
            # `handle` does not check the level of the logger.
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)
        # Any other error would occur in the next tasks too, so it ends the work.
        if reply.error and not isinstance(reply.error, CifmError):
            raise reply.error
        return reply.error or reply.result

    def _end(self) -> None:
        for worker in self._workers:
            worker.end()
        self._workers = []


def _serve(pipe: Connection, number: int, start: Callable[[int], Callable[[Any], Any]]) -> None:
    """Complete tasks until the pipe is closed. If `start` has failed, every task gets its error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent as well, which ends its workers
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    PACKAGE_LOGGER.addHandler(QueueHandler(records))  # the parent logs them
    # Otherwise a handler of the root logger would print the records in the worker too.
    PACKAGE_LOGGER.propagate = False
    started = attempt(start, number)
    while True:
        task = pipe.recv()
        reply = started if started.error else attempt(started.result, task)
        logged = [records.get() for _ in range(records.qsize())]
        pipe.send(Reply(reply.result, reply.error, logged))
