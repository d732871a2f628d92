"""Embedded slides in other formats than `.h5ad`: Zarr, Parquet and NumPy.

Letters: N cells, D features.
"""

from __future__ import annotations

import importlib.util
import warnings
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
from anndata.io import read_elem

from cifm_cli import keys
from cifm_cli.data.open_hdf5 import open_for_reading
from cifm_cli.data.slide_file import read_slot, reopen_slide_file
from cifm_cli.errors import CifmError
from cifm_cli.path_text import file_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import h5py
    import pyarrow as pa
    from numpy.typing import NDArray

Format: TypeAlias = Literal["h5ad", "zarr", "parquet", "npy"]
_ROWS: Final = 50_000  # that are converted at once
_MARKS: Final = ("zarr.json", ".zgroup", ".zmetadata")  # files of a Zarr store


def require_format(file_format: Format) -> None:
    """Check that the package that writes a format is installed.

    Args:
        file_format: The format.

    Raises:
        CifmError: It is not.
    """
    if file_format == "zarr" and importlib.util.find_spec("zarr") is None:
        raise CifmError(
            "--format zarr needs zarr, which is not installed",
            'install it with `pip install ".[analysis]"` in the source folder of cifm',
        )


def require_replaceable(target: Path) -> None:
    """Refuse to replace a folder that is not an embedded slide.

    Args:
        target: The Zarr store that will be written.

    Raises:
        CifmError: There is another folder, or a file, of this name.
    """
    if not target.exists():
        return
    about = target / "uns" / keys.CIFM / keys.EMBEDDING
    if not (target.is_dir() and about.is_dir() and any((target / name).is_file() for name in _MARKS)):
        raise CifmError(
            f"{target}: exists and is not an embedded slide", "write elsewhere with --out, or move it away first"
        )


def read_images(path: Path) -> dict[str, Any]:
    """Read images of the tissue, with their scale factors, for `uns` of a result.

    Args:
        path: An embedded slide, `.h5ad` or a Zarr store, which was opened before.

    Returns:
        `spatial` and its content; empty if the slide has none.
    """
    if path.suffix == ".zarr":
        import zarr

        store, slot = zarr.open_group(path, mode="r"), f"uns/{keys.SPATIAL}"
        return {keys.SPATIAL: read_elem(store[slot])} if slot in store else {}
    with reopen_slide_file(path) as file:
        has_images = keys.SPATIAL in file["uns"]
        return {keys.SPATIAL: read_slot(file["uns"], keys.SPATIAL, path)} if has_images else {}


def write_zarr(source: Path, target: Path) -> None:
    """Write an embedded slide as a Zarr store. The slide is read into memory.

    Args:
        source: The `.h5ad`.
        target: A folder that does not exist.
    """
    import anndata as ad

    # Version 2 is the one that all programs read, also where AnnData will write another by default.
    version = {"zarr_write_format": 2} if hasattr(ad.settings, "zarr_write_format") else {}
    with ad.settings.override(allow_write_nullable_strings=True, **version), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ad.read_h5ad(source).write_zarr(target)


def write_parquet(source: Path, target: Path, names: dict[str, str]) -> None:
    """Write names, places, embeddings, UMAP and clusters of an embedded slide as a table.

    Args:
        source: The `.h5ad`.
        target: The `.parquet`.
        names: Names of the UMAP and the clusters in `source`, as returned by `slot_names`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_for_reading(source) as file:
        writer = None
        try:
            for columns in _table_blocks(file, file_name(target), names):
                block = pa.table(columns)
                writer = writer or pq.ParquetWriter(target, block.schema, write_page_checksum=True)
                writer.write_table(block)
        finally:
            if writer is not None:
                writer.close()


def _table_blocks(file: h5py.File, slide: str, names: dict[str, str]) -> Iterator[dict[str, pa.Array]]:
    """Columns of some rows after the other."""
    import pyarrow as pa

    cells, clusters = _cell_names(file), _clusters(file, names)
    for first in range(0, len(cells), _ROWS):
        rows = slice(first, first + _ROWS)
        block: dict[str, Any] = {"cell": pa.array(cells[rows], pa.string())}
        block["slide"] = pa.DictionaryArray.from_arrays(np.zeros(len(cells[rows]), np.int32), [slide])
        xy_um = file[f"obsm/{keys.SPATIAL}"][rows]
        block |= {"x_um": pa.array(xy_um[:, 0]), "y_um": pa.array(xy_um[:, 1])}
        if names["umap"] in file["obsm"]:
            umap = file[f"obsm/{names['umap']}"][rows]
            block |= {"umap_1": pa.array(umap[:, 0]), "umap_2": pa.array(umap[:, 1])}
        if clusters is not None:
            block["leiden"] = pa.array(clusters[rows])
        for slot in _embeddings(file):
            values = file[f"obsm/{slot}"][rows]
            block |= {f"{slot}_{column}": pa.array(values[:, column]) for column in range(values.shape[1])}
        yield block


def write_npy(source: Path, folder: Path, names: dict[str, str]) -> list[str]:
    """Write an embedded slide as arrays, `SLIDE.X_cifm.npy` and so on, and the names of the cells as `SLIDE.names.txt`.

    Args:
        source: The `.h5ad`.
        folder: Folder of the files.
        names: Names of the UMAP and the clusters in `source`, as returned by `slot_names`.

    Returns:
        Names of the files.
    """
    slots = {keys.SPATIAL: keys.SPATIAL, names["umap"]: f"X_{keys.UMAP}"}
    written = []
    with open_for_reading(source) as file:
        for slot, name in {**{slot: slot for slot in _embeddings(file)}, **slots}.items():
            if slot in file["obsm"]:
                written.append(f"{source.stem}.{name}.npy")
                _copy_array(file[f"obsm/{slot}"], folder / written[-1])
        clusters = _clusters(file, names)
        if clusters is not None:
            written.append(f"{source.stem}.{keys.LEIDEN}.npy")
            np.save(folder / written[-1], clusters)
        written.append(f"{source.stem}.names.txt")
        # A line is a cell, so line breaks in names are written as `\n`.
        lines = [name.replace("\\", "\\\\").replace("\r", "\\r").replace("\n", "\\n") for name in _cell_names(file)]
        (folder / written[-1]).write_text("".join(f"{line}\n" for line in lines), encoding="utf8")
    return written


def _copy_array(stored: h5py.Dataset, target: Path) -> None:
    copied = np.lib.format.open_memmap(target, "w+", dtype=stored.dtype, shape=stored.shape)
    for first in range(0, len(stored), _ROWS):
        copied[first : first + _ROWS] = stored[first : first + _ROWS]
    copied.flush()


def _embeddings(file: h5py.File) -> list[str]:
    return [slot for slot in (keys.MICROENVIRONMENT, keys.CELL) if slot in file["obsm"]]


def _cell_names(file: h5py.File) -> list[str]:
    from anndata.io import read_elem

    return [str(name) for name in read_elem(file["obs"][str(file["obs"].attrs["_index"])])]


def _clusters(file: h5py.File, names: dict[str, str]) -> NDArray[np.int32] | None:
    """(N,) cluster numbers, which are the names of the categories."""
    from anndata.io import read_elem

    group = file["obs"].get(names["clusters"])
    ours = f"uns/{keys.CIFM}/{keys.ANALYSIS}" in file
    return None if group is None or not ours else np.asarray(read_elem(group).astype(str), dtype=np.int32)
