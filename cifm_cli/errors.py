"""The exception for errors that a user can fix, the exit codes, and the translation of some system errors.

`app.main` turns what is raised here into messages and exit codes.
"""

from __future__ import annotations

import errno
import signal
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cifm_cli.system_errors import reading_problem, writing_problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


PARTIAL = ".partial."  # in the name of every file that is not yet complete
# Exit codes of the command line; 0 is success. The last two are 128 plus the number of the signal, as in a shell.
EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 130, 143


class CifmError(Exception):
    """An error that the user can fix. `app.main` prints it without a traceback.

    Args:
        message: The problem and its location: file, slide, key or row.
        hint: How to fix it, in one sentence.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type[CifmError], tuple[str, str]]:
        """Pickle with message and hint, so that a worker process can send the error to its parent."""
        return type(self), (self.message, self.hint)


class StopRequested(BaseException):
    """Raised on SIGTERM, SIGUSR1 and SIGHUP, so that `finally` blocks run as after Ctrl-C and leave a resumable state."""


# Signals that schedulers send some time before they kill a process, and that of a terminal that is closed. Windows has
# only the first.
STOP_SIGNALS = tuple({getattr(signal, name, signal.SIGTERM) for name in ("SIGTERM", "SIGUSR1", "SIGHUP")})


_HANG_UP = getattr(signal, "SIGHUP", None)
_REPEAT_AFTER_S = 0.01


@contextmanager
def handling_signals(signals: Sequence[int], handler: Callable[[int], None]) -> Iterator[None]:
    """Within the block, call a function with the number of each signal that arrives, and do nothing else.

    Python handles signals in the main thread. In any other thread the block changes nothing.

    Args:
        signals: Numbers of the signals.
        handler: Called in the main thread, between two instructions of the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # The handlers of the caller are restored at the end, so that blocks can be nested.
    previous = {
        number: signal.signal(number, lambda number, _frame: handler(number))
        for number in signals
        # `nohup` has SIGHUP ignored, so that a command outlives its terminal.
        if number != _HANG_UP or signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, previous_handler in previous.items():
            signal.signal(number, previous_handler)


@contextmanager
def raising_on_stop_signals() -> Iterator[None]:
    """Raise `StopRequested` on SIGTERM, SIGUSR1 and SIGHUP within the block."""

    def stop(_number: int) -> None:
        """Raise `StopRequested`."""
        raise StopRequested

    with handling_signals(STOP_SIGNALS, stop), _repeating_lost_interruptions():
        yield


@contextmanager
def deferring_signals() -> Iterator[None]:
    """Let Ctrl-C and the stop signals wait until the end of the block, which must be short."""
    arrived: list[int] = []
    try:
        with handling_signals((signal.SIGINT, *STOP_SIGNALS), arrived.append):
            yield
    finally:
        if arrived:
            signal.raise_signal(arrived[0])


@contextmanager
def _repeating_lost_interruptions() -> Iterator[None]:
    """Repeat a signal whose exception was raised in a destructor or callback, from where it cannot reach the command."""
    numbers = {StopRequested: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT}
    timers: list[threading.Timer] = []
    previous = sys.unraisablehook

    def repeat(lost: sys.UnraisableHookArgs) -> None:
        """Send the signal again, some time after the destructor has ended."""
        if lost.exc_type not in numbers:
            previous(lost)
            return
        timers.append(threading.Timer(_REPEAT_AFTER_S, _signal_main_thread, [numbers[lost.exc_type]]))
        timers[-1].daemon = True
        timers[-1].start()

    sys.unraisablehook = repeat
    try:
        yield
    finally:
        sys.unraisablehook = previous
        for timer in timers:
            timer.cancel()  # afterwards, the signal would end the process


def _signal_main_thread(number: int) -> None:
    """Send a signal so that the main thread wakes up, if it sleeps."""
    if sys.platform == "win32":
        signal.raise_signal(number)
    else:
        signal.pthread_kill(threading.main_thread().ident or 0, number)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Translate errors of the system when writing `path` into a `CifmError`.

    Args:
        path: The file or folder that the block writes.

    Raises:
        CifmError: The system refused to write: the disk is full or read-only, a file of that name exists, and so on.
    """
    try:
        yield
    except OSError as error:
        other = _other_file(error, path)
        problem = reading_problem(error) if other else writing_problem(error)
        if problem is None:  # not an error of the system, so the traceback is needed
            raise
        raise CifmError(f"{other or f'cannot write {path}'}: {problem.reason}", problem.hint) from error


def _other_file(error: OSError, target: Path) -> str | None:
    """The file that an error names, where that is an input of the block that writes `target`."""
    if not isinstance(error.filename, str):
        return None
    name, own = Path(error.filename).absolute(), target.absolute()
    is_own = name in (own, *own.parents) or own in name.parents or PARTIAL in str(name)
    # A temporary file cannot be made where a file stands in place of a folder.
    is_own = is_own or (error.errno == errno.ENOTDIR and name.parent in own.parents)
    return None if is_own else error.filename
