"""A simulated tissue as an AnnData: the counts of its cells before and after."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anndata as ad
import pandas as pd

from cifm_cli import keys
from cifm_cli.data.writers.gene_annotation import gene_annotation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.data.slide import Slide


def trajectory_anndata(
    tissue: Slide,
    names: Sequence[str],
    obs: Mapping[str, NDArray[Any]],
    layers: Mapping[str, csr_matrix],
    provenance: dict[str, Any],
) -> ad.AnnData:
    """Build an AnnData from several states of the same cells.

    Args:
        tissue: N cells, of which positions and genes are stored.
        names: N cell names.
        obs: (N,) columns by name; text is stored as categories.
        layers: (N, G) counts by name; the last one is also `X`.
        provenance: Return value of `provenance.collect`.

    Returns:
        N cells x G genes.
    """
    table = pd.DataFrame(
        {name: pd.Categorical(values) if values.dtype == object else values for name, values in obs.items()},
        index=pd.Index(list(names), dtype=object),
    )
    # The last state, as viewers show `X` by default.
    adata = ad.AnnData(X=list(layers.values())[-1], obs=table, var=gene_annotation(tissue), layers=dict(layers))
    adata.obsm[keys.SPATIAL] = tissue.xy_um
    adata.uns[keys.CIFM] = {keys.RADIUS_UM: tissue.radius_um, keys.PROVENANCE: json.dumps(provenance)}
    return adata
