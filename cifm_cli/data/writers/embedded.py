"""Embedded slides: the content of a prepared slide in the order of the download, with embeddings in `obsm`.

The file includes the counts, so that a probe needs no other file. Any AnnData tool can read it.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata.io import read_elem, write_elem
from scipy.sparse import csr_matrix

from cifm_cli import keys
from cifm_cli.data.open_hdf5 import create_hdf5, open_for_reading
from cifm_cli.data.slide import SLIDE_FACTS, open_slide
from cifm_cli.data.writers.dense_rows import DenseRows, create_dense, open_dense
from cifm_cli.data.writers.h5ad import require_space
from cifm_cli.data.writers.reorder import copy_slide, download_order, inverse_order
from cifm_cli.errors import CifmError, writing
from cifm_cli.workspace import atomic_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import h5py
    import pandas as pd
    from numpy.typing import NDArray

    from cifm_cli.data.slide import Slide

_LEVELS = (keys.MICROENVIRONMENT, keys.CELL)


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
    # Resolved, as the same file may be given by different paths or by a link.
    if target.resolve() == prepared.resolve():
        raise CifmError(f"{target}: the embedded slide would replace its input", "write elsewhere with --out")
    order = download_order(prepared)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        # The content of the prepared slide, and float32 features.
        require_space(target.parent, prepared.stat().st_size + 4 * len(order) * sum(widths.values()))
    with atomic_path(target) as temporary:
        with create_hdf5(temporary) as file:
            copy_slide(slide, file, order, without=_LEVELS)  # `slide` may itself be an embedded slide
            write_elem(file[f"uns/{keys.CIFM}"], keys.EMBEDDING, json.dumps(origin, allow_nan=False))
            for slot, width in widths.items():
                create_dense(file["obsm"], slot, (len(order), width))
        # The HDF5 file is closed here: rows are written by plain file operations, by several processes too.
        target_rows = inverse_order(order)
        yield {slot: open_dense(temporary, f"obsm/{slot}", target_rows) for slot in widths}


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
        path: An embedded slide.

    Returns:
        The slide.

    Raises:
        CifmError: The file is damaged, or is not an embedded slide.
    """
    try:
        with open_for_reading(path) as file:
            return _read(file, path)
    except (OSError, KeyError) as error:
        raise CifmError(
            f"{path}: not an embedded slide, or a damaged one ({error})", "write it again with `cifm embed SLIDE`"
        ) from error


def _read(file: h5py.File, path: Path) -> EmbeddedSlide:
    embeddings = {slot: file[f"obsm/{slot}"][:] for slot in _LEVELS if f"obsm/{slot}" in file}
    if not embeddings:
        raise CifmError(f"{path}: holds no embedding", f"embed the slide first: `cifm embed {path}`")
    metadata: Any = read_elem(file[f"uns/{keys.CIFM}"])
    obs: Any = read_elem(file["obs"])
    var: Any = read_elem(file["var"])
    return EmbeddedSlide(
        name=path.stem,
        xy_um=file[f"obsm/{keys.SPATIAL}"][:].astype(np.float64),
        # float32 holds every count up to `count_checks.LARGEST_COUNT` exactly.
        counts=csr_matrix(read_elem(file["X"]), dtype=np.float32),
        gene_ids=tuple(var.index),
        obs=obs,
        embeddings=embeddings,
        facts={key: str(metadata[key]) for key in SLIDE_FACTS},
        origin=json.loads(metadata[keys.EMBEDDING]),
    )
