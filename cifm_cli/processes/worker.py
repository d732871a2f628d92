"""One worker process: its start, its replies, and its end.

Workers are spawned, because a fork of a process that has threads may hang. No worker outlives the parent, and workers
write nothing to the terminal unless the function that they run does so.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import traceback
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process, resource_tracker
from typing import TYPE_CHECKING, Any

from cifm_backends import BackendUnavailableError
from cifm_cli.errors import CifmError, StopRequested

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from multiprocessing.connection import Connection

PACKAGE_LOGGER = logging.getLogger("cifm_cli")  # the parent of every logger of this package


class WorkerError(RuntimeError):
    """An unexpected exception in a worker process. The message holds the traceback of the worker."""


@dataclass(frozen=True)
class WorkerSettings:
    """Settings that a worker applies before its work begins."""

    name: str  # name of the process, for messages
    num_threads: int | None  # threads of torch; None keeps torch's default and does not import torch
    log_level: int = logging.ERROR  # records below this level are dropped
    environment: Mapping[str, str] = field(default_factory=dict)  # environment variables to set


@dataclass(frozen=True)
class Reply:
    """A message from a worker to its parent."""

    result: Any = None  # result of its work; None after an error
    error: BaseException | None = None  # the exception that its work raised, if any
    records: Sequence[logging.LogRecord] = ()  # log records of the work


class Worker:
    """A spawned process, and the parent's end of a pipe to it.

    SIGINT is blocked in the process until it calls `unblock_interrupts`.

    Args:
        settings: Settings that the process applies first.
        target: Function that the process then calls with the worker's end of the pipe, and `arguments`.
        arguments: Further arguments; picklable.
    """

    def __init__(self, settings: WorkerSettings, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        context = get_context("spawn")
        self.name = settings.name
        self.reply: Reply | None = None
        with _explaining(settings.name):
            self.pipe, worker_end = context.Pipe()
            self.process = context.Process(
                target=_main, args=(settings, worker_end, target, arguments), name=settings.name
            )
            with _interrupts_blocked():
                self.process.start()
        # While the parent holds this end, it would not notice that the worker has closed its own.
        worker_end.close()

    def receive(self) -> Reply | None:
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
        """Description of how the process ended, to be put after its name."""
        code = self.process.exitcode or 0
        return f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"


@contextmanager
def _explaining(name: str) -> Iterator[None]:
    """Turn an error of the system into one that says that a process could not be started."""
    try:
        yield
    except OSError as error:
        # Callers are often within `writing`, which would take it for an error of their file.
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        raise CifmError(
            f"{name} could not be started: {reason}",
            "use fewer --jobs or --devices, or one process; check the limits of open files and processes (ulimit -a)",
        ) from error


def _main(settings: WorkerSettings, pipe: Connection, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Main function of a worker process."""
    # Before any import of torch, which reads its environment variables when it is loaded.
    os.environ.update(settings.environment)
    if settings.num_threads is not None:
        import torch

        torch.set_num_threads(settings.num_threads)
    PACKAGE_LOGGER.setLevel(settings.log_level)
    # A thread, as the main thread may be busy in a computation when the parent ends.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(BrokenPipeError, EOFError):  # the parent is gone, or has closed the pool
        target(pipe, *arguments)


def attempt(function: Callable[..., Any], *arguments: object) -> Reply:
    """Call a function; the reply contains its result or the exception that it raised."""
    try:
        return Reply(function(*arguments))
    except (CifmError, BackendUnavailableError, KeyboardInterrupt, StopRequested) as error:
        return Reply(error=error)
    except Exception:  # noqa: BLE001 - the parent raises it with the traceback, which only the worker knows
        return Reply(error=WorkerError(f"unexpected error in a worker process\n\n{traceback.format_exc()}"))


def _end_with_parent() -> None:
    """Send SIGTERM to this process when its parent has ended, even if the parent was killed."""
    if parent := parent_process():
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block SIGINT in processes that are started within the block: Ctrl-C would end them with a traceback each."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows has none
        yield
        return
    resource_tracker.ensure_running()  # multiprocessing starts it with the first process, and unblocks SIGINT then
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def unblock_interrupts() -> None:
    """Unblock SIGINT in a worker; a signal that arrived while it was blocked is delivered now."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
