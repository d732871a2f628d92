"""Reading of labelled cells: an AnnData file of another data set, such as an atlas, with a column of cell types."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import anndata as ad
import numpy as np
from anndata._io.specs.registry import IORegistryError
from scipy.sparse import csr_matrix, issparse

from cifm_cli import keys
from cifm_cli.celltype.taxonomy import UNASSIGNED
from cifm_cli.data.count_checks import bad_count
from cifm_cli.data.ensembl import are_ensembl_ids, strip_version
from cifm_cli.data.hdf5_safety import check_content
from cifm_cli.data.open_hdf5 import open_for_reading
from cifm_cli.data.prepare.gene_symbols import packaged_symbols
from cifm_cli.data.readers.files import reading
from cifm_cli.data.units import median_spacing_um
from cifm_cli.errors import CifmError
from cifm_cli.keys import SPATIAL

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from cifm_cli.data.slide import Slide

LabelledSource: TypeAlias = Path | ad.AnnData
"""Labelled cells: an `.h5ad` file, or an AnnData in memory."""

# Columns of `var` that hold symbols in files of scanpy, CELLxGENE and this package.
SYMBOL_COLUMNS: Final = (keys.SYMBOL, "gene_symbol", "gene_symbols", "feature_name", "gene_name", "gene_names")

# Columns of `obs` that hold donors, as in files of CELLxGENE and of many studies.
DONOR_COLUMNS: Final = ("donor_id", "donor", "patient_id", "patient", "individual", "sample_id", "sample")


@dataclass(frozen=True)
class LabelledCells:
    """Cells with known types."""

    counts: csr_matrix  # (M, G) raw counts
    symbols: tuple[str, ...]  # G gene symbols
    labels: NDArray[Any]  # (M,) names of types
    spacing_um: float | None = None  # median distance to the nearest other cell, if the file has positions


def read_labelled_cells(path: Path, label: str, *, fractional: bool = False) -> LabelledCells:
    """Read the labelled cells of an AnnData file.

    Args:
        path: An `.h5ad` with raw counts in `X`, `layers["counts"]` or `raw`, and genes by Ensembl id or symbol.
        label: Column of `obs` that holds cell types; cells without a value, or `unassigned`, are left out.
        fractional: Whether to take any non-negative numbers from `X`, as pseudo-bulk profiles are.

    Returns:
        Counts, gene symbols and labels.

    Raises:
        CifmError: The file cannot be read, has no such column, or no counts.
    """
    reference = _open(path)
    counts, var, labels = _read(reference, str(path), label, "--label", fractional=fractional)
    is_labelled = (labels.notna() & ~labels.astype(str).isin(["", UNASSIGNED])).to_numpy()
    named = labels[is_labelled].astype(str).to_numpy(dtype=object)
    return LabelledCells(counts[is_labelled], _symbols(var), named, _spacing_um(reference))


@dataclass(frozen=True)
class Reference:
    """Labelled cells of another data set, in the genes of a slide."""

    counts: csr_matrix  # (M, G) raw counts, zero for genes that the data set lacks
    labels: NDArray[Any]  # (M,) names of types
    donors: NDArray[Any] | None  # (M,) names of donors; None where no column of `obs` has them


def read_reference(source: LabelledSource, label: str, slide: Slide, donor_key: str | None = None) -> Reference:
    """Read labelled cells in the genes of a slide.

    Args:
        source: An `.h5ad` file or an AnnData, with raw counts in `X`, `layers["counts"]` or `raw`, and genes by Ensembl id or symbol.
        label: Column of `obs` that holds cell types.
        slide: The slide.
        donor_key: Column of `obs` that holds donors; by default the first of `DONOR_COLUMNS` that there is.

    Returns:
        The cells.

    Raises:
        CifmError: The file cannot be read, has no such column, no counts, or no gene of the slide.
    """
    reference = _open(source) if isinstance(source, Path) else source
    counts, var, labels = _read(reference, source_name(source), label, "--inject-label")
    donors = _donors(reference, source_name(source), donor_key)
    column = _match_genes(var, slide)
    if not (column >= 0).any():
        raise CifmError(
            f"{source_name(source)}: none of the {slide.num_genes} genes of slide {slide.name} (such as {slide.gene_ids[0]})",
            "use Ensembl ids or gene symbols as var_names",
        )
    # a gene that the file lacks takes column 0, and is then set to zero.
    aligned = counts[:, np.maximum(column, 0)].multiply(column >= 0)
    return Reference(csr_matrix(aligned, dtype=np.float32), labels.astype(str).to_numpy(dtype=object), donors)


def _donors(reference: ad.AnnData, name: str, donor_key: str | None) -> NDArray[Any] | None:
    """(M,) donor of each cell, by the named column of `obs` or one of the usual names."""
    if donor_key is None:
        donor_key = next((column for column in DONOR_COLUMNS if column in reference.obs), None)
    elif donor_key not in reference.obs:
        known = ", ".join(map(str, reference.obs))
        raise CifmError(f"{name}: no obs column {donor_key!r}", f"name one with --inject-donor-key: {known}")
    if donor_key is None:
        return None
    column = reference.obs[donor_key]
    # Cells without a donor stand for one more.
    names: NDArray[Any] = column.astype(object).where(column.notna(), "unknown").astype(str).to_numpy(dtype=object)
    return names


def source_name(source: LabelledSource) -> str:
    """Name of labelled cells in messages and results: the path of a file."""
    return str(source) if isinstance(source, Path) else "the reference"


def _spacing_um(cells: ad.AnnData) -> float | None:
    """Median distance to the nearest other cell, where `obsm["spatial"]` holds two finite numbers per cell."""
    places = cells.obsm.get(SPATIAL)
    if not isinstance(places, np.ndarray) or places.ndim != 2 or places.dtype.kind not in "iuf":
        return None
    return median_spacing_um(places[:, :2].astype(np.float64)) if np.isfinite(places).all() else None


def _read(
    reference: ad.AnnData, name: str, label: str, option: str, *, fractional: bool = False
) -> tuple[csr_matrix, pd.DataFrame, pd.Series[Any]]:
    """Raw counts from the first slot that holds some, the `var` table of their genes, and the column of labels."""
    if label not in reference.obs:
        known = ", ".join(map(str, reference.obs))
        raise CifmError(f"{name}: no obs column {label!r}", f"name one with {option}: {known}")
    raw = reference.raw
    # Files of scanpy often have normalised values in X, and the counts in a layer or in raw.
    slots = [(reference.X, reference.var), (reference.layers.get("counts"), reference.var)]
    slots += [(raw.X, raw.var)] if raw is not None else []
    if fractional and reference.X is not None:
        profiles = _as_rows(reference.X, name)
        if np.isfinite(profiles.data).all() and (profiles.data >= 0).all():
            return profiles, reference.var, reference.obs[label]
    for matrix, var in slots:
        counts = None if matrix is None else _as_rows(matrix, name)
        if counts is not None and bad_count(counts.data) is None:
            return counts, var, reference.obs[label]
    raise CifmError(f"{name}: neither X nor layers['counts'] nor raw holds raw counts", "store the raw counts in X")


def _open(path: Path) -> ad.AnnData:
    """Read an AnnData file, whose sizes and links are checked first."""
    with reading(path):
        with open_for_reading(path) as file:
            check_content(file)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", FutureWarning
                )  # how anndata moves parts of earlier files is of no use here
                return ad.read_h5ad(path)
        except (IORegistryError, AttributeError, AssertionError) as error:  # of an unknown encoding, or a damaged one
            raise ValueError(str(error)) from error


def _as_rows(matrix: Any, name: str) -> csr_matrix:  # noqa: ANN401 - any matrix of AnnData
    """A matrix by rows, of which a stored one is checked first: compiled code does not check where its indices point."""
    try:
        if issparse(matrix):
            matrix.check_format(full_check=True)
        rows = csr_matrix(matrix)
    except (ValueError, TypeError, AttributeError) as error:
        raise CifmError(f"{name}: a matrix that cannot be read ({error!s:.200})", "write the file again") from error
    if rows.data.dtype.kind not in "biuf":
        raise CifmError(f"{name}: a matrix of {rows.data.dtype}, not of numbers", "store the raw counts in X")
    return rows


def _symbols(var: pd.DataFrame) -> tuple[str, ...]:
    """Gene symbols: a column of symbols if there is one, else the names; Ensembl ids are looked up in a table."""
    column = next((name for name in SYMBOL_COLUMNS if name in var), None)
    names = [str(name) for name in (var.index if column is None else var[column])]
    if not are_ensembl_ids(var.index).any() or column is not None:
        return tuple(names)
    table = packaged_symbols()
    symbol_of = dict(zip(table["id"], table["symbol"], strict=True))
    return tuple(symbol_of.get(strip_version(name), name) for name in names)


def _match_genes(var: pd.DataFrame, slide: Slide) -> NDArray[np.int64]:
    """(G,) column of the file for each gene of the slide, -1 for genes that it lacks.

    Ids and symbols of the slide are compared with the index and with every column of `var`; the pair with the most
    matches counts, because files differ in where they store which of the two.
    """
    candidates = [var.index, *(var[name] for name in var)]
    best = np.full(slide.num_genes, -1, dtype=np.int64)
    for genes in (slide.gene_ids, slide.symbols):
        for names in candidates:
            position = {strip_version(str(name)): column for column, name in enumerate(names)}
            match = np.array([position.get(gene, -1) for gene in genes], dtype=np.int64)
            best = max(best, match, key=lambda columns: int((columns >= 0).sum()))
    return best
