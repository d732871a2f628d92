"""Copying a prepared slide to another file with its cells reordered, column by column and block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata.io import read_elem, write_elem

from cifm_cli import keys
from cifm_cli.data.open_hdf5 import open_for_reading
from cifm_cli.data.row_ranges import row_ranges
from cifm_cli.data.writers.csr_arrays import create_csr_arrays

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    import h5py

    from cifm_cli.data.slide import Rows, Slide

_CELL_SLOTS = ("obsm", "layers")
_UNCHANGED_SLOTS = ("var", "varm", "varp", "uns")


def download_order(prepared: Path) -> Rows:
    """(N,) rows of a prepared slide, sorted by their row in the download."""
    with open_for_reading(prepared) as file:
        return np.argsort(file[f"obs/{keys.DOWNLOAD_ROW}"][:], kind="stable")


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
    """
    with open_for_reading(slide.file) as source:
        target.attrs.update(source.attrs)
        copy_obs(source, target, order)
        _copy_counts(source, target, order, slide)
        for slot in _UNCHANGED_SLOTS:
            if slot in source:
                source.copy(slot, target)
        for slot in _CELL_SLOTS:
            group = _create_group(source, target, slot)
            # Sorted, so that the same input gives the same bytes.
            for name in sorted(set(source.get(slot, ())).difference(without)):
                write_elem(group, name, _take(read_elem(source[slot][name]), order))
        pairs = _create_group(source, target, "obsp")
        for name in source.get("obsp", ()):
            # Pairs of cells, so rows and columns are reordered.
            write_elem(pairs, name, read_elem(source["obsp"][name])[order][:, order])


def copy_obs(source: h5py.File, target: h5py.File, order: Rows) -> None:
    """Copy the annotation of the cells, one column at a time.

    Args:
        source: The file of a slide.
        target: A file without `obs`, open for writing.
        order: (N,) rows in the order to write them.
    """
    group = _create_group(source, target, "obs")
    for name in source["obs"]:
        write_elem(group, name, _take(read_elem(source["obs"][name]), order))


def _copy_counts(source: h5py.File, target: h5py.File, order: Rows, slide: Slide) -> None:
    """Copy the counts, one block of rows at a time."""
    # Row lengths in their new order, summed up.
    indptr = np.concatenate([[0], np.cumsum(np.diff(source["X/indptr"][:].astype(np.int64))[order])])
    group = _create_group(source, target, "X")
    columns, values = create_csr_arrays(group, indptr)
    for first, last in row_ranges(indptr):
        # Random access to rows, which `FileCounts` turns into reads of ranges.
        block = slide.counts(order[first:last])
        columns[indptr[first] : indptr[last]], values[indptr[first] : indptr[last]] = block.indices, block.data


def _create_group(source: h5py.File, target: h5py.File, slot: str) -> h5py.Group:
    """Create a group with the attributes of the same group of the source."""
    group = target.create_group(slot)
    group.attrs.update(source[slot].attrs if slot in source else {})
    return group


def _take(values: Any, order: Rows) -> Any:  # noqa: ANN401 - any array or table with a row per cell
    return values.iloc[order] if isinstance(values, pd.DataFrame) else values[order]
