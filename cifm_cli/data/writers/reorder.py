"""Carrying a prepared slide over into another file, in the order of the download: column by column, block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem, write_elem

from cifm_cli import keys
from cifm_cli.data.readers.counts import row_ranges

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from cifm_cli.data.slide import Rows, Slide

_BY_CELL = ("obsm", "layers")
_AS_IT_IS = ("var", "varm", "varp", "uns")


def download_order(prepared: Path) -> Rows:
    """Rows of a slide in the order of the download."""
    with h5py.File(prepared, "r") as file:
        return np.argsort(file[f"obs/{keys.DOWNLOAD_ROW}"][:], kind="stable")


def places(order: Rows) -> Rows:
    """Where each row goes when rows are put in some order."""
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return back


def carry_slide(slide: Slide, target: h5py.File, order: Rows, without: Collection[str] = ()) -> None:
    """Copy everything that the file of a slide holds.

    Args:
        slide: A slide that has a file.
        target: An empty file.
        order: Rows, in the order to write them.
        without: Names in `obsm` and `layers` to leave out.
    """
    with h5py.File(slide.file, "r") as source:
        target.attrs.update(source.attrs)
        carry_obs(source, target, order)
        _carry_counts(source, target, order, slide)
        for slot in _AS_IT_IS:
            if slot in source:
                source.copy(slot, target)
        for slot in _BY_CELL:
            group = _like(source, target, slot)
            for name in sorted(set(source.get(slot, ())).difference(without)):
                write_elem(group, name, _taken(read_elem(source[slot][name]), order))
        pairs = _like(source, target, "obsp")
        for name in source.get("obsp", ()):
            write_elem(pairs, name, read_elem(source["obsp"][name])[order][:, order])


def carry_obs(source: h5py.File, target: h5py.File, order: Rows) -> None:
    """Copy the annotation of the cells, one column after the other.

    Args:
        source: The file of a slide.
        target: A file without `obs`.
        order: Rows, in the order to write them.
    """
    group = _like(source, target, "obs")
    for name in source["obs"]:
        write_elem(group, name, _taken(read_elem(source["obs"][name]), order))


def _carry_counts(source: h5py.File, target: h5py.File, order: Rows, slide: Slide) -> None:
    """Copy the counts, block by block."""
    indptr = np.concatenate([[0], np.cumsum(np.diff(source["X/indptr"][:].astype(np.int64))[order])])
    group = _like(source, target, "X")
    group["indptr"] = indptr if indptr[-1] > np.iinfo(np.int32).max else indptr.astype(np.int32)
    columns = group.create_dataset("indices", (indptr[-1],), np.int32)
    values = group.create_dataset("data", (indptr[-1],), np.float32)
    for first, last in row_ranges(indptr):
        block = slide.counts(order[first:last])
        columns[indptr[first] : indptr[last]], values[indptr[first] : indptr[last]] = block.indices, block.data


def _like(source: h5py.File, target: h5py.File, slot: str) -> h5py.Group:
    """A group that says of itself what the source's does."""
    group = target.create_group(slot)
    group.attrs.update(source[slot].attrs if slot in source else {})
    return group


def _taken(values: Any, order: Rows) -> Any:  # noqa: ANN401 - whatever AnnData can hold of each cell
    return values.iloc[order] if isinstance(values, pd.DataFrame) else values[order]
