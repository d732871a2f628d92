"""Predictions of masked cells beside the truth, as one `.h5ad` that whoever doubts a number can recompute it from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from cifm_cli import keys
from cifm_cli.workspace import atomic_path

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.data.slide import Rows, Slide

_NAMES_AT_ONCE = 100_000  # as Python strings they take ten times the room that they have in the file


def read_barcodes(slide: Slide, rows: Rows) -> NDArray[Any]:
    """Names of some cells in their file; the rows themselves for a slide that has none.

    Args:
        slide: Any slide.
        rows: (Q,) rows.

    Returns:
        (Q,) text.
    """
    if slide.path is None:
        return rows.astype(str).astype(object)
    found = np.empty(len(rows), dtype=object)
    with h5py.File(slide.path, "r") as file:
        stored = file["obs"][file["obs"].attrs["_index"]]
        names = (
            stored["values"] if isinstance(stored, h5py.Group) else stored
        ).asstr()  # a group holds missing ones too
        for first in range(0, slide.num_cells, _NAMES_AT_ONCE):
            block = names[first : first + _NAMES_AT_ONCE]
            here = (first <= rows) & (rows < first + len(block))
            found[here] = block[rows[here] - first]
    return found


def write_predictions(
    target: Path,
    slide: Slide,
    columns: Rows,
    cells: pd.DataFrame,
    layers: Mapping[str, NDArray[np.float32]],
    values: csr_matrix,
    about: dict[str, Any],
) -> None:
    """Write masked cells x genes.

    Args:
        target: The `.h5ad`.
        slide: Where the cells come from.
        columns: (P,) columns of the slide.
        cells: Q rows, named by barcode, with a column `row`: the cell's row in the slide.
        layers: Name to (Q, P).
        values: (Q, P) actual log-normalised expression, the file's `X`.
        about: Provenance, stored as JSON.

    Raises:
        CifmError: The disk is full or may not be written.
    """
    var = pd.DataFrame(
        {keys.SYMBOL: np.array(slide.symbols, dtype=object)[columns]},
        index=pd.Index(np.array(slide.gene_ids, dtype=object)[columns]),
    )
    table = ad.AnnData(X=values, obs=cells, var=var, layers=dict(layers))
    table.obsm[keys.SPATIAL] = slide.xy_um[cells["row"].to_numpy()]
    table.uns[keys.CIFM] = {keys.PROVENANCE: json.dumps(about, allow_nan=False)}
    with atomic_path(target) as temporary:
        table.write_h5ad(temporary)
