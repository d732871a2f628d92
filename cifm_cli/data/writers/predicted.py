"""Inferred expression: reading the places to infer, and writing what was inferred as an `.h5ad`."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata.io import write_elem

from cifm_cli import keys
from cifm_cli.data.writers.dense_rows import DenseRows, reserve, reserved
from cifm_cli.data.writers.h5ad import require_space, write_h5ad
from cifm_cli.data.writers.reorder import carry_obs, download_order, places
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


def read_places(path: Path) -> NDArray[np.float64]:
    """Read places from a CSV with the columns `x_um` and `y_um`, or `x` and `y`, in micrometres.

    Args:
        path: The file.

    Returns:
        (Q, 2) micrometres.

    Raises:
        CifmError: The file is missing, has no such columns, no rows, or something that is no number.
    """
    try:
        table = pd.read_csv(path)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise CifmError(f"--at {path}: not a readable CSV file ({error})", "give columns x_um and y_um") from error
    return places_from_table(table, f"--at {path}", lambda row: f"line {row + 2}")


def places_from_table(table: pd.DataFrame, where: str, address: Callable[[int], str]) -> NDArray[np.float64]:
    """Take positions from the columns `x_um` and `y_um`, or `x` and `y`, of a table.

    Args:
        table: Q rows.
        where: What the table is, for messages.
        address: Names a row by its position, for messages.

    Returns:
        (Q, 2) micrometres.

    Raises:
        CifmError: There are no such columns, no rows, or a value that is no finite number.
    """
    named = next((columns for columns in _COLUMNS if set(columns) <= set(table)), None)
    if named is None:
        found = ", ".join(map(str, table.columns))
        raise CifmError(f"{where}: no columns x_um and y_um, but {found}", "name them in the first line")
    numbers = table[named].apply(pd.to_numeric, errors="coerce")
    places: NDArray[np.float64] = numbers.to_numpy(dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(places).all(axis=1))
    if len(wrong) or not len(places):
        what = f"{address(int(wrong[0]))} is not two numbers" if len(wrong) else "no places in it"
        raise CifmError(f"{where}: {what}", "give one place a line, in micrometres")
    return places


def places_table(places_um: NDArray[np.float64]) -> pd.DataFrame:
    """Name free places by their order, as the obs of a slide."""
    return pd.DataFrame(index=[f"place_{i}" for i in range(1, len(places_um) + 1)])


def write_places(
    target: Path,
    slide: Slide,
    columns: Rows,
    places_um: NDArray[np.float64],
    values: NDArray[np.float32],
    expressed: NDArray[np.float32],
    origin: dict[str, Any],
) -> None:
    """Write what was inferred at free places, in the order in which they were given.

    Args:
        target: The `.h5ad`.
        slide: The tissue they are in.
        columns: (P,) columns of the slide that were inferred.
        places_um: (Q, 2) micrometres.
        values: (Q, P) log-normalised expression.
        expressed: (Q, P) P(expressed).
        origin: Provenance.

    Raises:
        CifmError: The disk is full or may not be written.
    """
    table = ad.AnnData(
        X=values,
        obs=places_table(places_um),
        var=_genes(slide, columns),
        layers={EXPRESSED: expressed},
        obsm={keys.SPATIAL: places_um},
        uns=_about(origin),
    )
    write_h5ad(target, table)


@contextmanager
def inferred_file(
    target: Path, slide: Slide, columns: Rows, origin: dict[str, Any]
) -> Iterator[tuple[DenseRows, DenseRows]]:
    """Write what was inferred of the cells of a slide, row by row, in the order of the download.

    Args:
        target: The `.h5ad` to write; there, whole, when the block ends well.
        slide: The slide, opened from a file.
        columns: (P,) columns of the slide that are inferred.
        origin: Provenance.

    Yields:
        Where the rows of log-normalised expression and those of P(expressed) are to be written, all of them.

    Raises:
        CifmError: `target` is the prepared slide itself, or may not be written.
    """
    prepared, shape = slide.file, (slide.num_cells, len(columns))
    if target.resolve() == prepared.resolve():
        raise CifmError(f"{target}: the prediction would replace its input", "write elsewhere with --out")
    order = download_order(prepared)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        require_space(target.parent, prepared.stat().st_size + 2 * 4 * shape[0] * shape[1])
    with atomic_path(target) as temporary:
        with h5py.File(prepared, "r") as source, h5py.File(temporary, "w") as file:
            file.attrs.update(source.attrs)
            carry_obs(source, file, order)
            write_elem(file, "var", _genes(slide, columns))
            write_elem(file, "obsm", {keys.SPATIAL: slide.xy_um[order]})
            write_elem(file, "uns", _about(origin))
            write_elem(file, "layers", {})
            for name in (_VALUES, _LAYER):
                reserve(file, name, shape)
        where = places(order)
        yield reserved(temporary, _VALUES, where), reserved(temporary, _LAYER, where)


def _genes(slide: Slide, columns: Rows) -> pd.DataFrame:
    return pd.DataFrame(
        {keys.SYMBOL: np.array(slide.symbols, dtype=object)[columns]},
        index=pd.Index(np.array(slide.gene_ids, dtype=object)[columns]),
    )


def _about(origin: dict[str, Any]) -> dict[str, Any]:
    return {keys.CIFM: {keys.PROVENANCE: json.dumps(origin, allow_nan=False)}}
