"""AnnData stores in Zarr, as a folder or zipped. They are converted to an `.h5ad`, and read and checked as one."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile, is_zipfile

from cifm_cli.data.readers.anndata import ANNDATA
from cifm_cli.data.readers.base import Download, ReadConfig, Reader
from cifm_cli.data.readers.counts import in_memory
from cifm_cli.data.readers.files import reading
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

_METADATA = (".zgroup", "zarr.json")  # of a group, in Zarr 2 and 3
_TABLES = ("obs", "var")
_SLOTS = ("X", "layers", "obs", "var", "obsm", "uns", "raw")  # those that may be read; graphs of cells are not


def _recognises(path: Path) -> bool:
    if path.is_dir():
        return all(any((path / part / name).is_file() for name in _METADATA) for part in ("", *_TABLES))
    if not (path.is_file() and path.name.lower().endswith(".zip") and is_zipfile(path)):
        return False
    with reading(path), ZipFile(path) as archive:
        names = set(archive.namelist())
    return all(any(f"{table}/{name}" in names for name in _METADATA) for table in _TABLES)


def _read(path: Path, config: ReadConfig) -> Download:
    """Read a store through a temporary `.h5ad`, as the reader of `.h5ad` checks what only files can show."""
    table = _read_table(path)
    with tempfile.TemporaryDirectory(prefix="cifm-") as folder:
        # The name of the store, which is in the messages of the reader.
        converted = Path(folder, f"{path.name.partition('.zarr')[0] or 'table'}.h5ad")
        with reading(path):
            table.write_h5ad(converted)
        try:
            download = ANNDATA.read(converted, config)
            counts = in_memory(download.counts)  # the file is removed below
        except CifmError as error:
            raise CifmError(error.message.replace(str(converted), str(path)), error.hint) from error
    files = tuple(_files(path))
    return replace(download, counts=counts, files=files, notes=("an AnnData store in Zarr", *download.notes))


ANNDATA_ZARR = Reader("anndata", _recognises, _read)


def _read_table(path: Path) -> AnnData:
    try:
        # Imported here, as the package is optional.
        import zarr
        from zarr.storage import LocalStore, ZipStore
    except ImportError as error:
        raise CifmError(
            f"{path}: an AnnData store in Zarr, and the zarr package is missing",
            "pip install zarr, or write the store as .h5ad with anndata",
        ) from error
    from anndata import AnnData
    from anndata.io import read_elem

    with reading(path):
        store: Any = LocalStore(path, read_only=True) if path.is_dir() else ZipStore(path, mode="r")
        try:
            group: Any = zarr.open_group(store, mode="r")
            slots = {name: read_elem(group[name]) for name in _SLOTS if name in group}
        finally:
            store.close()
        return AnnData(**slots)


def _files(path: Path) -> Iterator[Path]:
    """The files of a store; the archive itself if it is zipped."""
    yield from sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else (path,)
