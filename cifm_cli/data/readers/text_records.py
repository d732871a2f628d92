"""Small tables with a header that users write themselves: sample sheets, locations, marker genes."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cifm_cli.data.readers.files import LATIN_1, open_maybe_gzip, reading
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FIRST_LINE = re.compile(r"(?:[ \t]*[\r\n])*([^\r\n]*)")
_MAX_BYTES = 1 << 30  # of the text; compressed files can claim any length


@dataclass(frozen=True)
class TextRecords:
    """The fields of a table as text, without white space around them."""

    columns: tuple[str, ...]  # C names of the first line
    rows: list[list[str]]  # R rows of C fields; short rows are filled with empty texts
    lines: list[int]  # line of the file in which each row ends; the first is 1
    separator: str  # character between the fields

    def column(self, name: str) -> list[str]:
        """The fields of a column.

        Args:
            name: One of `columns`.
        """
        position = self.columns.index(name)
        return [row[position] for row in self.rows]


def read_records(path: Path) -> TextRecords:
    """Read a table whose first line names its columns; separated by tabs, commas or semicolons, in any usual encoding.

    Args:
        path: The table, plain or gzip.

    Returns:
        Its rows; lines without any text are left out.

    Raises:
        CifmError: The file is missing, is no text, or has no header; a column occurs twice; a row has more fields than the
            header, or a quotation mark has no end.
    """
    with reading(path):
        with open_maybe_gzip(path) as handle:
            content = handle.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise CifmError(f"{path}: more than {_MAX_BYTES:,} bytes of text", "split the table")
        if b"\0" in content:
            raise CifmError(f"{path}: no text, it holds bytes of zero", "save it as a CSV file in UTF-8")
        text = content.decode("utf8", LATIN_1)
        sep = _separator(text)
        records = list(_parse(text, sep))
    if not records:
        raise CifmError(f"{path}: an empty table", "name the columns in the first line")
    (_, columns), *rows = records
    _check_columns(path, columns)
    for line, fields in rows:
        if len(fields) > len(columns):
            raise CifmError(
                f"{path}: line {line} has {len(fields)} fields, the first line names {len(columns)}",
                "quote fields that contain the separator; where numbers have decimal commas, separate fields by semicolons",
            )
    width = len(columns)
    return TextRecords(
        columns=tuple(columns),
        rows=[fields + [""] * (width - len(fields)) for _, fields in rows],
        lines=[line for line, _ in rows],
        separator=sep,
    )


def _separator(text: str) -> str:
    """The most frequent of tab, comma and semicolon in the first line with text."""
    first = _FIRST_LINE.match(text)
    return max("\t,;", key=(first[1] if first else "").count)


def _parse(text: str, sep: str) -> Iterator[tuple[int, list[str]]]:
    """Line and fields of each row with text; empty fields at its end, as spreadsheets write them, are left out."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=sep, skipinitialspace=True, strict=True)
    try:
        for row in reader:
            fields = [field.strip() for field in row]
            while fields and not fields[-1]:
                fields.pop()
            if fields:
                yield reader.line_num, fields
    except csv.Error as error:
        raise ValueError(f"not a table: line {reader.line_num}: {error}") from error


def _check_columns(path: Path, columns: list[str]) -> None:
    """Raise an error for two columns of one name; columns without a name cannot be asked for."""
    named = [name.lower() for name in columns if name]
    repeated = sorted({name for name in named if named.count(name) > 1})
    if repeated:
        raise CifmError(f"{path}: two columns are called {repeated[0]}", "give every column a name of its own")
