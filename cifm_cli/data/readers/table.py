"""Downloads of other platforms, such as MERFISH and CosMx: a matrix of counts and a table of cell centres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cifm_cli.data.ensembl import are_ensembl_ids
from cifm_cli.data.readers.anndata import read_h5ad_counts
from cifm_cli.data.readers.base import GENE_EXPRESSION, Download, ReadConfig, Reader
from cifm_cli.data.readers.cell_flags import read_flags
from cifm_cli.data.readers.centre_columns import CENTRES, centre_pairs, find_centres, find_depth
from cifm_cli.data.readers.count_table import cell_names_in_views, read_count_table, view_columns
from cifm_cli.data.readers.files import reading
from cifm_cli.data.readers.tenx import read_matrix, read_mex_by_matrix
from cifm_cli.data.readers.text_tables import read_table, to_numbers
from cifm_cli.data.units import Scale, to_micrometres
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from cifm_cli.data.readers.counts import Counts


_TYPE_ROW = "TYPE"  # the second line of tables for the Single Cell Portal
# Not all cells of the matrix need be in the table: CosMx counts transcripts outside cells as cell 0 of each view.
_MIN_MATCHED = 0.5


@dataclass(frozen=True)
class _Matrix:
    """The counts of a file in one orientation, N cells x F features."""

    counts: Counts
    cells: NDArray[np.object_]
    genes: pd.DataFrame
    slot: str
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    counts_hint: str = ""


def _read(path: Path, config: ReadConfig) -> Download:
    """Read the matrix and the cells, which are matched by name."""
    if config.cells is None:
        raise CifmError(f"{path}: a matrix without cell centres", "name the table of cells with --cells")
    cells = _read_cells(config.cells)
    x, y, scale = _find_centres(cells, config)
    # A coordinate can be a whole number, and would match cells that are named by numbers.
    candidates = [column for column in cells.columns if column not in (x, y)]
    matrix, obs = _match(_read_matrices(path, config), cells, candidates, config.cells)
    num_unused = len(cells) - int(obs.notna().any(axis=1).sum())
    # The coordinates are still text here.
    xy = to_numbers(obs, [x, y], config.cells)
    depth = find_depth(name for name in obs.columns if name not in (x, y))
    z_um = None if depth is None else pd.to_numeric(obs[depth], errors="coerce").to_numpy(np.float64)
    xy_um, units = to_micrometres(xy, config.microns_per_pixel, f"{x}, {y} of {config.cells.name}", scale)
    obs = obs.drop(columns=[x, y]).apply(_as_numbers)
    flags = read_flags(obs)
    return Download(
        platform="table",
        counts=matrix.counts,
        obs=obs,
        genes=matrix.genes,
        xy_um=xy_um,
        units=units,
        matrix=matrix.slot,
        files=matrix.files,
        in_tissue=flags.in_tissue,
        notes=matrix.notes + _unused_note(num_unused, config.cells) + flags.notes,
        counts_hint=matrix.counts_hint,
        z_um=z_um,
        is_assumed_um=scale is None and config.microns_per_pixel is None,
    )


TABLE = Reader("table", lambda _: False, _read)  # never recognised; used with --cells


def _unused_note(num_cells: int, path: Path) -> tuple[str, ...]:
    return (f"{num_cells:,} cells of {path.name} are not in the matrix and were left out",) if num_cells > 0 else ()


def _read_matrices(path: Path, config: ReadConfig) -> list[_Matrix]:
    """The matrix in each possible orientation: in a text table, cells are the rows or the columns."""
    if not path.exists():
        raise CifmError(f"{path}: no such file", "check the path of the matrix")
    if path.suffix == ".h5ad":
        content = read_h5ad_counts(path, config.layer)
        names = content.names.to_numpy(dtype=object)
        return [
            _Matrix(content.counts, names, content.genes, content.slot, (path,), content.notes, content.counts_hint)
        ]
    if path.is_dir() or path.suffix == ".h5" or ".mtx" in path.suffixes:
        tenx = read_mex_by_matrix(path) if ".mtx" in path.suffixes else read_matrix(path)
        return [_Matrix(tenx.counts, tenx.barcodes, tenx.genes, path.name, tenx.files)]
    table = read_count_table(path)
    # Both orientations are tried, as the file does not state which axis holds the cells.
    return [
        _Matrix(oriented.counts, oriented.rows, _name_genes(oriented.columns), path.name, (path,))
        for oriented in (table, table.transposed())
    ]


def _name_genes(names: NDArray[np.object_]) -> pd.DataFrame:
    texts = pd.Series(names, dtype=object)
    symbols = texts.mask(are_ensembl_ids(texts), "")
    return pd.DataFrame({"id": texts, "symbol": symbols, "feature_type": GENE_EXPRESSION})


def _read_cells(path: Path) -> pd.DataFrame:
    """The table of cells, all fields as text."""
    with reading(path):
        cells = read_table(path, str)
    if not len(cells):
        raise CifmError(f"{path}: a table without cells", "write one row for each cell")
    # The row holds the types of the columns, and would be a cell without a position.
    if len(cells) and cells.iloc[0, 0] == _TYPE_ROW:
        cells = cells.iloc[1:]
    return cells


def _find_centres(cells: pd.DataFrame, config: ReadConfig) -> tuple[str, str, Scale | None]:
    """The columns of the centres, and their scale; None for micrometres."""
    centres = find_centres(cells.columns)
    if centres is None:
        local = next((pair for pair in centre_pairs(cells.columns)), None)
        problem = (
            "no columns of cell centres"
            if local is None
            else f"{local.x} and {local.y} count within each field of view"
        )
        raise CifmError(
            f"{config.cells}: {problem} (it has {', '.join(map(str, cells.columns))})",
            f"name them x_um and y_um; known pairs are {', '.join(f'{pair.x}/{pair.y}' for pair in CENTRES)}",
        )
    x, y = centres.x, centres.y
    # The size of a pixel depends on the instrument, and a wrong one scales every distance.
    if not centres.unit_um and config.microns_per_pixel is None:
        raise CifmError(
            f"{config.cells}: {x} and {y} are pixels",
            "give their size with --microns-per-pixel (CosMx: 0.12028, its first public slides 0.18)",
        )
    return x, y, None if centres.unit_um in {0.0, 1.0} else Scale(centres.unit_um, "millimetres")


def _match(
    matrices: list[_Matrix], cells: pd.DataFrame, candidates: list[str], path: Path
) -> tuple[_Matrix, pd.DataFrame]:
    """Choose the orientation of the matrix and the column of names that match best.

    The column of cell names is recognised by its content, as its title differs between platforms.

    Returns:
        The matrix in the matching orientation, and the rows of the table in the order of its cells; a cell that the
        table does not name has NaN in all columns.
    """
    columns = {name: cells[name] for name in candidates}
    if (pair := view_columns(cells.columns)) is not None:
        fov, cell = (cells[name].astype(str) for name in pair)
        columns[" and ".join(pair)] = pd.Series(cell_names_in_views(fov, cell), index=cells.index)
    # A number can match a column by chance, so the column with most matches is taken and not the first.
    best, matrix, key = 0.0, matrices[0], ""
    for candidate in matrices:
        for name, column in columns.items():
            matched = float(pd.Index(candidate.cells).isin(column).mean()) if len(candidate.cells) else 0.0
            if matched > best:
                best, matrix, key = matched, candidate, name
    if best < _MIN_MATCHED:
        raise CifmError(
            f"{path}: no column holds the names of the cells of the matrix ({matrix.cells[:1].tolist()}, ...): at best "
            f"{best:.0%} of them are found",
            "take the matrix and the table from the same export, and check that a column holds the names of the cells",
        )
    index = pd.Index(columns[key], dtype=object)
    for where, names in ((f"{path}: column {key}", index), (str(matrix.files[0]), pd.Index(matrix.cells))):
        if not names.is_unique:
            repeated = names[names.duplicated()][0]
            raise CifmError(
                f"{where}: {repeated!r} occurs twice", "remove the repeated cells, or prepare each sample alone"
            )
    # Rows that the matrix lacks are dropped here, and counted in a note by the caller.
    obs = cells.set_axis(index).drop(columns=[key] if key in cells.columns else [])
    return matrix, obs.reindex(matrix.cells)


def _as_numbers(column: pd.Series[str]) -> pd.Series[str]:
    """A column of text converted to numbers, if all of its texts are numbers."""
    # All columns were read as text, for the sake of the names of cells.
    numbers = pd.to_numeric(column, errors="coerce")
    return numbers if numbers.notna().sum() == column.notna().sum() else column
