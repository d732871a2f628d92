"""AnnData stores in Zarr, as a folder or zipped. They are converted to an `.h5ad`, and read and checked as one."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile, is_zipfile

from cifm_cli import keys
from cifm_cli.data.readers.anndata import ANNDATA
from cifm_cli.data.readers.base import Download, ReadConfig, Reader
from cifm_cli.data.readers.counts import in_memory
from cifm_cli.data.readers.files import reading
from cifm_cli.errors import CifmError
from cifm_cli.system_files import without_system_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

_METADATA = (".zgroup", "zarr.json")  # of a group, in Zarr 2 and 3
_TABLES = ("obs", "var")
# Those that the reader may ask for. Graphs of cells and images, which may be larger than the counts, are not read.
_SLOTS = ("X", "layers", "obs", "var", "obsm", "raw")
_SPARSE = ("csr_matrix", "csc_matrix")
_ABOUT = (keys.SPATIAL, keys.CIFM)  # in `uns`: scale factors, and the mark of a prepared slide


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
            _require_chunks(group)
            slots = {name: read_elem(group[name]) for name in _SLOTS if name in group}
            slots["uns"] = {
                name: _without_images(read_elem(group[f"uns/{name}"])) for name in _ABOUT if f"uns/{name}" in group
            }
        finally:
            store.close()
        return AnnData(**slots)


def _require_chunks(group: Any) -> None:  # noqa: ANN401 - a zarr group
    """Check that no file of the counts and places is missing, which Zarr reads as zeros. Raises `ValueError`.

    Zarr leaves out chunks of zeros on purpose. Places and the arrays of sparse counts have none, but dense counts may.
    """
    slots = ["X", "raw/X", *(f"layers/{name}" for name in group.get("layers", ()))]
    sparse = [slot for slot in slots if slot in group and group[slot].attrs.get("encoding-type") in _SPARSE]
    arrays = [f"{slot}/{name}" for slot in sparse for name in ("data", "indices", "indptr")]
    for name in (*arrays, f"obsm/{keys.SPATIAL}"):
        array = group.get(name)
        is_array = hasattr(array, "nchunks")  # places may be a table, and a damaged store may hold anything
        if is_array and (num_missing := array.nchunks - array.nchunks_initialized) > 0:
            raise ValueError(f"{name} lacks {num_missing} of its {array.nchunks} chunks")


def _files(path: Path) -> Iterator[Path]:
    """The files of a store; the archive itself if it is zipped."""
    if path.is_dir():
        yield from without_system_files(file for file in path.rglob("*") if file.is_file())
    else:
        yield path


def _without_images(about: Any) -> Any:  # noqa: ANN401 - any value of `uns`
    """A nested dictionary without arrays of more than one dimension."""
    if not isinstance(about, dict):
        return about
    return {name: _without_images(value) for name, value in about.items() if getattr(value, "ndim", 0) < 2}
