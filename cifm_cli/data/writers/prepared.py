"""Writing a prepared slide as one `.h5ad`, which `slide.open_slide` and any AnnData tool can read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd

from cifm_cli import keys
from cifm_cli.data.column_record import COLUMNS, record_columns
from cifm_cli.data.content_record import CellContent, record_content
from cifm_cli.data.metadata import encode_metadata
from cifm_cli.data.writers.h5ad import write_h5ad

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from cifm_cli.data.writers.row_buffer import RowBuffer

# Columns that cifm writes, and the name under which AnnData stores the index.
_RESERVED = (keys.TOTAL_COUNTS, keys.NUM_GENES, keys.SPLIT, keys.DOWNLOAD_ROW, keys.CHECKSUM, "_index")


def build_anndata(
    buffer: RowBuffer,
    rows: NDArray[np.int64],
    xy_um: NDArray[np.float64],
    obs: pd.DataFrame,
    regions: NDArray[np.int8],
    gene_ids: Sequence[str],
    symbols: Sequence[str],
) -> ad.AnnData:
    """Build a prepared slide without `X` and `uns`.

    Args:
        buffer: Counts of all cells of the download.
        rows: (N,) rows of the download, in Hilbert order.
        xy_um: (N, 2) micrometres.
        obs: N rows of columns of the download, as `storable_obs` returns them.
        regions: (N,) positions in `keys.REGIONS`.
        gene_ids: G Ensembl ids.
        symbols: G symbols.

    Returns:
        The slide, in the slots of `keys`.
    """
    table = pd.DataFrame(
        {
            keys.TOTAL_COUNTS: buffer.total_counts[rows],
            keys.NUM_GENES: buffer.num_expressed[rows],
            keys.SPLIT: pd.Categorical(np.array(keys.REGIONS)[regions], categories=keys.REGIONS),
            keys.DOWNLOAD_ROW: rows.astype(np.int64),
            keys.CHECKSUM: buffer.checksums[rows],
        },
        index=obs.index.astype(str).rename(None),
    )
    var = pd.DataFrame({keys.SYMBOL: np.array(symbols, dtype=object)}, index=pd.Index(list(gene_ids), dtype=object))
    slide = ad.AnnData(obs=pd.concat([table, obs.set_axis(table.index)], axis=1), var=var)
    # In double precision: the graph must not depend on rounding in the file.
    slide.obsm[keys.SPATIAL] = np.ascontiguousarray(xy_um, dtype=np.float64)
    return slide


def set_metadata(slide: ad.AnnData, metadata: dict[str, Any]) -> None:
    """Set `uns["cifm"]` of a prepared slide, with the checksums of its content.

    Args:
        slide: Return value of `build_anndata`.
        metadata: `uns["cifm"]`, with the report and the provenance as dictionaries.
    """
    obs = slide.obs
    cells = CellContent(
        download_rows=obs[keys.DOWNLOAD_ROW].to_numpy(),
        xy_um=slide.obsm[keys.SPATIAL],
        total_counts=obs[keys.TOTAL_COUNTS].to_numpy(),
        split=obs[keys.SPLIT].cat.codes.to_numpy(),
        checksums=obs[keys.CHECKSUM].to_numpy(),
    )
    content = record_content(cells, list(slide.var_names), list(slide.var[keys.SYMBOL]), metadata)
    content[COLUMNS] = record_columns(obs)
    slide.uns[keys.CIFM] = encode_metadata({**metadata, keys.CONTENT: content})


def write_prepared(target: Path, slide: ad.AnnData, metadata: dict[str, Any], buffer: RowBuffer) -> None:
    """Write a prepared slide to a temporary name, sync it and rename it.

    Args:
        target: The `.h5ad`.
        slide: Return value of `build_anndata`; its `uns` is set.
        metadata: `uns["cifm"]`, with the report and the provenance as dictionaries.
        buffer: Counts of all cells of the download.

    Raises:
        CifmError: The disk is full, or the folder is not writable.
    """
    set_metadata(slide, metadata)
    write_h5ad(target, slide, buffer)


def storable_obs(obs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Convert columns of a download to types that `.h5ad` can store, and rename those with a reserved name.

    Args:
        obs: Columns of the download.

    Returns:
        The columns, and a note for each that was renamed or left out.
    """
    columns, notes = {}, []
    for name, column in obs.items():
        stored_name = str(name).replace("/", "_")  # a slash would create a group
        if stored_name in _RESERVED:
            stored_name = f"input_{stored_name}"
        # Two names can differ by a slash alone.
        if stored_name in columns:
            notes.append(f"obs column {name!r} left out: another column is stored as {stored_name!r}")
            continue
        if stored_name != name:
            notes.append(
                f"obs column {name!r} of the download is stored as {stored_name!r}, as cifm writes its own {name!r}"
            )
        columns[stored_name] = _storable(column)
    return pd.DataFrame(columns, index=obs.index), notes


def plot_content(uns: dict[str, Any], obs: pd.DataFrame, name: str) -> dict[str, Any]:
    """Select what a slide keeps for plots.

    Args:
        uns: `Download.uns`.
        obs: N rows of annotation of the slide.
        name: Name of the slide.

    Returns:
        Colours of categories that `obs` has, and `spatial`: images and scale factors of the sections of the slide.
    """
    content = {}
    for key, value in uns.items():
        if key == keys.SPATIAL:
            content[key] = {library or name: value[library] for library in _libraries_of(list(value), obs)}
            continue
        kind = obs.dtypes.get(key.removesuffix("_colors"))
        # A list of another length would give categories the colours of others.
        if isinstance(kind, pd.CategoricalDtype) and len(kind.categories) == len(value):
            content[key] = value
    return content


def _libraries_of(names: list[str], obs: pd.DataFrame) -> list[str]:
    """The sections whose names a column of `obs` holds; all of them if there is no such column."""
    for column in obs.columns if len(names) > 1 else ():
        if isinstance(obs[column].dtype, pd.CategoricalDtype):
            present = {str(value) for value in obs[column].dropna().unique()}
            if present and present <= set(names):
                return [name for name in names if name in present]
    return names


def _storable(column: pd.Series[Any]) -> pd.Series[Any]:
    """Numbers, Booleans and categories of texts unchanged; anything else as categories of texts."""
    kind = column.dtype
    if isinstance(kind, pd.CategoricalDtype) and all(_is_plain(name) for name in kind.categories):
        return column
    if pd.api.types.is_bool_dtype(kind) or pd.api.types.is_numeric_dtype(kind):
        return column
    # Objects of mixed types cannot be stored; as texts they can.
    return column.astype(object).map(_text, na_action="ignore").astype("category")


def _is_plain(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _text(value: object) -> str:
    text = value.decode("utf8", "replace") if isinstance(value, bytes) else str(value)
    return text.replace("\0", "")  # HDF5 texts end at a NUL byte
