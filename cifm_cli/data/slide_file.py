"""Opening the file of a slide: a prepared or embedded slide, or another `.h5ad` that cifm wrote.

Other programs write to these files, and disks damage them. What the libraries raise then becomes an error with a hint here,
and only here, so that other exceptions keep their traceback.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from anndata.io import read_elem

from cifm_cli.data.hdf5_safety import check_content
from cifm_cli.data.open_hdf5 import open_for_reading
from cifm_cli.errors import CifmError
from cifm_cli.system_errors import DAMAGED_FILE_ERRORS, reading_problem

try:  # AnnData raises it for an unknown encoding, and exports no name for it
    from anndata._io.specs.registry import IORegistryError
except ImportError:
    IORegistryError = KeyError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import h5py

WRITE_AGAIN = "write the slide again with `cifm prepare DOWNLOAD`; an embedded one with `cifm embed SLIDE`"
# What h5py, NumPy, pandas and AnnData raise while they read a damaged file.
_DAMAGE = (*DAMAGED_FILE_ERRORS, AttributeError, AssertionError, IORegistryError)

_opened: dict[Path, tuple[int, ...]] = {}  # the files that were opened, to notice that one is replaced


@contextmanager
def open_slide_file(path: Path) -> Iterator[h5py.File]:
    """Open a file of cifm for reading, after a check that it is safe to read.

    Args:
        path: The `.h5ad`.

    Yields:
        The file.

    Raises:
        CifmError: The file is missing or is not HDF5; it refers to other files, claims sizes that it does not have, or is
            damaged.
    """
    with _open(path) as file:
        _opened[path.absolute()] = _identity(path)
        with reading_slot(path):
            check_content(file)
        yield file


@contextmanager
def reopen_slide_file(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading that `open_slide_file` has checked; only opening it is translated into errors.

    Args:
        path: The `.h5ad`.

    Yields:
        The file.

    Raises:
        CifmError: The file is missing or is not HDF5, or was replaced since it was opened first.
    """
    with _open(path) as file:
        require_unchanged(path)
        yield file


def require_unchanged(path: Path) -> None:
    """Check that a file is still the one that this process opened: rows of two files must not be mixed.

    Args:
        path: A file that `open_slide_file` has opened; nothing is checked for any other.

    Raises:
        CifmError: Another process has replaced or changed it.
    """
    if _opened.get(path.absolute()) not in (None, _identity(path)):
        raise CifmError(f"{path}: another program has replaced it while it was read", "run the command again")


def forget(path: Path) -> None:
    """Tell that this process has replaced or changed a file itself: from now on, the new one is read.

    Args:
        path: The file, whether it was opened before or not.
    """
    _opened.pop(path.absolute(), None)


def _identity(path: Path) -> tuple[int, ...]:
    """Numbers that change when a file is replaced or written to."""
    try:
        facts = path.stat()
    except OSError:  # removed
        return ()
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open_for_reading(path))
        except _DAMAGE as error:
            raise CifmError(
                f"{path}: not a prepared slide, or a damaged one ({_reason(error)})", WRITE_AGAIN
            ) from error
        yield file


@contextmanager
def reading_slot(path: Path, slot: str = "") -> Iterator[None]:
    """Turn what libraries raise for a damaged file into an error. The block contains nothing but calls that read.

    Args:
        path: The file.
        slot: The slot that the block reads, for the message.

    Raises:
        CifmError: The block raised an exception that a damaged file can cause.
    """
    try:
        yield
    except _DAMAGE as error:
        # Errors of the system have other remedies than writing the slide again.
        if isinstance(error, OSError) and (problem := reading_problem(error)):
            raise CifmError(f"{path}: {problem.reason}", problem.hint) from error
        raise damaged(path, f"{slot} cannot be read ({_reason(error)})" if slot else _reason(error)) from error


def read_slot(group: h5py.Group, name: str, path: Path) -> Any:  # noqa: ANN401 - any element of AnnData
    """Read an element of an AnnData file, of any encoding.

    Args:
        group: Group of the element.
        name: Name of the element in the group.
        path: Path of the file.

    Returns:
        The element.

    Raises:
        CifmError: The element is missing or damaged.
    """
    with reading_slot(path, f"{group.name.strip('/')}/{name}".lstrip("/")):
        return read_elem(group[name])


@contextmanager
def copying_slot(path: Path, slot: str) -> Iterator[None]:
    """Turn what AnnData raises for content that was read but cannot be written into an error.

    Args:
        path: The file from which the content was read.
        slot: The slot, for the message.

    Raises:
        CifmError: The block, which writes the content, raised such an exception; errors of the disk are not among them.
    """
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError, NotImplementedError, IORegistryError) as error:
        raise damaged(path, f"{slot} cannot be copied ({_reason(error)})") from error


def damaged(path: Path, rule: str) -> CifmError:
    """The error for a file that breaks a rule, such as "X must have rows"."""
    return CifmError(f"{path}: damaged: {rule}", WRITE_AGAIN)


def _reason(error: BaseException) -> str:
    """The message of a library on one line; some have several lines, some none."""
    return " ".join(str(error).split())[:300] or type(error).__name__
