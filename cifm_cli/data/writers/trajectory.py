"""Writing a simulated tissue: one `.h5ad` with the counts before and after, that any AnnData tool can open."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem

from cifm_cli import keys
from cifm_cli.data.writers.h5ad import write_h5ad

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.data.slide import Rows, Slide


def write_trajectory(
    path: Path,
    tissue: Slide,
    names: list[str],
    obs: Mapping[str, NDArray[Any]],
    layers: Mapping[str, csr_matrix],
    provenance: dict[str, Any],
) -> None:
    """Write the states of a tissue.

    Args:
        path: The `.h5ad`.
        tissue: N cells; their places and genes are stored.
        names: N cell names.
        obs: (N,) columns by name; text is stored as categories.
        layers: (N, G) counts by name; the last one is also `X`.
        provenance: From `provenance.collect`.
    """
    table = pd.DataFrame(
        {name: pd.Categorical(values) if values.dtype == object else values for name, values in obs.items()},
        index=pd.Index(names, dtype=object),
    )
    var = pd.DataFrame(
        {keys.SYMBOL: np.array(tissue.symbols, dtype=object)}, index=pd.Index(tissue.gene_ids, dtype=object)
    )
    stored = ad.AnnData(X=list(layers.values())[-1], obs=table, var=var, layers=dict(layers))
    stored.obsm[keys.SPATIAL] = tissue.xy_um
    stored.uns[keys.CIFM] = {keys.RADIUS_UM: tissue.radius_um, keys.PROVENANCE: json.dumps(provenance)}
    write_h5ad(path, stored)


def cell_names(slide: Slide, rows: Rows) -> list[str]:
    """Barcodes of some cells of a prepared slide; row numbers for a slide that has no file.

    Args:
        slide: Any slide.
        rows: Rows.

    Returns:
        Names.
    """
    if slide.path is None:
        return [str(row) for row in rows]
    with h5py.File(slide.path, "r") as file:
        obs = read_elem(file["obs"])
    return [str(name) for name in obs.index[rows]]
