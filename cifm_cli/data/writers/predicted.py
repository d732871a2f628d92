"""Predicted expression: reading the locations to predict, and writing predictions as an `.h5ad`."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
from anndata.io import write_elem

from cifm_cli import keys
from cifm_cli.data.open_hdf5 import create_hdf5
from cifm_cli.data.slide_file import reopen_slide_file
from cifm_cli.data.writers.dense_rows import DenseRows, create_dense, open_dense
from cifm_cli.data.writers.gene_annotation import gene_annotation
from cifm_cli.data.writers.h5ad import require_space, write_h5ad
from cifm_cli.data.writers.reorder import copy_obs, download_order, inverse_order
from cifm_cli.errors import CifmError, writing
from cifm_cli.workspace import atomic_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide

EXPRESSED = "expressed"  # layer (Q, P) | P(expressed)
_VALUES, _LAYER = "X", f"layers/{EXPRESSED}"
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
    try:
        table = pd.read_csv(path)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise CifmError(f"--at {path}: not a readable CSV file ({error})", "give columns x_um and y_um") from error
    return locations_from_table(table, f"--at {path}", lambda row: f"line {row + 2}")


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
    # A field that is not a number becomes NaN, so that the message can name its line.
    numbers = table[named].apply(pd.to_numeric, errors="coerce")
    xy_um: NDArray[np.float64] = numbers.to_numpy(dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(xy_um).all(axis=1))
    if len(wrong) or not len(xy_um):
        problem = f"{address(int(wrong[0]))} is not two numbers" if len(wrong) else "it has no locations"
        raise CifmError(f"{where}: {problem}", "give one location per line, in micrometres")
    return xy_um


def write_locations(
    target: Path,
    slide: Slide,
    columns: Rows,
    xy_um: NDArray[np.float64],
    values: NDArray[np.float32],
    expressed: NDArray[np.float32],
    origin: dict[str, Any],
) -> None:
    """Write predictions at locations that are not cells, in the order of the input.

    Args:
        target: The `.h5ad`.
        slide: The slide that the predictions were made from.
        columns: (P,) columns of the slide that were predicted.
        xy_um: (Q, 2) locations, micrometres.
        values: (Q, P) predicted log-normalised expression.
        expressed: (Q, P) predicted probability that a gene is expressed.
        origin: Provenance.

    Raises:
        CifmError: The disk is full, or the folder is not writable.
    """
    table = ad.AnnData(
        X=values,
        obs=pd.DataFrame(index=[f"place_{number}" for number in range(1, len(xy_um) + 1)]),
        var=gene_annotation(slide, columns),
        layers={EXPRESSED: expressed},
        obsm={keys.SPATIAL: xy_um},
        uns=_metadata(origin),
    )
    write_h5ad(target, table)


@contextmanager
def predicted_file(
    target: Path, slide: Slide, columns: Rows, origin: dict[str, Any]
) -> Iterator[tuple[DenseRows, DenseRows]]:
    """Write predictions for the cells of a slide that are computed row by row; cells in the order of the download.

    Args:
        target: The `.h5ad` to write; it exists only after the block has ended without an exception.
        slide: The slide, opened from a file.
        columns: (P,) columns of the slide that are predicted.
        origin: Provenance.

    Yields:
        Matrices (N, P) of log-normalised expression and of P(expressed); the block must write all rows.

    Raises:
        CifmError: `target` is the prepared slide itself, or is not writable.
    """
    prepared, shape = slide.file, (slide.num_cells, len(columns))
    if target.resolve() == prepared.resolve():
        raise CifmError(f"{target}: the prediction would replace its input", "write elsewhere with --out")
    order = download_order(prepared)
    # Before the prediction, which may take hours, and not when the file is written.
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        # An upper bound: the annotation of the prepared slide, and two float32 matrices.
        require_space(target.parent, prepared.stat().st_size + 2 * 4 * shape[0] * shape[1])
    with atomic_path(target) as temporary:
        with reopen_slide_file(prepared) as source, create_hdf5(temporary) as file:
            # The attributes state that the file is an AnnData, and in which version of the format.
            file.attrs.update(source.attrs)
            copy_obs(source, file, order, prepared)
            write_elem(file, "var", gene_annotation(slide, columns))
            write_elem(file, "obsm", {keys.SPATIAL: slide.xy_um[order]})
            write_elem(file, "uns", _metadata(origin))
            write_elem(file, "layers", {})
            for name in (_VALUES, _LAYER):
                create_dense(file, name, shape)
        # The file is closed here, as rows are written by plain file operations, by several processes too.
        target_rows = inverse_order(order)
        yield open_dense(temporary, _VALUES, target_rows), open_dense(temporary, _LAYER, target_rows)


def _metadata(origin: dict[str, Any]) -> dict[str, Any]:
    return {keys.CIFM: {keys.PROVENANCE: json.dumps(origin, allow_nan=False)}}
