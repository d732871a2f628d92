"""Metadata of a slide and the names of its elements, by which two slides are compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from anndata.io import read_elem

from cifm_cli import keys
from cifm_cli.data.metadata import decode_metadata
from cifm_cli.data.open_hdf5 import is_hdf5
from cifm_cli.data.slide_file import open_slide_file
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

_GROUPS: Final = ("obs", "var", "obsm", "varm", "obsp", "varp", "layers", "uns", "raw")


class StoredContent(NamedTuple):
    """What identifies the content of a slide."""

    metadata: dict[str, Any]  # `uns["cifm"]`
    names: set[str]  # paths of its elements


def read_stored_content(path: Path) -> StoredContent | None:
    """Read what identifies the content of a slide; no array is read.

    Args:
        path: An `.h5ad` or a Zarr store.

    Returns:
        The metadata and names; None if cifm did not write the file, or it is damaged.
    """
    try:
        if path.is_dir():
            import zarr

            return _identify(zarr.open_group(path, mode="r"), path)
        if not is_hdf5(path):
            return None
        with open_slide_file(path) as file:
            return _identify(file, path)
    except (CifmError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _identify(group: Any, path: Path) -> StoredContent:  # noqa: ANN401 - a group of HDF5 or Zarr
    metadata = decode_metadata(read_elem(group[f"uns/{keys.CIFM}"]), path)
    return StoredContent(metadata, {f"{slot}/{name}" for slot in _GROUPS if slot in group for name in group[slot]})
