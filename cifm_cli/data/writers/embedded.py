"""Embedded slides: the content of a prepared slide in the order of the download, with embeddings in `obsm`.

The file includes the counts, so that a probe needs no other file. Any AnnData tool can read it.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata.io import write_elem

from cifm_cli import keys
from cifm_cli.data.checksums import content_sum, text_sum
from cifm_cli.data.column_record import NAMES, ColumnRecord
from cifm_cli.data.metadata import parse_object, read_stored_metadata
from cifm_cli.data.open_hdf5 import create_hdf5
from cifm_cli.data.slide import open_slide, read_slide
from cifm_cli.data.slide_file import damaged, forget, open_slide_file, read_slot, reading_slot, require_unchanged
from cifm_cli.data.stored_arrays import find_array, read_numbers, require_rows
from cifm_cli.data.validate_slide import read_download_rows
from cifm_cli.data.writers.analysed import remove_analysis
from cifm_cli.data.writers.dense_rows import DenseRows, create_dense, open_dense
from cifm_cli.data.writers.embedded_store import as_h5ad
from cifm_cli.data.writers.h5ad import require_space
from cifm_cli.data.writers.reorder import copy_slide, download_order, inverse_order
from cifm_cli.errors import CifmError, writing
from cifm_cli.verification import SKIP_HINT, verification_enabled
from cifm_cli.workspace import atomic_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import h5py
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.data.slide import Slide

_LEVELS = (keys.MICROENVIRONMENT, keys.CELL)
_ORIGIN = "origin"  # key of the checksum of the provenance
_ORIGIN_NUMBERS = (("radius_um",), ("recipe", "data", "target_sum"), ("recipe", "model", "encoder_layers"))
_REACH = "reach_um"
_MAX_NUMBER = 1e9  # beyond any length, sum or number of layers
_ROWS_AT_ONCE = 20_000  # 20 MB with 128 features


@dataclass(frozen=True)
class EmbeddedSlide:
    """An embedded slide in memory, cells in the order of the download."""

    name: str  # the file's stem
    xy_um: NDArray[np.float64]  # (N, 2) micrometres
    counts: csr_matrix  # (N, G) raw counts
    gene_ids: tuple[str, ...]  # G Ensembl ids
    obs: pd.DataFrame  # N rows of annotation
    embeddings: dict[str, NDArray[np.float32]]  # (N, D) float32 under `keys.MICROENVIRONMENT`, `keys.CELL` or both
    facts: dict[str, str]  # platform, tissue, condition and sample, from `uns["cifm"]`
    origin: dict[str, Any]  # provenance of the embedding

    @property
    def num_cells(self) -> int:
        """N."""
        return len(self.xy_um)

    @property
    def reach_um(self) -> float:
        """Distance beyond which no cell affects the embedding of another, micrometres."""
        encoder_um = int(self.origin["recipe"]["model"]["encoder_layers"]) * float(self.origin["radius_um"])
        return float(self.origin.get(_REACH, encoder_um))  # earlier versions embedded with the encoder alone


@dataclass(frozen=True)
class OpenEmbeddings:
    """An embedded slide without its counts; the embeddings stay in the file. Cells in the order of the download."""

    name: str  # the file's stem
    path: Path  # the file
    xy_um: NDArray[np.float64]  # (N, 2) micrometres
    obs: pd.DataFrame  # N rows of annotation
    embeddings: dict[str, NDArray[np.float32]]  # (N, D) float32, mapped from the file
    facts: dict[str, str]  # platform, tissue, condition and sample, from `uns["cifm"]`
    origin: dict[str, Any]  # provenance of the embedding


@contextmanager
def embedded_file(
    target: Path, slide: Slide, widths: Mapping[str, int], origin: dict[str, Any]
) -> Iterator[dict[str, DenseRows]]:
    """Write an embedded slide whose embeddings are computed row by row.

    Args:
        target: The `.h5ad` to write; it exists only after the block has ended without an exception.
        slide: The prepared slide, opened from a file.
        widths: Slot of `obsm` to D, the number of features.
        origin: Provenance of the embedding.

    Yields:
        Slot to (N, D) matrix; the block must write all rows.

    Raises:
        CifmError: `target` is the prepared slide itself, or is not writable.
    """
    prepared = slide.file
    require_other_file(target, prepared)
    order = download_order(prepared)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        # The content of the prepared slide, and float32 features.
        require_space(target.parent, prepared.stat().st_size + 4 * len(order) * sum(widths.values()))
    with atomic_path(target) as temporary:
        with create_hdf5(temporary) as file:
            copy_slide(slide, file, order, without=_LEVELS)  # `slide` may itself be an embedded slide
            remove_analysis(file)  # which was of its embedding
            write_elem(file[f"uns/{keys.CIFM}"], keys.EMBEDDING, json.dumps(origin, allow_nan=False))
            for slot, width in widths.items():
                create_dense(file["obsm"], slot, (len(order), width))
        # The HDF5 file is closed here: rows are written by plain file operations, by several processes too.
        target_rows = inverse_order(order)
        yield {slot: open_dense(temporary, f"obsm/{slot}", target_rows) for slot in widths}
        require_unchanged(prepared)  # worker processes open it too
        with create_hdf5(temporary, "r+") as file:
            about = {**_sum_embeddings(file, widths, temporary), _ORIGIN: _sum_origin(origin)}
            write_elem(file[f"uns/{keys.CIFM}"], keys.EMBEDDED_CONTENT, json.dumps(about))
    forget(target)  # an earlier one may have been opened, to see whether it may be replaced


def require_other_file(target: Path, prepared: Path) -> None:
    """Refuse to replace the slide that is embedded."""
    # Resolved, as the same file may be given by different paths or by a link.
    if target.resolve() == prepared.resolve():
        raise CifmError(f"{target}: the embedded slide would replace its input", "write elsewhere with --out")


def write_embedded(
    target: Path, prepared: Path, embeddings: Mapping[str, NDArray[np.float32]], origin: dict[str, Any]
) -> None:
    """Write an embedded slide whose embeddings are in memory; see `embedded_file`.

    Args:
        target: The `.h5ad` to write.
        prepared: The prepared slide.
        embeddings: Slot of `obsm` to (N, D), rows in the order of `prepared`.
        origin: Provenance of the embedding.

    Raises:
        CifmError: `target` is the prepared slide itself, or is not writable.
    """
    widths = {slot: features.shape[1] for slot, features in embeddings.items()}
    with embedded_file(target, open_slide(prepared), widths, origin) as slots:
        for slot, features in embeddings.items():
            slots[slot].write(np.arange(len(features)), features)


def read_embedded(path: Path) -> EmbeddedSlide:
    """Read an embedded slide.

    Args:
        path: An embedded slide, `.h5ad` or a Zarr store.

    Returns:
        The slide.

    Raises:
        CifmError: The file is damaged, is not an embedded slide, or was changed since it was prepared or embedded.
    """
    with as_h5ad(path) as stored:
        return _read_embedded(stored)


def _read_embedded(path: Path) -> EmbeddedSlide:
    """Read an embedded slide from an `.h5ad`."""
    with open_slide_file(path) as file:
        slide, obs, embeddings, origin = _read_content(file, path, _read_embedding, hold=True)
        return EmbeddedSlide(
            name=slide.name,
            xy_um=slide.xy_um,
            # float32 holds every count up to `count_checks.LARGEST_COUNT` exactly.
            counts=slide.counts(slide.region(keys.ALL)),
            gene_ids=slide.gene_ids,
            obs=obs,
            embeddings=embeddings,
            facts=slide.facts or {},
            origin=origin,
        )


def _read_content(
    file: h5py.File,
    path: Path,
    read_values: Callable[[h5py.File, str, int, Path], NDArray[np.float32]],
    *,
    hold: bool,
) -> tuple[Slide, pd.DataFrame, dict[str, NDArray[np.float32]], dict[str, Any]]:
    """The slide, its obs, its embeddings and their provenance, compared with their checksums."""
    slots = embedding_slots(file, path)
    if not slots:
        raise CifmError(f"{path}: holds no embedding", f"embed the slide first: `cifm embed {path}`")
    slide = read_slide(file, path, hold=hold)
    metadata = read_stored_metadata(file, path)
    origin = check_origin(metadata.get(keys.EMBEDDING), path)
    embeddings = {slot: read_values(file, slot, slide.num_cells, path) for slot in slots}
    if keys.EMBEDDED_CONTENT in metadata and verification_enabled():
        where = f"{path}: uns/{keys.CIFM}/{keys.EMBEDDED_CONTENT}"
        now = {**_sum_embeddings(file, slots, path), _ORIGIN: _sum_origin(origin)}
        _require_unchanged(now, parse_object(metadata[keys.EMBEDDED_CONTENT], where), path)
    obs, record = read_obs(file, slide.num_cells, path), ColumnRecord.read(file, path)
    for name, values in {**obs, NAMES: obs.index}.items():
        record.compare(str(name), values)
    return slide, obs, embeddings, origin


def open_embeddings(path: Path) -> OpenEmbeddings:
    """Open an embedded slide whose counts are not needed.

    Args:
        path: An embedded slide, `.h5ad` or a Zarr store.

    Returns:
        The slide. Its embeddings are read from an `.h5ad` when they are used; a matrix that another program has compressed
        is read into memory.

    Raises:
        CifmError: As for `read_embedded`.
    """
    with as_h5ad(path) as stored:
        found = _open_embeddings(stored)
        if stored == path:
            return found
        # The file that a Zarr store was converted to is temporary.
        in_memory = {slot: np.array(values) for slot, values in found.embeddings.items()}
        return replace(found, path=path, embeddings=in_memory)


def _open_embeddings(path: Path) -> OpenEmbeddings:
    """Open an `.h5ad`."""
    with open_slide_file(path) as file:
        slide, obs, embeddings, origin = _read_content(file, path, _map_embedding, hold=False)
    return OpenEmbeddings(slide.name, path, slide.xy_um, obs, embeddings, slide.facts or {}, origin)


def embedding_slots(file: h5py.File, path: Path) -> dict[str, list[int]]:
    """Slots of `obsm` that hold embeddings, and the shape of each; empty for a prepared slide."""
    with reading_slot(path, "obsm"):
        names = [slot for slot in _LEVELS if slot in file["obsm"]]
    return {slot: list(find_array(file, f"obsm/{slot}", path, "iuf").shape) for slot in names}


def _map_embedding(file: h5py.File, slot: str, num_cells: int, path: Path) -> NDArray[np.float32]:
    """(N, D) float32, mapped from the file where it is stored as `create_dense` does."""
    stored = find_array(file, f"obsm/{slot}", path)
    _require_shape(stored.shape, slot, num_cells, path)
    offset = stored.id.get_offset() if stored.dtype == np.dtype("<f4") else None
    if offset is None:  # in chunks, compressed, or of another type
        return _read_embedding(file, slot, num_cells, path)
    values: NDArray[np.float32] = np.memmap(path, np.dtype("<f4"), "r", offset, stored.shape)
    for first in range(0, num_cells, _ROWS_AT_ONCE):
        if not np.isfinite(values[first : first + _ROWS_AT_ONCE]).all():
            raise damaged(path, f"obsm/{slot} must be finite")
    return values


def _require_shape(shape: tuple[int, ...], slot: str, num_cells: int, path: Path) -> None:
    if len(shape) != 2 or shape[0] != num_cells or not shape[1]:
        raise damaged(path, f"obsm/{slot} must have a row of features per cell, and has the shape {shape}")


def _read_embedding(file: h5py.File, slot: str, num_cells: int, path: Path) -> NDArray[np.float32]:
    """(N, D) float32."""
    _require_shape(find_array(file, f"obsm/{slot}", path).shape, slot, num_cells, path)
    values = read_numbers(file, f"obsm/{slot}", path).astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise damaged(path, f"obsm/{slot} must be finite")
    return values


def read_obs(file: h5py.File, num_cells: int, path: Path) -> pd.DataFrame:
    """Read the annotation of the cells of an open slide.

    Args:
        file: The open slide.
        num_cells: N.
        path: Path of the slide.

    Returns:
        N rows, in the order of the file.

    Raises:
        CifmError: A column is missing or damaged, or has not N entries.
    """
    for name in file["obs"]:
        require_rows(file["obs"], name, num_cells, path)
    obs = read_slot(file, "obs", path)
    if not isinstance(obs, pd.DataFrame) or len(obs) != num_cells:
        raise damaged(path, "obs must be a table with a row per cell")
    return obs


def _sum_origin(origin: dict[str, Any]) -> str:
    """The checksum of the provenance of an embedding, as text."""
    return f"{text_sum([json.dumps(origin)]):016x}"


def check_origin(stored: object, path: Path) -> dict[str, Any]:
    """Parse the provenance of an embedding, and check the entries that a probe uses.

    Args:
        stored: The JSON text of `uns["cifm"]["embedding"]`.
        path: The file, for messages; the name of a slide in memory.

    Returns:
        The provenance.

    Raises:
        CifmError: It is damaged.
    """
    slot = f"uns/{keys.CIFM}/{keys.EMBEDDING}"
    origin = parse_object(stored, f"{path}: {slot}")
    optional = [(_REACH,)] if _REACH in origin else []
    for keys_of_entry in [*_ORIGIN_NUMBERS, *optional]:
        entry = _entry(origin, keys_of_entry)
        if not isinstance(entry, int | float) or isinstance(entry, bool) or not 0 < entry < _MAX_NUMBER:
            raise damaged(path, f"{slot}: {'.'.join(keys_of_entry)} must be a number above zero")
    if not isinstance(_entry(origin, ("model", "sha256")), str):
        raise damaged(path, f"{slot}: model.sha256 must be a text")
    return origin


def _entry(content: Any, keys_of_entry: Sequence[str]) -> Any:  # noqa: ANN401 - any JSON
    """An entry of nested dictionaries; None if it does not exist."""
    for key in keys_of_entry:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def _sum_embeddings(file: h5py.File, slots: Iterable[str], path: Path) -> dict[str, str]:
    """The checksum of each embedding, as text."""
    rows = read_download_rows(file, path)
    sums = {}
    for slot in slots:
        stored, total = find_array(file, f"obsm/{slot}", path), 0
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            with reading_slot(path, f"obsm/{slot}"):
                block = stored[first : first + _ROWS_AT_ONCE]
            total += content_sum(rows[first : first + _ROWS_AT_ONCE], block)
        sums[slot] = f"{total % (1 << 64):016x}"
    return sums


def _require_unchanged(now: Mapping[str, str], record: Mapping[str, Any], path: Path) -> None:
    """Raise an error if an embedding or its provenance is not what was written."""
    for name in sorted({*now, *record}):
        if record.get(name) != now.get(name):
            slot = f"uns/{keys.CIFM}/{keys.EMBEDDING}" if name == _ORIGIN else f"obsm/{name}"
            hint = f"embed the slide again: `cifm embed SLIDE`, {SKIP_HINT}"
            raise CifmError(f"{path}: changed since it was embedded: {slot}", hint)
