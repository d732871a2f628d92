"""Embedded slides: everything of the prepared slide in the order of the download, and embeddings in `obsm`.

The counts stay, so that a probe needs this one file; any AnnData tool can open it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anndata as ad
import h5py
import numpy as np
from anndata.io import read_elem
from scipy.sparse import csr_matrix

from cifm_cli import keys
from cifm_cli.data.h5ad import write_h5ad
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

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


def write_embedded(
    target: Path, prepared: Path, embeddings: Mapping[str, NDArray[np.float32]], origin: dict[str, Any]
) -> None:
    """Write a prepared slide beside its embeddings, cells in the order of the download.

    Args:
        target: The `.h5ad` to write.
        prepared: The slide that was embedded.
        embeddings: Slot of `obsm` to (N, D), rows in the order of `prepared`.
        origin: Provenance of the embedding.

    Raises:
        CifmError: `target` is the prepared slide itself, or may not be written.
    """
    if target.resolve() == prepared.resolve():
        raise CifmError(f"{target}: the embedded slide would replace its input", "write elsewhere with --out")
    slide = ad.read_h5ad(prepared)
    for slot, features in embeddings.items():
        slide.obsm[slot] = features
    slide.uns[keys.CIFM][keys.EMBEDDING] = json.dumps(origin, allow_nan=False)
    order = np.argsort(slide.obs[keys.DOWNLOAD_ROW].to_numpy(), kind="stable")
    write_h5ad(target, slide[order])


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
