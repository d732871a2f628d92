"""Opening the files of a download: errors of damaged files, gzip compression, encodings of text, alternative names."""

from __future__ import annotations

import codecs
import errno
import gzip
import io
import unicodedata
import zlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, cast
from zipfile import BadZipFile

import pandas as pd
from pyarrow import ArrowException, parquet

from cifm_cli.data.readers.file_kinds import special_kind, unexpected_kind
from cifm_cli.errors import CifmError
from cifm_cli.system_errors import DAMAGED_FILE_ERRORS, reading_problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Exceptions that the libraries for HDF5, Parquet, zip, gzip, JSON and CSV raise for damaged files.
_DAMAGE = (*DAMAGED_FILE_ERRORS, zlib.error, BadZipFile, ArrowException)
_GZIP_MAGIC = b"\x1f\x8b"
# Marks of the byte order at the beginning of a text, which Excel and Windows write.
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_INDEX_OF_PANDAS = "__index_level_0__"  # the column that holds an index without a name, in Parquet


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
    if special := special_kind(path):
        raise CifmError(f"{path}: {special.description}", special.hint)
    try:
        yield
    except _DAMAGE as error:
        # Errors of the system have other remedies than a new download.
        if isinstance(error, OSError) and (problem := reading_problem(error)):
            raise CifmError(f"{path}: {problem.reason}", problem.hint) from error
        if kind := unexpected_kind(path):
            raise CifmError(f"{path}: {kind.description}", kind.hint.replace("FILE", str(path))) from error
        # Messages of libraries can have several lines, or be empty.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CifmError(
            f"{path}: damaged or of another format ({reason})", "download or write this file again"
        ) from error


def open_maybe_gzip(path: Path) -> IO[bytes]:
    """Open a text that may be gzip-compressed, which is recognised by its content and not by its suffix.

    Args:
        path: The file.

    Returns:
        The text in UTF-8 without a mark of the byte order; a file in UTF-16 is converted. Letters of other encodings are
        bytes that are not valid UTF-8, to be decoded with the error handler `LATIN_1`.
    """
    # By content: browsers and archive tools decompress a file without removing `.gz` from its name, or add it.
    with path.open("rb") as file:
        compressed = file.read(2) == _GZIP_MAGIC
    handle = cast("IO[bytes]", gzip.open(path, "rb")) if compressed else path.open("rb")  # noqa: SIM115 - returned open
    # With the mark, the first name of a table would not equal the one that it looks like.
    mark = handle.read(len(codecs.BOM_UTF8))
    if encoding := _utf_16(mark):
        with handle:
            return io.BytesIO((mark + handle.read()).decode(encoding).encode())
    handle.seek(len(mark) if mark == codecs.BOM_UTF8 else 0)
    return handle


def _utf_16(start: bytes) -> str | None:
    """The encoding of a text if it is UTF-16, by its mark, or by the zeros that are half of each letter."""
    if start.startswith(_UTF16_MARKS):
        return "utf-16"
    return {(False, True): "utf-16-le", (True, False): "utf-16-be"}.get((start[:1] == b"\0", start[1:2] == b"\0"))


def _decode_latin_1(error: UnicodeError) -> tuple[str, int]:
    """Decode the bytes that are not valid UTF-8 as Windows and older programs write them."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    invalid = error.object[error.start : error.end]
    # In the code page of Windows, which is Latin-1 with more letters, five bytes have no letter.
    return "".join(_windows_letter(byte) for byte in invalid), error.end


def _windows_letter(byte: int) -> str:
    return bytes([byte]).decode("cp1252", "ignore") or chr(byte)


LATIN_1 = "cifm-latin-1"  # name of the error handler, for `decode` and for pandas
codecs.register_error(LATIN_1, _decode_latin_1)


def read_parquet(path: Path, key: str) -> pd.DataFrame:
    """Read a Parquet table. Must be called within `reading`.

    Args:
        path: The file.
        key: Name of the column that names the rows. If there is none, the index that pandas stored gets this name.

    Returns:
        The table.
    """
    # Opened here, as pyarrow refuses names that are not valid UTF-8. It ignores checksums without the option.
    with path.open("rb") as handle:
        table: pd.DataFrame = parquet.read_table(handle, page_checksum_verification=True).to_pandas()
    if key in table.columns:
        return table
    if _INDEX_OF_PANDAS in table.columns:
        return table.rename(columns={_INDEX_OF_PANDAS: key})
    # An index of row numbers names nothing.
    if isinstance(table.index, pd.RangeIndex | pd.MultiIndex):
        return table
    return table.rename_axis(index=key).reset_index()


@contextmanager
def searching(folder: Path) -> Iterator[None]:
    """Turn the errors of the system when looking for files into a `CifmError`.

    Args:
        folder: What is searched.

    Yields:
        Nothing.

    Raises:
        CifmError: A folder may not be searched, or a name is too long.
    """
    try:
        yield
    except PermissionError as error:
        where = error.filename or folder
        raise CifmError(f"{where}: permission denied", "change the permissions of the file or its folder") from error
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise CifmError(f"{folder}: the name is longer than the file system allows", "correct the path") from error


def as_stored(path: Path) -> Path:
    """The path in the form in which the file system stores its letters, which may be composed or decomposed.

    A path that exists is returned unchanged. A name such as `Probé` of a macOS disk has two letters for the last one, and
    does not equal the same name as it is typed.

    Args:
        path: The path as the user gave it.

    Returns:
        The path that exists, or else `path`.
    """
    if path.exists() or path.is_symlink() or path.parent == path:
        return path
    parent = as_stored(path.parent)
    composed = unicodedata.normalize("NFC", path.name)
    others = parent.iterdir() if parent.is_dir() else iter(())
    same = [other for other in others if unicodedata.normalize("NFC", other.name) == composed]
    return same[0] if len(same) == 1 else path


def first_existing(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first of several files or folders that exists in `folder`; None if none does."""
    return next((folder / name for name in names if (folder / name).exists()), None)
