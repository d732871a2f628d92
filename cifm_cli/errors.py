"""The one error a user sees, and the translation of a few system errors into it."""

from __future__ import annotations

import errno
import re
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType


class CifmError(Exception):
    """Something the user can put right.

    Args:
        message: What is wrong, with its address: the file, slide, key or row.
        hint: What to do next, one sentence.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type[CifmError], tuple[str, str]]:
        """Pickle with message and hint, so that a worker process can send the error to its parent."""
        return type(self), (self.message, self.hint)


class StopRequested(BaseException):
    """SIGTERM arrived, or SIGUSR1: unwind as Ctrl-C does, so that `finally` blocks leave a resumable state."""


# What schedulers send before they kill; Windows has no SIGUSR1.
POLITE_KILLS = tuple({signal.SIGTERM, getattr(signal, "SIGUSR1", signal.SIGTERM)})


@contextmanager
def unwinding() -> Iterator[None]:
    """Within the block SIGTERM and SIGUSR1 raise `StopRequested`."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise StopRequested

    before = {number: signal.signal(number, stop) for number in POLITE_KILLS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusals to write `path` into a `CifmError`.

    Args:
        path: The file or folder that the block writes.

    Raises:
        CifmError: The disk is full or read-only, the folder may not be written, or something is in the way.
    """
    reasons = {
        errno.ENOSPC: ("no space left on the disk", "free some space, or write to another disk with --out"),
        errno.EDQUOT: ("the disk quota is used up", "free some space, or write to another disk with --out"),
        errno.EACCES: ("permission denied", "write to a folder of yours with --out"),
        errno.EROFS: ("the file system is read-only", "write to another place with --out"),
        errno.EEXIST: ("a file is in the way", "name another folder with --out"),
        errno.EISDIR: ("a folder is in the way", "name another file with --out, or move the folder"),
        errno.ENOTDIR: ("a file is in the way", "name another folder with --out"),
        errno.EFBIG: ("the file is larger than the system allows", "raise the limit (ulimit -f), or write elsewhere"),
    }
    try:
        yield
    except OSError as error:
        number = error.errno or _hidden_errno(error)
        if number not in reasons:
            raise
        what, hint = reasons[number]
        raise CifmError(f"cannot write {path}: {what}", hint) from error


def _hidden_errno(error: OSError) -> int | None:
    """HDF5 and safetensors report the system's error number inside their message (`errno = 28`, `os error 28`)."""
    found = re.search(r"(?:errno =|os error) (\d+)", str(error))
    return int(found[1]) if found else None
