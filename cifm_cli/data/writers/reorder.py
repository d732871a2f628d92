"""Copying a prepared slide to another file with its cells reordered, column by column and block by block."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata.io import write_elem

from cifm_cli import keys
from cifm_cli.data.column_record import NAMES, ColumnRecord
from cifm_cli.data.row_ranges import row_ranges
from cifm_cli.data.slide_file import copying_slot, damaged, read_slot, reading_slot, reopen_slide_file
from cifm_cli.data.stored_arrays import require_rows
from cifm_cli.data.validate_slide import read_download_rows
from cifm_cli.data.writers.csr_arrays import create_csr_arrays

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from cifm_cli.data.slide import Rows, Slide

logger = logging.getLogger(__name__)

_CELL_SLOTS = ("obsm", "layers")
_UNCHANGED_SLOTS = ("var", "varm", "varp", "uns")
_RAW_UNCHANGED = ("var", "varm")
_SLOTS = {"X", "obs", "obsp", "raw", *_CELL_SLOTS, *_UNCHANGED_SLOTS}


def download_order(prepared: Path) -> Rows:
    """Sort the cells of a prepared slide by their row in the download.

    Args:
        prepared: The file.

    Returns:
        (N,) rows of the slide.

    Raises:
        CifmError: The rows of the download are missing or repeated.
    """
    with reopen_slide_file(prepared) as file:
        return np.argsort(read_download_rows(file, prepared), kind="stable")


def inverse_order(order: Rows) -> Rows:
    """The inverse of a permutation: the new position of each row, given the (N,) rows in their new order."""
    positions = np.empty_like(order)
    positions[order] = np.arange(len(order))
    return positions


def copy_slide(slide: Slide, target: h5py.File, order: Rows, without: Collection[str] = ()) -> None:
    """Copy the whole content of the file of a slide, with its cells reordered.

    Args:
        slide: A slide that was opened from a file.
        target: An empty file, open for writing.
        order: (N,) rows in the order to write them.
        without: Names in `obsm` and `layers` that are not copied.

    Raises:
        CifmError: A part of the slide is damaged, or does not have an entry per cell.
    """
    path = slide.file
    with reopen_slide_file(path) as source:
        target.attrs.update(source.attrs)
        copy_obs(source, target, order, path)
        _copy_counts(source, target, order, slide)
        _copy_unchanged(source, target, _UNCHANGED_SLOTS, path)
        for slot in _CELL_SLOTS:
            group = _create_group(source, target, slot, path)
            # Sorted, so that the same input gives the same bytes.
            for name in sorted(set(source.get(slot, ())).difference(without)):
                _write(path, group, name, _take(source[slot], name, order, path))
        pairs = _create_group(source, target, "obsp", path)
        for name in source.get("obsp", ()):
            # Pairs of cells, so rows and columns are reordered.
            rows = _take(source["obsp"], name, order, path)
            with reading_slot(path, f"obsp/{name}"):
                values = rows[:, order]
            _write(path, pairs, name, values)
        # AnnData can store a missing `raw` as an empty array.
        if isinstance(source.get("raw"), h5py.Group):
            raw = _create_group(source, target, "raw", path)
            _write(path, raw, "X", _take(source["raw"], "X", order, path))
            _copy_unchanged(source["raw"], raw, _RAW_UNCHANGED, path)
        for slot in sorted(set(source) - _SLOTS):
            logger.warning("%s: %s is no part of an AnnData and is not copied", path, slot)


def copy_images(source: h5py.File, target: h5py.Group) -> None:
    """Copy images of the tissue, with their scale factors, if a slide has them.

    Args:
        source: The file of a slide.
        target: The group `uns` of another file, open for writing.
    """
    slot = f"uns/{keys.SPATIAL}"
    if slot in source:
        source.copy(slot, target, name=keys.SPATIAL)


def copy_obs(source: h5py.File, target: h5py.File, order: Rows, path: Path) -> None:
    """Copy the annotation of the cells, one column at a time.

    Args:
        source: The file of a slide.
        target: A file without `obs`, open for writing.
        order: (N,) rows in the order to write them.
        path: Path of the slide.

    Raises:
        CifmError: A column is damaged, or does not have an entry per cell.
    """
    group = _create_group(source, target, "obs", path)
    with reading_slot(path, "obs"):
        index = str(source["obs"].attrs["_index"])
        listed = {index, *map(str, source["obs"].attrs["column-order"])}
    if missing := listed - set(source["obs"]):
        raise damaged(path, f"obs/{min(missing)} is missing")
    record = ColumnRecord.read(source, path)
    for name in source["obs"]:
        values = _take(source["obs"], name, order, path)
        record.compare(NAMES if name == index else name, values, order)
        _write(path, group, name, values)


def _copy_counts(source: h5py.File, target: h5py.File, order: Rows, slide: Slide) -> None:
    """Copy the counts, one block of rows at a time."""
    # Row lengths in their new order, summed up.
    with reading_slot(slide.file, "X"):
        indptr = np.concatenate([[0], np.cumsum(np.diff(source["X/indptr"][:].astype(np.int64))[order])])
    group = _create_group(source, target, "X", slide.file)
    columns, values = create_csr_arrays(group, indptr)
    for first, last in row_ranges(indptr):
        # Random access to rows, which `FileCounts` turns into reads of ranges.
        block = slide.counts(order[first:last])
        columns[indptr[first] : indptr[last]], values[indptr[first] : indptr[last]] = block.indices, block.data


def _copy_unchanged(source: h5py.Group, target: h5py.Group, slots: Collection[str], path: Path) -> None:
    for slot in slots:
        if slot in source:
            with reading_slot(path, f"{source.name.strip('/')}/{slot}".lstrip("/")):
                source.copy(slot, target)


def _create_group(source: h5py.File, target: h5py.File, slot: str, path: Path) -> h5py.Group:
    """Create a group with the attributes of the same group of the source."""
    group = target.create_group(slot)
    with reading_slot(path, slot):
        group.attrs.update(source[slot].attrs if slot in source else {})
    return group


def _write(path: Path, group: h5py.Group, name: str, values: Any) -> None:  # noqa: ANN401 - any element of AnnData
    # Nullable texts are read by all versions of AnnData, but written only if allowed.
    slot = f"{group.name.strip('/')}/{name}"
    with copying_slot(path, slot), ad.settings.override(allow_write_nullable_strings=True):
        write_elem(group, name, values)


def _take(group: h5py.Group, name: str, order: Rows, path: Path) -> Any:  # noqa: ANN401 - any array or table
    """Read an element with a row per cell, in a new order."""
    slot = f"{group.name.strip('/')}/{name}"
    require_rows(group, name, len(order), path)
    values = read_slot(group, name, path)
    with reading_slot(path, slot):
        num_rows = values.shape[0] if hasattr(values, "shape") else len(values)
        if num_rows != len(order):
            raise damaged(path, f"{slot} has {num_rows} rows, the slide has {len(order)} cells")
        return values.iloc[order] if isinstance(values, pd.DataFrame) else values[order]
