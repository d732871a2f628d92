"""Predictions of an evaluation and the actual expression of the masked cells, as one `.h5ad`.

All metrics of the evaluation can be recomputed from the file.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anndata as ad

from cifm_cli import keys
from cifm_cli.data.writers.gene_annotation import gene_annotation
from cifm_cli.data.writers.h5ad import write_anndata
from cifm_cli.workspace import atomic_path

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.data.slide import Rows, Slide


def write_predictions(
    target: Path,
    slide: Slide,
    columns: Rows,
    cells: pd.DataFrame,
    layers: Mapping[str, NDArray[np.float32]],
    values: csr_matrix,
    origin: dict[str, Any],
) -> None:
    """Write predictions for Q masked cells and P genes.

    Args:
        target: The `.h5ad`.
        slide: The slide of the cells.
        columns: (P,) columns of the slide.
        cells: Q rows indexed by barcode, stored as `obs`; the column `row` is the row of the cell in the slide.
        layers: Name of a predictor to its (Q, P) predictions.
        values: (Q, P) actual log-normalised expression, stored as `X`.
        origin: Provenance.

    Raises:
        CifmError: The disk is full, or the folder is not writable.
    """
    table = ad.AnnData(X=values, obs=cells, var=gene_annotation(slide, columns), layers=dict(layers))
    table.obsm[keys.SPATIAL] = slide.xy_um[cells["row"].to_numpy()]
    table.uns[keys.CIFM] = {keys.PROVENANCE: json.dumps(origin, allow_nan=False)}
    with atomic_path(target) as temporary:
        write_anndata(temporary, table)
