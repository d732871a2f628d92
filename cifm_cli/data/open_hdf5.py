"""Opening HDF5 files. Errors of the system are told apart from damage, and file systems without locks work too."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import h5py

from cifm_cli.errors import CifmError
from cifm_cli.system_errors import IN_USE, REFUSED_LOCK, reading_problem, system_errno

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def open_for_reading(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading.

    Args:
        path: The file.

    Yields:
        The file. An `OSError` of the HDF5 library that a damaged file causes passes through.

    Raises:
        CifmError: There is no such file, another program has it open for writing, or the system failed to read it.
    """
    try:
        file = _open(path)
    except OSError as error:
        _raise_problem(path, error)
        raise
    with file:
        try:
            yield file
        except OSError as error:
            # The block may also write to another file, whose errors are not of this one.
            if "file read failed" in str(error):
                _raise_problem(path, error)
            raise


def is_hdf5(path: Path) -> bool:
    """Whether a file is an HDF5 file that the library can open.

    Raises:
        CifmError: As in `open_for_reading`.
    """
    try:
        with open_for_reading(path):
            return True
    except OSError:
        return False


def require_not_written(path: Path) -> None:
    """Check that no other program has an HDF5 file open for writing, without opening it by the HDF5 library.

    Args:
        path: The file.

    Raises:
        CifmError: Another program has it open for writing.
    """
    if sys.platform == "win32":  # the library alone can tell
        return
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # as the library locks it; closing unlocks it
        except BlockingIOError as error:
            raise CifmError(f"{path}: {IN_USE.reason}", IN_USE.hint) from error
        except OSError:  # the file system has no locks
            return


@contextmanager
def create_hdf5(path: Path, mode: str = "w") -> Iterator[h5py.File]:
    """Create an HDF5 file under a temporary name that no other program knows, so that it needs no lock.

    Args:
        path: The file.
        mode: `w` to create it, `r+` to change one that was just created.

    Yields:
        The file, open for writing.
    """
    with h5py.File(path, mode, locking=False) as file:
        yield file


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        # Without locks in the file system, no process can hold one, and a reader changes nothing.
        if "unable to lock file" in str(error) and system_errno(error) in REFUSED_LOCK:
            return h5py.File(path, "r", locking=False)
        raise


def _raise_problem(path: Path, error: OSError) -> None:
    if problem := reading_problem(error):
        raise CifmError(f"{path}: {problem.reason}", problem.hint) from error
