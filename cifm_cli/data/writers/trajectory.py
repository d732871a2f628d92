"""Writing a simulated tissue as one `.h5ad` with the counts before and after the simulation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd

from cifm_cli import keys
from cifm_cli.data.writers.h5ad import write_h5ad

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.data.slide import Slide


def write_trajectory(
    path: Path,
    tissue: Slide,
    names: list[str],
    obs: Mapping[str, NDArray[Any]],
    layers: Mapping[str, csr_matrix],
    provenance: dict[str, Any],
) -> None:
    """Write the states of a simulated tissue.

    Args:
        path: The `.h5ad`.
        tissue: The tissue, N cells x G genes; its coordinates and genes are stored.
        names: N names of the cells.
        obs: Name to (N,) column; texts are stored as categories.
        layers: Name to (N, G) counts; the last one is also stored as `X`.
        provenance: Return value of `provenance.collect`.
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
