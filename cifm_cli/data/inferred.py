"""Inferred expression: reading the places to infer, and writing what was inferred as an `.h5ad`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem

from cifm_cli import keys
from cifm_cli.data.h5ad import write_h5ad
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide

EXPRESSED = "expressed"  # layer (Q, P) | P(expressed)
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
    named = next((columns for columns in _COLUMNS if set(columns) <= set(table)), None)
    if named is None:
        found = ", ".join(map(str, table.columns))
        raise CifmError(f"--at {path}: no columns x_um and y_um, but {found}", "name them in the first line")
    numbers = table[named].apply(pd.to_numeric, errors="coerce")
    places: NDArray[np.float64] = numbers.to_numpy(dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(places).all(axis=1))
    if len(wrong) or not len(places):
        what = f"line {wrong[0] + 2} is not two numbers" if len(wrong) else "no places in it"
        raise CifmError(f"--at {path}: {what}", "give one place a line, in micrometres")
    return places


def read_obs(slide: Slide) -> pd.DataFrame:
    """What is known of each cell of a slide that has a file, rows as in the slide."""
    with h5py.File(slide.path, "r") as file:
        return pd.DataFrame(read_elem(file["obs"]))


def places_table(places_um: NDArray[np.float64]) -> pd.DataFrame:
    """Name free places by their order, as the obs of a slide."""
    return pd.DataFrame(index=[f"place_{i}" for i in range(1, len(places_um) + 1)])


def write_inferred(
    target: Path,
    slide: Slide,
    columns: Rows,
    obs: pd.DataFrame,
    xy_um: NDArray[np.float64],
    values: dict[str, NDArray[np.float32]],
    origin: dict[str, Any],
) -> None:
    """Write inferred expression; cells in the order of the download, places as they were given.

    Args:
        target: The `.h5ad`.
        slide: The tissue they are in.
        columns: (P,) columns of the slide that were inferred.
        obs: Q rows.
        xy_um: (Q, 2) micrometres.
        values: (Q, P) log-normalised expression as `X`, and layers by name.
        origin: Provenance.

    Raises:
        CifmError: The disk is full or may not be written.
    """
    var = pd.DataFrame(
        {keys.SYMBOL: np.array(slide.symbols, dtype=object)[columns]},
        index=pd.Index(np.array(slide.gene_ids, dtype=object)[columns]),
    )
    layers = {name: layer for name, layer in values.items() if name != "X"}
    table = ad.AnnData(X=values["X"], obs=obs, var=var, layers=layers, obsm={keys.SPATIAL: xy_um})
    table.uns[keys.CIFM] = {keys.PROVENANCE: json.dumps(origin, allow_nan=False)}
    if keys.DOWNLOAD_ROW in obs:
        table = table[np.argsort(obs[keys.DOWNLOAD_ROW].to_numpy(), kind="stable")]
    write_h5ad(target, table)
