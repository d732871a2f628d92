"""Reading a labelled reference: cells of another assay, such as a single-cell atlas, on its own genes or a slide's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import anndata as ad
import numpy as np
from scipy.sparse import csr_matrix

from cifm_cli import keys
from cifm_cli.data.prepare.filters import bad_count
from cifm_cli.data.prepare.gene_symbols import packaged_symbols
from cifm_cli.data.prepare.genes import is_ensembl, strip_version
from cifm_cli.data.readers.base import reading
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from cifm_cli.data.slide import Slide


SYMBOL_COLUMNS: Final = (keys.SYMBOL, "gene_symbol", "gene_symbols", "feature_name", "gene_name", "gene_names")


@dataclass(frozen=True)
class LabelledCells:
    """LabelledCells cells.

    Args:
        counts: (M, G) raw counts.
        symbols: G gene symbols.
        labels: M names of types.
    """

    counts: csr_matrix
    symbols: tuple[str, ...]
    labels: NDArray[Any]


def read_labelled(path: Path, label: str) -> LabelledCells:
    """Read the labelled cells of an AnnData file.

    Args:
        path: An `.h5ad` with raw counts in `X`, `layers["counts"]` or `raw`, and genes by Ensembl id or symbol.
        label: Column of `obs` that holds cell types; cells without one are left out.

    Returns:
        Counts, gene symbols and labels.

    Raises:
        CifmError: The file cannot be read, has no such column, or no counts.
    """
    counts, var, given = _read(path, label, "--label")
    there = (given.notna() & (given.astype(str) != "")).to_numpy()
    return LabelledCells(counts[there], _symbols(var), given[there].astype(str).to_numpy(dtype=object))


def read_reference(path: Path, label: str, slide: Slide) -> tuple[csr_matrix, NDArray[Any]]:
    """Read counts and labels of a reference.

    Args:
        path: An `.h5ad` with raw counts in `X`, `layers["counts"]` or `raw`, and genes by Ensembl id or symbol.
        label: Column of `obs` that holds cell types.
        slide: Its genes are the ones wanted.

    Returns:
        (M, G) counts, genes of the slide in its order, zero where the reference lacks them; and M labels.

    Raises:
        CifmError: The file cannot be read, has no such column, no counts, or no gene of the slide.
    """
    counts, var, labels = _read(path, label, "--reference-label")
    column = _match_genes(var, slide)
    if not (column >= 0).any():
        raise CifmError(
            f"{path}: none of the {slide.num_genes} genes of slide {slide.name} (such as {slide.gene_ids[0]})",
            "use Ensembl ids or gene symbols as var_names",
        )
    aligned = counts[:, np.maximum(column, 0)].multiply(column >= 0)
    return csr_matrix(aligned, dtype=np.float32), labels.astype(str).to_numpy(dtype=object)


def _read(path: Path, label: str, option: str) -> tuple[csr_matrix, pd.DataFrame, pd.Series[Any]]:
    """Raw counts wherever they are, what is known of their genes, and the column of labels."""
    with reading(path):
        reference = ad.read_h5ad(path)
    if label not in reference.obs:
        known = ", ".join(map(str, reference.obs))
        raise CifmError(f"{path}: no obs column {label!r}", f"name one with {option}: {known}")
    raw = reference.raw
    stored = [(reference.X, reference.var), (reference.layers.get("counts"), reference.var)]
    stored += [(raw.X, raw.var)] if raw is not None else []
    for matrix, var in stored:
        counts = None if matrix is None else csr_matrix(matrix)
        if counts is not None and bad_count(counts.data) is None:
            return counts, var, reference.obs[label]
    raise CifmError(f"{path}: neither X nor layers['counts'] nor raw holds raw counts", "store the raw counts in X")


def _symbols(var: pd.DataFrame) -> tuple[str, ...]:
    """Gene symbols: of a column that is called so, or the names, those that are Ensembl ids by the packaged table."""
    column = next((name for name in SYMBOL_COLUMNS if name in var), None)
    names = [str(name) for name in (var.index if column is None else var[column])]
    if not is_ensembl(var.index).any() or column is not None:
        return tuple(names)
    table = packaged_symbols()
    known = dict(zip(table["id"], table["symbol"], strict=True))
    return tuple(known.get(strip_version(name), name) for name in names)


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
