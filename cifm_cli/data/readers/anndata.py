"""AnnData files with `obsm["spatial"]`. All columns of `obs` are kept."""

from __future__ import annotations

import warnings
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
from anndata import OldFormatWarning
from anndata._io.specs.registry import IORegistryError
from anndata.io import read_elem
from scipy.sparse import csr_matrix, issparse

from cifm_cli import keys
from cifm_cli.data.count_checks import bad_count
from cifm_cli.data.ensembl import are_ensembl_ids
from cifm_cli.data.readers.anndata_extras import read_extras
from cifm_cli.data.readers.base import GENE_EXPRESSION, Download, ReadConfig, Reader
from cifm_cli.data.readers.cell_flags import read_flags
from cifm_cli.data.readers.centre_columns import missing_centres_hint, read_places
from cifm_cli.data.readers.counts import Counts, canonical, row_blocks, stored_counts
from cifm_cli.data.readers.declared_scale import read_libraries, scale_places
from cifm_cli.data.readers.hdf5 import check_arrays, open_hdf5
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

# Names of columns of `var`, in lower case, in order of preference.
_ID_COLUMNS = ("gene_ids", "gene_id", "ensembl_id", "ensembl", "ensemblid", "feature_id", "id")
_SYMBOL_COLUMNS = ("symbol", "gene_symbol", "gene_symbols", "feature_name", "gene_name", "gene_names", "name")
_TYPE_COLUMNS = ("feature_types", "feature_type")
_COUNT_LAYERS = ("counts", "raw_counts", "count", "raw")
_RAW = "raw/X"


def _recognises(path: Path) -> bool:
    return path.is_file() and path.suffix == ".h5ad"


class H5adCounts(NamedTuple):
    """The counts of an AnnData file, N cells x F features; `slot` is where they are stored."""

    counts: Counts
    names: pd.Index[str]
    genes: pd.DataFrame
    slot: str
    notes: tuple[str, ...]
    counts_hint: str


def read_h5ad_counts(path: Path, layer: str | None) -> H5adCounts:
    """Read the counts of an AnnData file and the names of its cells.

    Args:
        path: The `.h5ad`.
        layer: Slot of the counts: `X`, `raw`, or the name of a layer; None for the first slot that holds counts.

    Returns:
        The counts.

    Raises:
        CifmError: The file is damaged, or has no such layer.
    """
    with open_hdf5(path) as file:
        return _read_counts(file, path, layer)


def _read_counts(file: h5py.File, path: Path, layer: str | None) -> H5adCounts:
    names = _table(file["obs"]).index.astype(str)
    slot, counts, notes = _find_counts(file, path, layer)
    genes = find_gene_columns(_table(file["raw/var" if slot == _RAW else "var"]))
    counts_hint = "" if _begins_with_counts(counts) else _alternatives(file, path, slot)
    if counts.shape != (len(names), len(genes)):
        raise CifmError(
            f"{path}: {slot} {counts.shape}, obs {len(names)} and var {len(genes)} do not fit",
            "write the file again with anndata",
        )
    return H5adCounts(counts, names, genes, slot, tuple(notes), counts_hint)


def _read(path: Path, config: ReadConfig) -> Download:
    """Read an AnnData file slot by slot; obsp, large embeddings and unused layers are not loaded."""
    with open_hdf5(path) as file:
        # First, as these checks read only names and attributes, and the rest may read gigabytes.
        _check_slots(file, path)
        obs = _table(file["obs"])
        places = read_places(_element(file[f"obsm/{keys.SPATIAL}"]), len(obs), str(path))
        libraries = read_libraries(file.get("uns/spatial"))
        content = _read_counts(file, path, config.layer)
        scaled, flags = scale_places(places, obs, libraries, config, path), read_flags(obs)
        extras = read_extras(file, _element, content.slot, places.xy, scaled.xy_um)
    obs.index = content.names
    return Download(
        platform="anndata",
        counts=content.counts,
        obs=obs,
        genes=content.genes,
        xy_um=scaled.xy_um,
        units=scaled.units,
        matrix=content.slot,
        files=(path,),
        in_tissue=flags.in_tissue,
        notes=(*content.notes, *scaled.notes, *flags.notes, *extras.notes),
        counts_hint=content.counts_hint,
        z_um=scaled.z_um,
        is_assumed_um=scaled.is_assumed,
        obsm=extras.obsm,
        uns=extras.uns,
    )


ANNDATA = Reader("anndata", _recognises, _read)


def _check_slots(file: h5py.File, path: Path) -> None:
    # Preparing twice would apply the filters twice, and lose the report of the download.
    if f"uns/{keys.CIFM}/{keys.FORMAT}" in file:
        raise CifmError(f"{path}: a prepared slide already", "train, evaluate or embed with it")
    if f"obsm/{keys.SPATIAL}" not in file:
        # A damaged file may hold an array under this name.
        have = ", ".join(file["obsm"]) if isinstance(file.get("obsm"), h5py.Group) else "nothing"
        raise CifmError(
            f"{path}: no obsm['spatial'] (obsm holds {have or 'nothing'})", missing_centres_hint(_obs_columns(file))
        )
    # Before anndata 0.7, obs was stored as one array of records.
    if not isinstance(file["obs"], h5py.Group):
        raise CifmError(f"{path}: written by an anndata before 0.7", "read it with anndata and write it again")


def _obs_columns(file: h5py.File) -> list[str]:
    """Names of the columns of obs; none where obs was stored as an array of records."""
    return list(file["obs"]) if isinstance(file.get("obs"), h5py.Group) else []


def _find_counts(file: h5py.File, path: Path, layer: str | None) -> tuple[str, Counts, list[str]]:
    """The counts of a file and the slot they are in."""
    slot, notes = choose_slot(_slots(file), layer, lambda slot: _begins_with_counts(_rows(path, file[slot])), str(path))
    return slot, _rows(path, file[slot]), notes


def choose_slot(
    slots: Sequence[str], layer: str | None, holds_counts: Callable[[str], bool], where: str
) -> tuple[str, list[str]]:
    """Choose the slot of an AnnData that holds the raw counts.

    Args:
        slots: Slots that exist: `X`, `layers/NAME` and `raw/X`.
        layer: The slot asked for, as `X`, `raw` or the name of a layer; None to look for one that holds counts.
        holds_counts: Whether the values of a slot are counts.
        where: Name of the input, for messages.

    Returns:
        The slot, and a note if it is not the first choice. The first slot if none holds counts.

    Raises:
        CifmError: There is no such slot.
    """
    # `X` and `raw` are the names of slots in AnnData, so a layer of one of these names cannot be chosen.
    asked = None if layer is None else {"X": "X", "raw": _RAW}.get(layer, f"layers/{layer}")
    if not slots or (asked and asked not in slots):
        names = ", ".join(map(_layer_name, slots)) or "neither X nor layers nor raw"
        raise CifmError(f"{where}: no {asked or 'counts'}", f"--layer takes what the file holds: {names}")
    if asked:
        return asked, []
    # X is preferred. If it is normalised, the raw counts are usually in one of these layers, or in raw.
    usual = [slot for slot in (slots[0], *(f"layers/{name}" for name in _COUNT_LAYERS), _RAW) if slot in slots]
    for slot in usual:
        if holds_counts(slot):
            return slot, [] if slot == usual[0] else [f"{usual[0]} holds no raw counts; took {slot}"]
    return usual[0], []


def _slots(file: h5py.File) -> list[str]:
    layers = [f"layers/{name}" for name in file.get("layers", ())]
    return [slot for slot in ("X", *layers, _RAW) if slot in file]


def _layer_name(slot: str) -> str:
    return {_RAW: "raw"}.get(slot, slot.removeprefix("layers/"))


def _alternatives(file: h5py.File, path: Path, slot: str) -> str:
    """The hint for a matrix that does not hold counts: the slots that do. Empty if there is none."""
    others = [other for other in _slots(file) if other != slot]
    count_layers = [_layer_name(other) for other in others if _begins_with_counts(_rows(path, file[other]))]
    return f"the raw counts are elsewhere: --layer {' or '.join(count_layers)}" if count_layers else ""


def _element(element: Any) -> Any:  # noqa: ANN401 - an h5py group or dataset, and the value that anndata reads from it
    check_arrays(element)
    try:
        with warnings.catch_warnings(action="ignore", category=OldFormatWarning):  # old formats are read correctly
            return read_elem(element)
    except IORegistryError as error:
        raise ValueError(f"{element.name} has an encoding that anndata does not know") from error


def _table(element: Any) -> pd.DataFrame:  # noqa: ANN401 - an h5py group
    table = _element(element)
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"{element.name} is not stored as a table")
    # By position, as names of columns may repeat.
    for position in range(table.shape[1]):
        table.isetitem(position, _in_native_order(table.iloc[:, position]).array)
    return table


def _in_native_order(column: pd.Series) -> pd.Series:
    """A column whose numbers or category codes have the byte order of this machine, as pandas requires."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes = column.cat.codes.to_numpy()
        native = pd.Categorical.from_codes(codes.astype(codes.dtype.newbyteorder("=")), dtype=column.dtype)
        return pd.Series(native, index=column.index)
    if isinstance(column.dtype, np.dtype) and not column.dtype.isnative:
        return column.astype(column.dtype.newbyteorder("="))
    return column


def _rows(path: Path, element: Any) -> Counts:  # noqa: ANN401 - an h5py group or dataset
    """A matrix by rows. A CSR matrix stays in the file; any other is read and converted."""
    # Other encodings cannot be read by rows: CSC is stored by columns, and a dense matrix is made sparse as a whole.
    if element.attrs.get("encoding-type") == "csr_matrix":
        check_arrays(element)
        num_rows, num_columns = (int(size) for size in element.attrs["shape"])
        return stored_counts(path, element, (num_rows, num_columns))
    stored = _element(element)
    if issparse(stored):
        stored.check_format(full_check=True)  # an index out of range would crash the conversion
    return canonical(csr_matrix(stored))


def _begins_with_counts(counts: Counts) -> bool:
    """Whether the first block of a matrix holds counts; the other blocks are checked when they are read."""
    # The first block is enough to tell raw counts from normalised values.
    return all(bad_count(block.data) is None for _, block in islice(row_blocks(counts), 1))


def find_gene_columns(var: pd.DataFrame) -> pd.DataFrame:
    """Find ids, symbols and feature types among the columns of `var`, by the usual names of such columns.

    Args:
        var: F rows, the `var` of an AnnData.

    Returns:
        F rows with columns id, symbol and feature_type. Ids are the index if most of it are Ensembl ids.
    """
    # Readers of scanpy put symbols into the index and ids into a column; CELLxGENE does the opposite.
    index = pd.Series(var.index.astype(str), index=var.index)
    id_column = None if 2 * are_ensembl_ids(index).sum() > len(index) else _column(var, _ID_COLUMNS)
    symbol_column = _column(var, _SYMBOL_COLUMNS)
    ids = index if id_column is None else _texts(var[id_column])
    symbols = index.mask(are_ensembl_ids(index), "") if symbol_column is None else _texts(var[symbol_column])
    type_column = _column(var, _TYPE_COLUMNS)
    kinds = pd.Series(GENE_EXPRESSION, index=var.index) if type_column is None else _texts(var[type_column])
    return pd.DataFrame({"id": ids, "symbol": symbols, "feature_type": kinds}).reset_index(drop=True)


def _column(var: pd.DataFrame, names: tuple[str, ...]) -> str | None:
    # Tools differ in the case of these names.
    lower = {str(column).lower(): str(column) for column in var.columns}
    return next((lower[name] for name in names if name in lower), None)


def _texts(column: pd.Series[Any]) -> pd.Series[str]:
    # Missing names become empty texts, as categories and nullable texts cannot be compared with plain ones.
    return column.astype(object).where(column.notna(), "").astype(str)
