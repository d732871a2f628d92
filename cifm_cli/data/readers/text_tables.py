"""Tables as text, as spreadsheets and R write them: separators, uneven rows, decimal commas."""

from __future__ import annotations

import csv
import io
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cifm_cli.data.readers.file_kinds import unexpected_kind
from cifm_cli.data.readers.files import LATIN_1, open_maybe_gzip
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_SEPARATORS = "\t,;"
_ROW_NAMES = "row_name"  # title of the first column in a table of R, which has none
_LONGEST_LINE = 1 << 24  # bytes; a file without line ends is not read as a whole
_MISSING = {"", "nan", "na", "n/a", "null", "none"}  # in lower case
DECIMAL_COMMA = r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?"


def separator(path: Path, candidates: str = _SEPARATORS, *, first: bool = False) -> str:
    """Find the separator of a table by its first line. Must be called within `reading`.

    Args:
        path: The table, plain or gzip.
        candidates: Characters that may separate the columns.
        first: Whether to take the first candidate that occurs, and not the most frequent one.

    Returns:
        The separator; the first candidate if none occurs.

    Raises:
        ValueError: The file is no text.
    """
    if kind := unexpected_kind(path):
        raise ValueError(kind.description)
    with open_maybe_gzip(path) as handle:
        # Not with `csv.Sniffer`, which guesses from all characters and takes a frequent letter for the separator.
        start = handle.readline(_LONGEST_LINE).decode("utf8", "replace")
    # Lines end with a carriage return alone in files of old spreadsheets on a Mac.
    line = next((line for line in start.splitlines() if line.strip()), "")
    if first:
        return next((candidate for candidate in candidates if candidate in line), candidates[0])
    return max(candidates, key=line.count)


def pandas_options(path: Path) -> dict[str, Any]:
    """Options with which pandas reads a table with a header. Must be called within `reading`.

    Rows may have one field more than the header: a first one without a title, as R writes it, or an empty last one, as
    spreadsheets write. pandas would take the first field for the index, and every name for the column to its right.

    Args:
        path: The table, plain or gzip, with the separators tab, comma or semicolon.

    Returns:
        Keyword arguments of `read_csv`, which warns of the empty last field.
    """
    sep = separator(path)
    options: dict[str, Any] = {"sep": sep, "encoding_errors": LATIN_1}
    with io.TextIOWrapper(open_maybe_gzip(path), encoding="utf8", errors=LATIN_1) as text:
        rows = csv.reader(text, delimiter=sep)
        try:
            header, row = next(rows, []), next(rows, [])
        except csv.Error as error:
            raise ValueError(f"not a table: {error}") from error
    if len(row) == len(header) + 1:
        return options | ({"names": [_ROW_NAMES, *header], "header": 0} if row[-1] else {"index_col": False})
    unused = {column for column, (name, field) in enumerate(zip(header, row, strict=False)) if not name and not field}
    if unused - {0}:
        options["usecols"] = [column for column in range(len(header)) if column not in unused - {0}]
    return options


def read_table(path: Path, dtype: Any, only: Sequence[str] | None = None) -> pd.DataFrame:  # noqa: ANN401 - as pandas takes it
    """Read a table with a header. Must be called within `reading`.

    Args:
        path: The table, plain or gzip.
        dtype: Types of the columns, as pandas takes them.
        only: Names of the columns to read; None for all.

    Returns:
        The table.
    """
    options = pandas_options(path) | {"dtype": dtype} | ({} if only is None else {"usecols": list(only)})
    with open_maybe_gzip(path) as handle, warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.ParserWarning)
        table: pd.DataFrame = pd.read_csv(handle, **options)
    return table


def read_fields(path: Path, candidates: str = _SEPARATORS) -> pd.DataFrame:
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
    with_comma = texts.str.fullmatch(DECIMAL_COMMA)
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
