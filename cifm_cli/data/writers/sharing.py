"""Cells with the fractions of their neighbours by sample, as an `.h5ad` that scanpy and squidpy open.

The file holds annotation, positions and fractions, and no counts: its rows are those of the embedded slide.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd

from cifm_cli import keys
from cifm_cli.data.writers.embedding_formats import read_images

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from cifm_cli.data.writers.embedded import OpenEmbeddings


def store_sharing(
    adata: ad.AnnData,
    rows: slice | NDArray[np.int64],
    fractions: NDArray[np.float32],
    clusters: NDArray[np.int64] | None,
) -> None:
    """Store the fractions and clusters of some cells of an AnnData.

    Args:
        adata: N cells. Rows that are not given, now or in other calls, are NaN and have no cluster.
        rows: The n cells.
        fractions: (n, S) fractions of the neighbours in each sample.
        clusters: (n,) clusters from 0; None if the sample was not clustered.
    """
    if keys.SHARING not in adata.obsm:
        adata.obsm[keys.SHARING] = np.full((adata.n_obs, fractions.shape[1]), np.nan, dtype=np.float32)
        adata.obs[keys.SHARING_CLUSTER] = pd.Categorical([None] * adata.n_obs, categories=[])
    stored = adata.obsm[keys.SHARING]
    stored[rows] = fractions
    adata.obsm[keys.SHARING] = stored
    if clusters is None:
        return
    names = adata.obs[keys.SHARING_CLUSTER].astype(object).to_numpy(dtype=object, copy=True)
    names[rows] = (clusters + 1).astype(str)
    present = sorted({name for name in names.tolist() if isinstance(name, str)}, key=int)
    adata.obs[keys.SHARING_CLUSTER] = pd.Categorical(names, categories=present)


def record_sharing(adata: ad.AnnData, samples: Sequence[str], origin: dict[str, Any]) -> None:
    """Store the names of the samples, which are the columns of the fractions, and the provenance."""
    about = dict(adata.uns.get(keys.CIFM, {}))
    about[keys.SHARED] = json.dumps({"samples": list(samples), "provenance": origin}, allow_nan=False)
    adata.uns[keys.CIFM] = about


def write_sharing(
    target: Path,
    slide: OpenEmbeddings,
    fractions: NDArray[np.float32],
    clusters: NDArray[np.int64] | None,
    samples: Sequence[str],
    origin: dict[str, Any],
) -> None:
    """Write the cells of one slide.

    Args:
        target: The `.h5ad`.
        slide: The embedded slide.
        fractions: (N, S) fractions of the neighbours of its cells.
        clusters: (N,) clusters from 0; None if the sample was not clustered.
        samples: S names.
        origin: Provenance.
    """
    obs = slide.obs.copy()
    obs[keys.SHARING_CLUSTER] = pd.Categorical([None] * len(obs), categories=[])
    adata = ad.AnnData(obs=obs, obsm={keys.SPATIAL: np.asarray(slide.xy_um)})
    adata.uns[keys.CIFM] = dict(slide.facts)
    store_sharing(adata, slice(None), fractions, clusters)
    # One column for each sample, so that a plot can be coloured by it.
    columns = pd.DataFrame(dict(zip(_column_names(samples), fractions.T, strict=True)), index=obs.index)
    adata.obs = pd.concat([adata.obs.drop(columns=columns.columns, errors="ignore"), columns], axis=1)
    record_sharing(adata, samples, origin)
    adata.uns.update(read_images(slide.path))
    adata.write_h5ad(target)


def _column_names(samples: Sequence[str]) -> list[str]:
    """Different names of columns, without the slash that divides paths in HDF5."""
    names: list[str] = []
    for number, sample in enumerate(samples):
        name = f"neighbours_in_{sample}".replace("/", "_")
        names.append(f"{name}_{number}" if name in names else name)
    return names
