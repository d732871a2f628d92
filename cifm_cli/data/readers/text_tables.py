"""Tables as text, as spreadsheets and R write them: separators, uneven rows, decimal commas."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cifm_cli.data.readers.files import LATIN_1, open_maybe_gzip
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_LONGEST_LINE = 1 << 24  # bytes; a file without line ends is not read as a whole
_MISSING = {"", "nan", "na", "n/a", "null", "none"}  # in lower case
_DECIMAL_COMMA = r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?"


def separator(path: Path, candidates: str = "\t,;") -> str:
    """The separator of a table: the most frequent of some characters in the first line, by default tab, comma, semicolon."""
    with open_maybe_gzip(path) as handle:
        # Not with `csv.Sniffer`, which guesses from all characters and takes a frequent letter for the separator.
        first = handle.readline(_LONGEST_LINE).decode("utf8", "replace")
    # Lines end with a carriage return alone in files of old spreadsheets on a Mac.
    line = next((line for line in first.splitlines() if line.strip()), "")
    return max(candidates, key=line.count)


def read_fields(path: Path, candidates: str = "\t,;") -> pd.DataFrame:
    """Read all fields of a small table as text, without header. Must be called within `reading`.

    Args:
        path: The table, plain or gzip.
        candidates: Characters that may separate the columns; if none is in the first line, white space does.

    Returns:
        Columns numbered from 0. Short rows are filled with empty texts; rows and columns without any text are left out.

    Raises:
        ValueError: A quotation mark has no end.
    """
    sep = separator(path, candidates)
    with io.TextIOWrapper(open_maybe_gzip(path), encoding="utf8", errors=LATIN_1) as text:
        lines = text.read().splitlines()
    try:
        rows = list(csv.reader(lines, delimiter=sep, skipinitialspace=True))
    except csv.Error as error:
        raise ValueError(f"not a table: {error}") from error
    if all(len(row) < 2 for row in rows):
        rows = [line.split() for line in lines]
    width = max(map(len, rows), default=0)
    padded = [[field.strip() for field in row] + [""] * (width - len(row)) for row in rows if any(map(str.strip, row))]
    table = pd.DataFrame(padded, columns=range(width), dtype=str)
    # Spreadsheets write separators for columns that were once used.
    named = [column for column in table.columns if (table[column] != "").any()]
    return table[named].set_axis(range(len(named)), axis=1)


def to_numbers(table: pd.DataFrame, columns: Sequence[str], path: Path) -> NDArray[np.float64]:
    """Convert columns of text to numbers; decimal commas are accepted if semicolons separate the columns.

    Args:
        table: R rows.
        columns: Names of C columns, of text or of numbers.
        path: The file of the table.

    Returns:
        (R, C) numbers; NaN where a field is empty.

    Raises:
        CifmError: A field is not a number.
    """
    return np.column_stack([_to_numbers(table[name], str(name), path) for name in columns])


def _to_numbers(column: pd.Series[str], name: str, path: Path) -> NDArray[np.float64]:
    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(dtype=np.float64)
    texts = column.astype(object).where(column.notna(), "").astype(str).str.strip()
    with_comma = texts.str.fullmatch(_DECIMAL_COMMA)
    # Where commas separate columns, a number with a comma has been quoted, and may as well be one of thousands.
    if with_comma.any() and separator(path) == ";":
        texts = texts.mask(with_comma, texts.str.replace(",", ".", regex=False))
    texts = texts.mask(texts.str.lower().isin(_MISSING), "nan")
    # pandas only finds the texts that are not numbers: it converts numbers with an error in the last digit.
    bad = pd.to_numeric(texts, errors="coerce").isna() & (texts != "nan")
    if bad.any():
        raise CifmError(
            f"{path}: column {name} holds text, such as {texts[bad].iloc[0]!r} ({bad.sum():,} of {len(texts):,} fields)",
            "write plain numbers, with a decimal point and without separators of thousands",
        )
    return texts.to_numpy(dtype=np.float64)
