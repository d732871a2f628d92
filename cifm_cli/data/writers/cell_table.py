"""The annotation and the embeddings of the cells of a slide as one Parquet table, a row per cell.

Letters: N cells, D features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

    from cifm_cli.data.writers.export_cells import ExportCells

_ROWS: Final = 50_000  # that are written at once
_OWN: Final = ("cell", "slide", "x_um", "y_um")


def write_cell_table(target: Path, cells: ExportCells) -> None:
    """Write the columns `cell`, `slide`, `x_um`, `y_um`, those of obs, and `X_cifm_0` and so on.

    Args:
        target: The `.parquet`.
        cells: The cells. A column of obs with the name of another column is called `obs_NAME`.

    Raises:
        CifmError: A column of obs cannot be stored in a table.
    """
    taken = {
        *_OWN,
        *(f"{slot}_{number}" for slot, values in cells.embeddings.items() for number in range(len(values.T))),
    }
    names = {str(name): f"obs_{name}" if str(name) in taken else str(name) for name in cells.obs}
    writer = None
    try:
        for first in range(0, len(cells.obs), _ROWS):
            block = _block(cells, slice(first, first + _ROWS), names)
            writer = writer or pq.ParquetWriter(target, block.schema, write_page_checksum=True)
            writer.write_table(block)
    finally:
        if writer is not None:
            writer.close()


def _block(cells: ExportCells, rows: slice, names: dict[str, str]) -> pa.Table:
    """The rows of some cells."""
    obs = cells.obs.iloc[rows]
    columns: dict[str, Any] = {
        "cell": pa.array(obs.index.astype(str), pa.string()),
        "slide": pa.array([cells.name] * len(obs), pa.string()),
        "x_um": pa.array(cells.xy_um[rows, 0]),
        "y_um": pa.array(cells.xy_um[rows, 1]),
    }
    for name, column in zip(cells.obs, names.values(), strict=True):
        columns[column] = _column(cells, str(name), obs[name])
    for slot, values in cells.embeddings.items():
        block = values[rows]
        columns |= {f"{slot}_{number}": pa.array(block[:, number]) for number in range(block.shape[1])}
    return pa.table(columns)


def _column(cells: ExportCells, name: str, values: pd.Series[Any]) -> pa.Array:
    """A column of obs. Categories become texts, so that every block has the same type."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(values.cat.categories.dtype)
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise CifmError(
            f"{cells.path}: obs column {name} cannot be stored in a table ({str(error).splitlines()[0][:200]})",
            "remove the column, or make its values all texts or all numbers",
        ) from error
