"""What a file is, by its first bytes: for files that are not what their name or the reader expects."""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

_START = 512  # bytes that are looked at; the signature of a tar archive is at 257
_TAR_AT, _TAR = 257, b"ustar"
_GZIP = b"\x1f\x8b"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_APPLE_DOUBLE = b"\x00\x05\x16\x07"


class FileKind(NamedTuple):
    """What a file is, and what its user can do."""

    description: str  # with an article, such as `a zip archive`
    hint: str


_AGAIN = "download it again"
_EXPORT = "write the raw counts and obsm['spatial'] in micrometres as .h5ad"
GZIP = FileKind("compressed with gzip", "decompress it first: gunzip FILE")
ZIP = FileKind("a zip archive", "unpack it first: unzip FILE")
TAR = FileKind("a tar archive", "unpack it first: tar -xf FILE")
HDF5 = FileKind("an HDF5 file", "give its name the ending .h5ad if it is an AnnData, or .h5 if it is a 10x matrix")
PARQUET = FileKind("a Parquet table", "give its name the ending .parquet")
R_OBJECT = FileKind("an R object", f"in R, {_EXPORT}, such as with anndataR or zellkonverter")
IMAGE = FileKind("an image", "give the folder of the download, which holds counts and positions")
WEB_PAGE = FileKind("a web page and not data", "the server may have asked to log in: download it again in a browser")
EXCEL = FileKind("an Excel workbook", "save the sheet as CSV")
APPLE_DOUBLE = FileKind("a note of macOS about another file, and not data", "give the file without `._` in its name")
EMPTY = FileKind("an empty file", _AGAIN)
_BY_SIGNATURE = (
    (_HDF5, HDF5),
    (b"PAR1", PARQUET),
    (b"PK\x03\x04", ZIP),
    (b"BZh", FileKind("compressed with bzip2", "decompress it first: bunzip2 FILE")),
    (b"\xfd7zXZ\x00", FileKind("compressed with xz", "decompress it first: unxz FILE")),
    (b"\x28\xb5\x2f\xfd", FileKind("compressed with zstd", "decompress it first: unzstd FILE")),
    (b"7z\xbc\xaf\x27\x1c", FileKind("a 7z archive", "unpack it first: 7z x FILE")),
    (b"Rar!", FileKind("a rar archive", "unpack it first: unrar x FILE")),
    (b"RDX", R_OBJECT),
    (b"RDA", R_OBJECT),
    (b"X\n\x00\x00\x00", R_OBJECT),
    (b"II*\x00", IMAGE),
    (b"II+\x00", IMAGE),
    (b"MM\x00*", IMAGE),
    (b"\x89PNG", IMAGE),
    (b"\xff\xd8\xff", IMAGE),
    (b"%PDF", FileKind("a PDF", "give the data that it describes")),
    (b"\xd0\xcf\x11\xe0", EXCEL),
    (b"BAM\x01", FileKind("sequencing reads", "run the software of the instrument first, and give its output")),
    (b"version https://git-lfs", FileKind("a pointer of Git LFS and not the data", "get the data with `git lfs pull`")),
    (b"/annex/objects/", FileKind("a pointer of git-annex and not the data", "get the data with `git annex get`")),
    (_APPLE_DOUBLE, APPLE_DOUBLE),
    (bytes(64), FileKind("only zeros at its beginning", f"the copy is not complete: {_AGAIN}")),
)  # fmt: skip
_WEB_PAGE_STARTS = (b"<!doctype html", b"<html", b"<?xml")
_BINARY_ENDINGS = {".h5": HDF5, ".h5ad": HDF5, ".parquet": PARQUET, ".zip": ZIP}
_SPECIAL = {
    stat.S_IFIFO: FileKind("a pipe", "a file is read more than once: write the data to a file"),
    stat.S_IFSOCK: FileKind("a socket", "give a file"),
    stat.S_IFCHR: FileKind("a device", "give a file"),
    stat.S_IFBLK: FileKind("a device", "give a file"),
}


def special_kind(path: Path) -> FileKind | None:
    """What a path is that is neither a file nor a folder, as reading a pipe would wait forever; None otherwise."""
    try:
        return _SPECIAL.get(stat.S_IFMT(os.stat(path).st_mode))  # noqa: PTH116 - one call for all kinds
    except (OSError, ValueError):  # the error is raised where the file is opened
        return None


def identify(path: Path) -> FileKind | None:
    """What a file is, by its first bytes.

    Args:
        path: Any path.

    Returns:
        The kind; None for text, for bytes of an unknown format, and for what cannot be read.
    """
    if special := special_kind(path):
        return special
    if not os.path.isfile(path):  # noqa: PTH113 - False and no error where a folder may not be searched
        return None
    try:
        with path.open("rb") as file:
            start = file.read(_START)
    except OSError:
        return None
    if not start:
        return EMPTY
    if start.startswith(_GZIP):
        return _inside_gzip(path)
    return _by_start(start)


def unexpected_kind(path: Path) -> FileKind | None:
    """What a file is that could not be read, if it is not what its name says; None if it is, or is unknown."""
    kind = identify(path)
    expected = _BINARY_ENDINGS.get(path.suffix.lower())
    # Every reader of text also reads it compressed, so there the compression is not what is wrong.
    return None if kind == expected or (kind == GZIP and expected is None) else kind


def _inside_gzip(path: Path) -> FileKind:
    """What is compressed in a file: an archive and an R object have a hint of their own."""
    try:
        with gzip.open(path, "rb") as file:
            inside = _by_start(file.read(_START))
    except (OSError, EOFError, zlib.error):
        return GZIP
    return inside if inside and inside not in (HDF5, PARQUET) else GZIP


def _by_start(start: bytes) -> FileKind | None:
    if start[_TAR_AT:].startswith(_TAR):
        return TAR
    if start.lstrip().lower().startswith(_WEB_PAGE_STARTS):
        return WEB_PAGE
    kind = next((kind for signature, kind in _BY_SIGNATURE if start.startswith(signature)), None)
    # Workbooks are zip archives, whose first member has this name.
    return EXCEL if kind == ZIP and b"[Content_Types].xml" in start else kind
