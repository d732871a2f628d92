"""Free locations, at which the expression of a cell is predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cifm_cli.data.readers.text_records import read_records
from cifm_cli.data.readers.text_tables import DECIMAL_COMMA
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

MAX_UM = 1e9  # a kilometre: squares of larger coordinates lose the distances between cells
_COLUMNS = (["x_um", "y_um"], ["x", "y"])


def read_locations(path: Path) -> NDArray[np.float64]:
    """Read locations from a CSV with the columns `x_um` and `y_um`, or `x` and `y`, in micrometres.

    Args:
        path: The file.

    Returns:
        (Q, 2) micrometres.

    Raises:
        CifmError: The file is missing, has no such columns or no rows, or a field is not a finite number.
    """
    records = read_records(path)
    table = pd.DataFrame({name: records.column(name) for name in records.columns if name}, dtype=str)
    if records.separator == ";":
        is_number = table.apply(lambda column: column.str.fullmatch(DECIMAL_COMMA))
        table = table.mask(is_number, table.apply(lambda column: column.str.replace(",", ".", regex=False)))
    return locations_from_table(table, f"--at {path}", lambda row: f"line {records.lines[row]}")


def locations_from_table(table: pd.DataFrame, where: str, address: Callable[[int], str]) -> NDArray[np.float64]:
    """Take locations from the columns `x_um` and `y_um`, or `x` and `y`, of a table.

    Args:
        table: Q rows.
        where: What the table is, for messages.
        address: Names a row by its position, for messages.

    Returns:
        (Q, 2) micrometres.

    Raises:
        CifmError: There are no such columns, no rows, or a value that is no finite number.
    """
    # With `x_um` and `y_um` the unit is certain, so these names come first.
    named = next((columns for columns in _COLUMNS if set(columns) <= set(table)), None)
    if named is None:
        columns = ", ".join(map(str, table.columns))
        raise CifmError(f"{where}: no columns x_um and y_um, but {columns}", "name them in the first line")
    xy_um = np.array([[_number(value) for value in table[name]] for name in named], dtype=np.float64).T
    wrong = np.flatnonzero(~(np.abs(xy_um) <= MAX_UM).all(axis=1))
    if len(wrong) or not len(xy_um):
        problem = (
            f"{address(int(wrong[0]))} is not two numbers of at most {MAX_UM:g}"
            if len(wrong)
            else "it has no locations"
        )
        raise CifmError(f"{where}: {problem}", "give one location per line, in micrometres")
    return xy_um


def _number(value: Any) -> float:  # noqa: ANN401 - a field of any table
    """A field as the nearest number, which `pandas.to_numeric` misses by some units in the last place; NaN for a text."""
    try:
        return float("nan") if isinstance(value, str) and "_" in value else float(value)  # Python accepts `1_000`
    except (ValueError, TypeError):
        return float("nan")
