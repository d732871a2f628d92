"""What the error numbers of the operating system mean for a user who reads or writes files.

A number that no table lists is described in the words of the system.
"""

from __future__ import annotations

import errno
import os
import re
from typing import Final, NamedTuple

# Linux kernels return it where a network file system refuses a request; the module `errno` does not list it.
_ENOTSUPP: Final = 524
REFUSED_LOCK: Final = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, _ENOTSUPP})
"""Errors of file systems that have no locks, or whose locks are switched off."""
REFUSED_COURTESY: Final = REFUSED_LOCK | {errno.EPERM, errno.EACCES, errno.EINVAL, errno.EBADF, errno.ENOTTY}
"""Errors of file systems that lack links, modes, or the synchronisation of folders."""

# Libraries also report these for a damaged file: a position that is negative, or beyond what a number can hold.
_ALSO_DAMAGE: Final = frozenset({errno.EINVAL, errno.EOVERFLOW, errno.ERANGE, errno.EDOM})
# Not about files: errors of connections and processes, which may occur while a file is written, and mistakes of ours.
_NOT_OF_FILES: Final = frozenset(
    {errno.EPIPE, errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.ECHILD, errno.ESRCH, errno.EINTR}
    | {errno.EBADF}
)
DAMAGED_FILE_ERRORS: Final = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    RuntimeError,
    ArithmeticError,
)
"""What libraries of all formats raise while they read a damaged file; each has some of its own."""
_LOCK_VARIABLE: Final = "HDF5_USE_FILE_LOCKING=FALSE"
_ELSEWHERE: Final = "free some space, or write to another disk with --out"
_FAULT: Final = "check the disk or the connection to the file server, and try again"
_TOO_MANY: Final = "raise the limit (ulimit -n), or use fewer --jobs or --devices"


class Problem(NamedTuple):
    """The reason why a file could not be read or written, and what the user can do."""

    reason: str
    hint: str


IN_USE: Final = Problem(
    "another program has it open for writing",
    f"close it there, such as in a notebook; if no program uses it, set {_LOCK_VARIABLE}",
)
_BOTH: Final = {
    errno.EIO: Problem("input/output error", _FAULT),
    errno.ESTALE: Problem("the file server has removed or replaced it", "try again"),
    errno.ENXIO: Problem("its device is not there", _FAULT),
    errno.ENODEV: Problem("its device is not there", _FAULT),
    errno.ENOTCONN: Problem("the file system is not connected", "mount it again"),
    errno.ETIMEDOUT: Problem("the file server did not answer", _FAULT),
    errno.ENAMETOOLONG: Problem("the name is too long for the file system", "choose a shorter name"),
    errno.ELOOP: Problem("its symbolic links lead in a circle", "correct the links"),
    errno.EMFILE: Problem("too many open files", _TOO_MANY),
    errno.ENFILE: Problem("too many open files on this machine", "close other programs"),
    errno.ENOMEM: Problem("not enough memory", "close other programs, or use a machine with more memory"),
}
_WRITING: Final = _BOTH | {
    errno.ENOSPC: Problem("no space left on the disk", _ELSEWHERE),
    errno.EDQUOT: Problem("the disk quota is used up", _ELSEWHERE),
    errno.EACCES: Problem("permission denied", "write to a folder that you own with --out"),
    errno.EPERM: Problem("the file system does not permit it", "write to another place with --out"),
    errno.EROFS: Problem("the file system is read-only", "write to another place with --out"),
    errno.EEXIST: Problem("a file is in the way", "name another folder with --out"),
    errno.EISDIR: Problem("a folder is in the way", "name another file with --out, or move the folder"),
    errno.ENOTEMPTY: Problem("a folder is in the way", "name another folder with --out, or move it"),
    errno.ENOTDIR: Problem("a file is in the way", "name another folder with --out"),
    errno.ENOENT: Problem("the folder does not exist, or was removed", "make it, and start again"),
    errno.EFBIG: Problem(
        "the file is larger than the system allows", "raise the limit (ulimit -f), or write elsewhere"
    ),
    errno.EINVAL: Problem("the file system does not allow it", "avoid : ? * and the like in names, or write elsewhere"),
    errno.ETXTBSY: Problem("another program uses it", "end that program, or write to another place with --out"),
    errno.EBUSY: Problem("another program uses it", "end that program, or write to another place with --out"),
}
_READING: Final = _BOTH | {
    errno.ENOENT: Problem("no such file", "check the path, or complete the download"),
    errno.EACCES: Problem("permission denied", "change the permissions of the file"),
    errno.EPERM: Problem("permission denied", "change the permissions of the file"),
    errno.EISDIR: Problem("is a folder", "name the file in it"),
    errno.ENOTDIR: Problem("no such file: a part of the path is a file and not a folder", "check the path"),
}


# Errors that no code can foresee, as they come from the machine and not from what the code asks for.
_OF_THE_MACHINE: Final = frozenset(
    {
        *_BOTH,
        errno.EACCES,
        errno.EPERM,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EFBIG,
        errno.ETXTBSY,
        errno.EBUSY,
    }
)


def system_errno(error: OSError) -> int | None:
    """Number of a system error, also where it is only in the message of HDF5 or safetensors; None if there is none."""
    # `errno = 28` in messages of HDF5, `os error 28` in those of safetensors.
    match = re.search(r"(?:errno =|os error) (\d+)", str(error))
    return error.errno or (int(match[1]) if match else None)


def is_refused(error: OSError) -> bool:
    """Whether a file system refused a request that the result does not depend on, such as a link or a mode."""
    return error.errno in REFUSED_COURTESY


def machine_problem(error: OSError) -> Problem | None:
    """Why the machine failed to access a file that the error names; None for an error that may be a mistake of ours."""
    if not error.filename or error.errno not in _OF_THE_MACHINE:
        return None
    return _describe(error, _READING | _WRITING, _FAULT)


def writing_problem(error: OSError) -> Problem | None:
    """Why a file could not be written; None for an error that is not about a file, or has no number of the system."""
    return _describe(error, _WRITING, _FAULT)


def reading_problem(error: OSError) -> Problem | None:
    """Why a file could not be read; None if the error may come from a damaged file."""
    message, number = str(error), system_errno(error)
    if "unable to lock file" in message and number not in REFUSED_LOCK:
        return IN_USE
    if "unable to lock file" in message:
        return Problem("the file system refuses locks", f"set the environment variable {_LOCK_VARIABLE}")
    # A mark in the file, which a writer sets that uses the latest version of the format.
    if "already open for write" in message:
        return Problem(
            "another program has it open for writing, or was killed while it wrote the file",
            "close it there; `h5clear -s FILE` removes the mark of a program that was killed",
        )
    return None if number in _ALSO_DAMAGE else _describe(error, _READING, _FAULT)


def _describe(error: OSError, table: dict[int, Problem], hint: str) -> Problem | None:
    number = system_errno(error)
    if not number or number in _NOT_OF_FILES:
        return None
    return table.get(number) or Problem(f"{os.strerror(number).lower()} (error {number} of the system)", hint)
