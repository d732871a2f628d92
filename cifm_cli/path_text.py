"""Paths as text for files and terminals: bytes that are not valid in the encoding of the system become escapes.

Python holds such bytes as halves of surrogate pairs, which UTF-8 cannot encode: no JSON, HTML, Parquet or HDF5 file can
hold them.
"""

from __future__ import annotations

import re
from pathlib import Path

_UNDECODABLE = re.compile("[\ud800-\udfff]")
_ESCAPE = re.compile(r"\\x([89a-f][0-9a-f])")
_OFFSET = 0xDC00  # of the code of a byte that could not be decoded (PEP 383)


def printable(text: str) -> str:
    r"""A text whose undecodable bytes are written as `\xe9`, as Python and shells write them; other texts unchanged."""
    return _UNDECODABLE.sub(lambda match: f"\\x{ord(match[0]) - _OFFSET & 0xFF:02x}", text)


def path_text(path: Path) -> str:
    """A path with `/` between its parts, as text that every file can hold; the inverse of `path_from_text`."""
    return printable(path.as_posix())


def path_from_text(text: str) -> Path:
    """The path that `path_text` was given, if that exists, or else the path of that very text."""
    original = Path(_ESCAPE.sub(lambda match: chr(_OFFSET + int(match[1], 16)), text))
    return original if original != Path(text) and original.exists() else Path(text)


def file_name(path: Path) -> str:
    """The name of a slide: that of its file without the suffix, as text that every file can hold."""
    return printable(path.stem)
