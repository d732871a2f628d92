"""Any other platform (MERFISH, CosMx, STARmap, seqFISH, Stereo-seq): a matrix of counts and a table of cell centres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from cifm_cli.data.prepare.genes import is_ensembl
from cifm_cli.data.readers.anndata import read_h5ad_counts
from cifm_cli.data.readers.base import GENE_EXPRESSION, Download, PrepareConfig, Reader, open_maybe_gzip, reading
from cifm_cli.data.readers.count_table import name_cells, numbered_by_view, read_count_table, separator
from cifm_cli.data.readers.tenx import read_matrix
from cifm_cli.data.units import Scale, to_micrometres
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from cifm_cli.data.readers.counts import Counts


class _Centres(NamedTuple):
    """Names that software gives to the two columns of cell centres, and their unit in micrometres; 0 for pixels."""

    x: str
    y: str
    unit_um: float


_CENTRES = (
    _Centres("x_um", "y_um", 1.0),
    _Centres("x_centroid", "y_centroid", 1.0),
    _Centres("center_x", "center_y", 1.0),  # MERSCOPE
    _Centres("x_slide_mm", "y_slide_mm", 1000.0),  # CosMx
    _Centres("centerx_global_mm", "centery_global_mm", 1000.0),
    _Centres("centerx_global_px", "centery_global_px", 0.0),
    _Centres("x_global_px", "y_global_px", 0.0),
    _Centres("pxl_col_in_fullres", "pxl_row_in_fullres", 0.0),
    _Centres("centroid_x", "centroid_y", 1.0),
    _Centres("x_location", "y_location", 1.0),
    _Centres("x", "y", 1.0),
)
_TYPE_ROW = "TYPE"  # the second line of tables for the Single Cell Portal
_FEWEST_FOUND = 0.5  # CosMx counts what lies outside cells as cell 0 of each field of view


@dataclass(frozen=True)
class _Matrix:
    """Counts of some file, N cells by G features; `turned` is the other way to read a text table."""

    counts: Counts
    cells: NDArray[np.object_]
    genes: pd.DataFrame
    slot: str
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    instead: str = ""


def _read(path: Path, options: PrepareConfig) -> Download:
    """Read the matrix and the cells; they are matched by name, never by position."""
    if options.cells is None:
        raise CifmError(f"{path}: a matrix without cell centres", "name the table of cells with --cells")
    cells = _read_cells(options.cells)
    x, y, scale = _find_centres(cells, options)
    candidates = [column for column in cells.columns if column not in (x, y)]
    matrix, obs = _match(_read_matrices(path, options), cells, candidates, options.cells)
    with reading(options.cells):
        xy = obs[[x, y]].astype(np.float64).to_numpy()
    xy_um, units = to_micrometres(xy, options.microns_per_pixel, f"{x}, {y} of {options.cells.name}", scale)
    return Download(
        platform="table",
        counts=matrix.counts,
        obs=obs.drop(columns=[x, y]).apply(_as_numbers),
        genes=matrix.genes,
        xy_um=xy_um,
        units=units,
        matrix=matrix.slot,
        files=matrix.files,
        notes=matrix.notes + _unused(len(cells) - int(obs.notna().any(axis=1).sum()), options.cells),
        instead=matrix.instead,
    )


TABLE = Reader("table", lambda _: False, _read)  # only ever asked for, with --cells


def _unused(num_cells: int, path: Path) -> tuple[str, ...]:
    return (f"{num_cells:,} cells of {path.name} are not in the matrix and were left out",) if num_cells > 0 else ()


def _read_matrices(path: Path, options: PrepareConfig) -> list[_Matrix]:
    """The matrix in each way that its file can be read: a text table has cells as rows, or as columns."""
    if not path.exists():
        raise CifmError(f"{path}: no such file", "check the path of the matrix")
    if path.suffix == ".h5ad":
        content = read_h5ad_counts(path, options.layer)
        names = content.names.to_numpy(dtype=object)
        return [_Matrix(content.counts, names, content.genes, content.slot, (path,), content.notes, content.instead)]
    if path.is_dir() or path.suffix == ".h5" or ".mtx" in path.suffixes:
        tenx = read_matrix(path.parent if ".mtx" in path.suffixes else path)
        return [_Matrix(tenx.counts, tenx.barcodes, tenx.genes, path.name, tenx.files)]
    table = read_count_table(path)
    return [
        _Matrix(form.counts, form.rows, _name_genes(form.columns), path.name, (path,))
        for form in (table, table.turned())
    ]


def _name_genes(names: NDArray[np.object_]) -> pd.DataFrame:
    texts = pd.Series(names, dtype=object)
    symbols = texts.mask(is_ensembl(texts), "")
    return pd.DataFrame({"id": texts, "symbol": symbols, "feature_type": GENE_EXPRESSION})


def _read_cells(path: Path) -> pd.DataFrame:
    """The table of cells, all fields as text."""
    with reading(path), open_maybe_gzip(path) as handle:
        cells = pd.read_csv(handle, sep=separator(path), dtype=str, encoding="utf-8-sig")
    if len(cells) and cells.iloc[0, 0] == _TYPE_ROW:
        cells = cells.iloc[1:]
    return cells


def _find_centres(cells: pd.DataFrame, options: PrepareConfig) -> tuple[str, str, Scale | None]:
    """Columns of the centres, and their scale."""
    lower = {str(name).lower(): str(name) for name in cells.columns}
    found = next((names for names in _CENTRES if names.x in lower and names.y in lower), None)
    if found is None:
        raise CifmError(
            f"{options.cells}: no columns of cell centres (it has {', '.join(map(str, cells.columns))})",
            f"name them x_um and y_um; known pairs are {', '.join(f'{names.x}/{names.y}' for names in _CENTRES)}",
        )
    x, y = lower[found.x], lower[found.y]
    if not found.unit_um and options.microns_per_pixel is None:
        raise CifmError(
            f"{options.cells}: {x} and {y} are pixels",
            "give their size with --microns-per-pixel (CosMx: 0.12028, its first public slides 0.18)",
        )
    return x, y, None if found.unit_um in {0.0, 1.0} else Scale(found.unit_um, "millimetres")


def _match(
    matrices: list[_Matrix], cells: pd.DataFrame, candidates: list[str], path: Path
) -> tuple[_Matrix, pd.DataFrame]:
    """The form of the matrix whose cells the table names, and the rows of the table in its order.

    The column of names is the one that holds the names of the matrix: every platform calls it otherwise. A cell that is
    only in the matrix has NaN for a row.
    """
    columns = {name: cells[name] for name in candidates}
    if (pair := numbered_by_view(cells.columns)) is not None:
        fov, cell = (cells[name].astype(str) for name in pair)
        columns[" and ".join(pair)] = pd.Series(name_cells(fov, cell), index=cells.index)
    best, matrix, key = 0.0, matrices[0], ""
    for form in matrices:
        for name, column in columns.items():
            share = float(pd.Index(form.cells).isin(column).mean()) if len(form.cells) else 0.0
            if share > best:
                best, matrix, key = share, form, name
    if best < _FEWEST_FOUND:
        raise CifmError(
            f"{path}: no column holds the names of the cells of the matrix ({matrix.cells[:1].tolist()}, ...): at best "
            f"{best:.0%} of them are found",
            "take matrix and cells of one export, with a column of names that they share",
        )
    index = pd.Index(columns[key], dtype=object)
    for where, names in ((f"{path}: column {key}", index), (str(matrix.files[0]), pd.Index(matrix.cells))):
        if not names.is_unique:
            twice = names[names.duplicated()][0]
            raise CifmError(
                f"{where}: {twice!r} occurs twice", "remove the repeated cells, or prepare each sample alone"
            )
    obs = cells.set_axis(index).drop(columns=[key] if key in cells.columns else [])
    return matrix, obs.reindex(matrix.cells)


def _as_numbers(column: pd.Series[str]) -> pd.Series[str]:
    """Numbers where a column of text holds nothing else."""
    numbers = pd.to_numeric(column, errors="coerce")
    return numbers if numbers.notna().sum() == column.notna().sum() else column
