"""Opening the files of a download: errors of damaged files, gzip compression, alternative names."""

from __future__ import annotations

import gzip
import zlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, cast
from zipfile import BadZipFile

from pyarrow import ArrowException

from cifm_cli.errors import CifmError
from cifm_cli.system_errors import reading_problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Exceptions that the libraries for HDF5, Parquet, zip, gzip, JSON and CSV raise for damaged files.
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    RuntimeError,
    ArithmeticError,
    zlib.error,
    BadZipFile,
    ArrowException,
)
_GZIP_MAGIC = b"\x1f\x8b"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the exceptions that a missing, truncated or damaged file causes into a `CifmError`.

    Args:
        path: The file that the block reads.

    Yields:
        Nothing.

    Raises:
        CifmError: The block raised an exception that a damaged file can cause.
    """
    try:
        yield
    except _DAMAGE as error:
        # The errors of the system have other remedies than a new download.
        problem = reading_problem(error) if isinstance(error, OSError) else None
        if problem:
            raise CifmError(f"{path}: {problem.reason}", problem.hint) from error
        # Messages of libraries can have several lines, or be empty.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CifmError(
            f"{path}: damaged or of another format ({reason})", "download or write this file again"
        ) from error


def open_maybe_gzip(path: Path) -> IO[bytes]:
    """Open a file that may be gzip-compressed, which is recognised by its content and not by its suffix."""
    # By content: browsers and archive tools decompress a file without removing `.gz` from its name, or add it.
    with path.open("rb") as file:
        compressed = file.read(2) == _GZIP_MAGIC
    return cast("IO[bytes]", gzip.open(path, "rb")) if compressed else path.open("rb")


def first_existing(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first of several files or folders that exists in `folder`; None if none does."""
    return next((folder / name for name in names if (folder / name).exists()), None)
