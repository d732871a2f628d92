"""Reading a labelled reference: cells of another assay, such as a single-cell atlas, on the genes of a slide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
from scipy.sparse import csr_matrix

from cifm_cli.data.download import reading
from cifm_cli.data.filters import bad_count
from cifm_cli.data.genes import strip_version
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from cifm_cli.data.slide import Slide


def read_reference(path: Path, label: str, slide: Slide) -> tuple[csr_matrix, NDArray[Any]]:
    """Read counts and labels of a reference.

    Args:
        path: An `.h5ad` with raw counts in `X` or `layers["counts"]`, and genes by Ensembl id or symbol.
        label: Column of `obs` that holds cell types.
        slide: Its genes are the ones wanted.

    Returns:
        (M, G) counts, genes of the slide in its order, zero where the reference lacks them; and M labels.

    Raises:
        CifmError: The file cannot be read, has no such column, no counts, or no gene of the slide.
    """
    with reading(path):
        reference = ad.read_h5ad(path)
    if label not in reference.obs:
        raise CifmError(
            f"{path}: no obs column {label!r}", f"name one with --reference-label: {', '.join(map(str, reference.obs))}"
        )
    stored = [reference.X, reference.layers.get("counts")]
    matrices = [csr_matrix(matrix) for matrix in stored if matrix is not None]
    counts = next((matrix for matrix in matrices if bad_count(matrix.data) is None), None)
    if counts is None:
        raise CifmError(f"{path}: neither X nor layers['counts'] holds raw counts", "store the raw counts in X")
    column = _match_genes(reference.var, slide)
    if not (column >= 0).any():
        raise CifmError(
            f"{path}: none of the {slide.num_genes} genes of slide {slide.name} (such as {slide.gene_ids[0]})",
            "use Ensembl ids or gene symbols as var_names",
        )
    aligned = counts[:, np.maximum(column, 0)].multiply(column >= 0)
    return csr_matrix(aligned, dtype=np.float32), reference.obs[label].astype(str).to_numpy(dtype=object)


def _match_genes(var: pd.DataFrame, slide: Slide) -> NDArray[np.int64]:
    """(G,) column of the reference for each gene of the slide, by the names that find most; -1 where it has none."""
    columns = [var.index, *(var[name] for name in var)]
    best = np.full(slide.num_genes, -1, dtype=np.int64)
    for wanted in (slide.gene_ids, slide.symbols):
        for names in columns:
            position = {strip_version(str(name)): place for place, name in enumerate(names)}
            found = np.array([position.get(gene, -1) for gene in wanted], dtype=np.int64)
            best = max(best, found, key=lambda match: int((match >= 0).sum()))
    return best
