"""Embedded slides: everything of the prepared slide in the order of the download, and embeddings in `obsm`.

The counts stay, so that a probe needs this one file; any AnnData tool can open it.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from anndata.io import read_elem, write_elem
from scipy.sparse import csr_matrix

from cifm_cli import keys
from cifm_cli.data.slide import open_slide
from cifm_cli.data.writers.dense_rows import DenseRows, reserve, reserved
from cifm_cli.data.writers.h5ad import require_space
from cifm_cli.data.writers.reorder import carry_slide, download_order, places
from cifm_cli.errors import CifmError, writing
from cifm_cli.workspace import atomic_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from cifm_cli.data.slide import Slide

_LEVELS = (keys.MICROENVIRONMENT, keys.CELL)


@dataclass(frozen=True)
class EmbeddedSlide:
    """An embedded slide in memory, cells in the order of the download.

    Args:
        name: The file's stem.
        xy_um: (N, 2) micrometres.
        counts: (N, G) raw counts.
        gene_ids: G Ensembl ids.
        obs: N rows of annotation.
        embeddings: `keys.MICROENVIRONMENT` and `keys.CELL`, those that are there: (N, D) float32.
        facts: `uns["cifm"]`: platform, tissue, condition, sample.
        origin: Provenance of the embedding.
    """

    name: str
    xy_um: NDArray[np.float64]
    counts: csr_matrix
    gene_ids: tuple[str, ...]
    obs: pd.DataFrame
    embeddings: dict[str, NDArray[np.float32]]
    facts: dict[str, str]
    origin: dict[str, Any]

    @property
    def num_cells(self) -> int:
        """N."""
        return len(self.xy_um)


@contextmanager
def embedded_file(
    target: Path, slide: Slide, widths: Mapping[str, int], origin: dict[str, Any]
) -> Iterator[dict[str, DenseRows]]:
    """Write a prepared slide, cells in the order of the download, beside embeddings that come row by row.

    Args:
        target: The `.h5ad` to write; there, whole, when the block ends well.
        slide: The slide that is embedded, from its file.
        widths: Slot of `obsm` to D.
        origin: Provenance of the embedding.

    Yields:
        Slot to where its rows are to be written, all of them.

    Raises:
        CifmError: `target` is the prepared slide itself, or may not be written.
    """
    prepared = slide.file
    if target.resolve() == prepared.resolve():
        raise CifmError(f"{target}: the embedded slide would replace its input", "write elsewhere with --out")
    order = download_order(prepared)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        require_space(target.parent, prepared.stat().st_size + 4 * len(order) * sum(widths.values()))
    with atomic_path(target) as temporary:
        with h5py.File(temporary, "w") as file:
            carry_slide(slide, file, order, without=_LEVELS)  # of another embedding, where the slide had one
            write_elem(file[f"uns/{keys.CIFM}"], keys.EMBEDDING, json.dumps(origin, allow_nan=False))
            for slot, width in widths.items():
                reserve(file["obsm"], slot, (len(order), width))
        where = places(order)
        yield {slot: reserved(temporary, f"obsm/{slot}", where) for slot in widths}


def write_embedded(
    target: Path, prepared: Path, embeddings: Mapping[str, NDArray[np.float32]], origin: dict[str, Any]
) -> None:
    """Write embeddings that are in memory; see `embedded_file`.

    Args:
        target: The `.h5ad` to write.
        prepared: The slide that was embedded.
        embeddings: Slot of `obsm` to (N, D), rows in the order of `prepared`.
        origin: Provenance of the embedding.

    Raises:
        CifmError: `target` is the prepared slide itself, or may not be written.
    """
    widths = {slot: features.shape[1] for slot, features in embeddings.items()}
    with embedded_file(target, open_slide(prepared), widths, origin) as slots:
        for slot, features in embeddings.items():
            slots[slot].write(np.arange(len(features)), features)


def read_embedded(path: Path) -> EmbeddedSlide:
    """Read what `write_embedded` wrote.

    Args:
        path: An embedded slide.

    Returns:
        The slide.

    Raises:
        CifmError: The file is damaged, or no embedded slide.
    """
    try:
        with h5py.File(path, "r") as file:
            return _read(file, path)
    except (OSError, KeyError) as error:
        raise CifmError(
            f"{path}: not an embedded slide, or a damaged one ({error})", "make it anew with `cifm embed SLIDE`"
        ) from error


def _read(file: h5py.File, path: Path) -> EmbeddedSlide:
    embeddings = {slot: file[f"obsm/{slot}"][:] for slot in _LEVELS if f"obsm/{slot}" in file}
    if not embeddings:
        raise CifmError(f"{path}: holds no embedding", f"embed the slide first: `cifm embed {path}`")
    about: Any = read_elem(file[f"uns/{keys.CIFM}"])
    obs: Any = read_elem(file["obs"])
    var: Any = read_elem(file["var"])
    return EmbeddedSlide(
        name=path.stem,
        xy_um=file[f"obsm/{keys.SPATIAL}"][:].astype(np.float64),
        counts=csr_matrix(read_elem(file["X"]), dtype=np.float32),
        gene_ids=tuple(var.index),
        obs=obs,
        embeddings=embeddings,
        facts={key: str(about[key]) for key in (keys.PLATFORM, keys.TISSUE, keys.CONDITION, keys.SAMPLE)},
        origin=json.loads(about[keys.EMBEDDING]),
    )
