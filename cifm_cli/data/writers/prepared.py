"""Writing a prepared slide: one `.h5ad`, whole or not at all, that `slide.open_slide` and any AnnData tool can open."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem

from cifm_cli import keys
from cifm_cli.data.writers.h5ad import write_h5ad

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from cifm_cli.data.prepare.genes import GenePlan
    from cifm_cli.data.writers.row_buffer import Spool

_RESERVED = (keys.TOTAL_COUNTS, keys.NUM_GENES, keys.SPLIT, keys.DOWNLOAD_ROW, "_index")


def build(
    spool: Spool,
    xy_um: NDArray[np.float64],
    obs: pd.DataFrame,
    rows: NDArray[np.int64],
    genes: GenePlan,
    regions: NDArray[np.int8],
) -> ad.AnnData:
    """Lay out a slide in the slots of `keys`, but for `X` and `uns`.

    Args:
        spool: Counts of every cell of the download.
        xy_um: (N, 2) micrometres, in Hilbert order.
        obs: N rows of columns carried along, in the same order, all storable.
        rows: (N,) rows of the download.
        genes: The plan that made the G columns.
        regions: (N,) positions in `keys.REGIONS`.

    Returns:
        The slide.
    """
    table = pd.DataFrame(
        {
            keys.TOTAL_COUNTS: spool.total_counts[rows],
            keys.NUM_GENES: spool.num_expressed[rows],
            keys.SPLIT: pd.Categorical(np.array(keys.REGIONS)[regions], categories=keys.REGIONS),
            keys.DOWNLOAD_ROW: rows.astype(np.int64),
        },
        index=obs.index.astype(str).rename(None),
    )
    var = pd.DataFrame({keys.SYMBOL: np.array(genes.symbols, dtype=object)}, index=pd.Index(genes.ids, dtype=object))
    slide = ad.AnnData(obs=pd.concat([table, obs.set_axis(table.index)], axis=1), var=var)
    slide.obsm[keys.SPATIAL] = np.ascontiguousarray(xy_um, dtype=np.float64)
    return slide


def write(target: Path, slide: ad.AnnData, about: dict[str, Any], spool: Spool) -> None:
    """Write a slide to a temporary name, sync it and rename it.

    Args:
        target: The `.h5ad`.
        slide: What `build` returned.
        about: `uns["cifm"]`; the report and the provenance as dictionaries.
        spool: Counts of every cell of the download.

    Raises:
        CifmError: The disk is full or may not be written.
    """
    slide.uns[keys.CIFM] = encode_about(about)
    write_h5ad(target, slide, spool)


def encode_about(about: dict[str, Any]) -> dict[str, Any]:
    """A copy of `uns["cifm"]` with the report and the provenance as JSON text, which `.h5ad` can store."""
    return {
        key: json.dumps(value, allow_nan=False) if key in (keys.REPORT, keys.PROVENANCE) else value
        for key, value in about.items()
    }


def read_about(path: Path) -> dict[str, Any] | None:
    """`uns["cifm"]` of a file with its JSON parts parsed; None where the file is no prepared slide."""
    try:
        with h5py.File(path, "r") as file:
            about = dict(read_elem(file[f"uns/{keys.CIFM}"]))
        return {
            key: json.loads(value) if key in (keys.REPORT, keys.PROVENANCE) else value for key, value in about.items()
        }
    except (OSError, KeyError, ValueError, TypeError):
        return None


def storable(obs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Columns carried along, in forms that `.h5ad` can hold and under names that are not ours.

    Args:
        obs: Columns of the download.

    Returns:
        The columns, and a note for each that changed.
    """
    columns, notes = {}, []
    for name, column in obs.items():
        kept = str(name).replace("/", "_")  # a slash would make a group
        if kept in _RESERVED:
            kept = f"input_{kept}"
        if kept in columns:
            notes.append(f"obs column {name!r} left out: another column is stored as {kept!r}")
            continue
        if kept != name:
            notes.append(f"obs column {name!r} is stored as {kept!r}")
        columns[kept] = _storable(column)
    return pd.DataFrame(columns, index=obs.index), notes


def _storable(column: pd.Series[Any]) -> pd.Series[Any]:
    kind = column.dtype
    if isinstance(kind, pd.CategoricalDtype) and all(_is_plain(name) for name in kind.categories):
        return column
    if pd.api.types.is_bool_dtype(kind) or pd.api.types.is_numeric_dtype(kind):
        return column
    return column.astype(object).map(_text, na_action="ignore").astype("category")


def _is_plain(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _text(value: object) -> str:
    text = value.decode("utf8", "replace") if isinstance(value, bytes) else str(value)
    return text.replace("\0", "")  # HDF5 ends a text there
