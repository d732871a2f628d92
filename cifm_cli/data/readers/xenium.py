"""Xenium output bundles. The matrix, the cells, the graph clusters and `experiment.xenium` are read, no other file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cifm_cli import keys
from cifm_cli.data.readers.base import Download, ReadConfig, Reader
from cifm_cli.data.readers.files import LATIN_1, first_existing, open_maybe_gzip, read_parquet, reading
from cifm_cli.data.readers.tenx import find_matrix, read_matrix
from cifm_cli.data.readers.text_tables import read_table, to_numbers
from cifm_cli.data.readers.xenium_zarr import read_zarr_matrix
from cifm_cli.data.units import to_micrometres
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

RADIUS_UM = 20.0  # paper, B.1
_MATRIX = "cell_feature_matrix"
_ZARR = f"{_MATRIX}.zarr.zip"
# In order of preference: Parquet keeps the types of the columns, which the tables in CSV lose.
_CELLS = ("cells.parquet", "cells.csv.gz", "cells.csv")
_EXPERIMENT = "experiment.xenium"
_MAX_TISSUE = 100  # characters
_CLUSTERS = "analysis/clustering/gene_expression_graphclust/clusters.csv"
# The two tables of a bundle may be rounded differently; larger differences between them are damage.
_ROUNDING_UM = 0.01
_X, _Y, _ID = "x_centroid", "y_centroid", "cell_id"


def _recognises(path: Path) -> bool:
    return path.is_dir() and ((path / _EXPERIMENT).exists() or _find_matrix(path) is not None)


def _find_matrix(folder: Path) -> Path | None:
    return find_matrix(folder, _MATRIX) or first_existing(folder, (_ZARR,))


def _read(folder: Path, config: ReadConfig) -> Download:
    """Read a bundle; cells are matched to barcodes by id."""
    matrix_path, cells_path = _find_matrix(folder), first_existing(folder, _CELLS)
    if matrix_path is None or cells_path is None:
        missing = f"{_MATRIX}.h5 (or the folder {_MATRIX}, or {_ZARR})" if matrix_path is None else " or ".join(_CELLS)
        raise CifmError(
            f"{folder}: a Xenium bundle without {missing}", "copy the missing file from the original download"
        )
    matrix = read_zarr_matrix(matrix_path) if matrix_path.name == _ZARR else read_matrix(matrix_path)
    cells = _read_cells(cells_path)
    # By id and not by position: software that filters a bundle may rewrite only one of the two files.
    obs = _match(cells, matrix.barcodes, cells_path)
    files, notes, tissue = [*matrix.files, cells_path], [], ""
    warnings = _compare_cell_tables(cells, cells_path)
    if len(cells) > len(obs):
        notes.append(f"{len(cells) - len(obs):,} cells of {cells_path.name} are not in the matrix and were left out")
    if (folder / _CLUSTERS).is_file():
        files.append(folder / _CLUSTERS)
        obs[keys.CLUSTER] = _read_clusters(folder / _CLUSTERS).reindex(obs.index)
    if (folder / _EXPERIMENT).is_file():
        files.append(folder / _EXPERIMENT)
        experiment = _read_experiment(folder / _EXPERIMENT)
        notes += _experiment_notes(experiment, len(obs))
        tissue = _panel_tissue(experiment)
    xy_um, units = to_micrometres(obs[[_X, _Y]].to_numpy(dtype=np.float64), config.microns_per_pixel, f"{_X}, {_Y}")
    return Download(
        platform="xenium",
        counts=matrix.counts,
        obs=obs.drop(columns=[_X, _Y]),
        genes=matrix.genes,
        xy_um=xy_um,
        units=units,
        matrix=matrix_path.name,
        files=tuple(files),
        radius_um=RADIUS_UM,
        notes=tuple(notes),
        warnings=warnings,
        tissue=tissue,
    )


XENIUM = Reader("xenium", _recognises, _read)


def _read_cells(path: Path, only: list[str] | None = None) -> pd.DataFrame:
    """Read the table of cells, or only some of its columns, indexed by cell id."""
    with reading(path):
        # As text: a numeric id would lose leading zeros, and would not equal the barcode of the matrix.
        is_parquet = path.suffix == ".parquet"
        cells = read_parquet(path, _ID) if is_parquet else read_table(path, {_ID: str}, only)
    if not len(cells):
        raise CifmError(f"{path}: a table without cells", "copy it from the original download")
    missing = [name for name in (_ID, _X, _Y) if name not in cells.columns]
    if missing:
        raise CifmError(
            f"{path}: no column {', '.join(missing)} (it has {', '.join(map(str, cells.columns))})",
            "take cells.parquet or cells.csv.gz as the instrument wrote it",
        )
    # A table that was saved by a spreadsheet may have decimal commas.
    cells[[_X, _Y]] = to_numbers(cells, [_X, _Y], path)
    cells.index = pd.Index([_id_text(value) for value in cells[_ID]], dtype=object)
    if not cells.index.is_unique:
        repeated = cells.index[cells.index.duplicated()][0]
        raise CifmError(
            f"{path}: cell {repeated!r} has two rows", "remove the repeated rows, one cell has one position"
        )
    unnamed = [name for name in cells.columns if str(name).startswith("Unnamed:")]  # row numbers that R wrote
    return cells.drop(columns=[_ID, *unnamed])


def _compare_cell_tables(cells: pd.DataFrame, path: Path) -> tuple[str, ...]:
    """Compare the coordinates of the cells in `cells.parquet` with those in `cells.csv.gz`, if the bundle has both.

    Parquet as most software writes it has no checksums, but a compressed CSV has one, so damage shows as a difference.
    Returns warnings.
    """
    other_path = first_existing(path.parent, _CELLS[1:2])
    if other_path in (None, path):
        return ()
    try:
        other = _read_cells(other_path, [_ID, _X, _Y]).reindex(cells.index)
    # The second table only serves as a check. If it cannot be read, the first one is still valid.
    except CifmError as error:
        return (f"{error.message}: {path.name} was not compared with it",)
    difference_um = (cells[[_X, _Y]].astype(np.float64) - other).abs().max(axis=1)
    differing = cells.index[(difference_um > _ROUNDING_UM).to_numpy()]
    if not len(differing):
        return ()
    first = differing[0]
    message = (
        f"{path.name} and {other_path.name} give different coordinates for {len(differing):,} of {len(cells):,} cells, "
        f"such as {first!r}: "
        f"{cells.loc[first, _X]:.10g}, {cells.loc[first, _Y]:.10g} and {other.loc[first, _X]:.10g}, {other.loc[first, _Y]:.10g}"
    )
    if 2 * len(differing) > len(cells):
        return (message,)  # not damage: one of the tables was written with other coordinates
    raise CifmError(f"{path.parent}: {message}", f"copy {path.name} again, or remove the file that is wrong")


def _id_text(value: object) -> str:
    # Parquet files that other software wrote hold ids as bytes, or numeric ids as floats.
    if isinstance(value, bytes):
        return value.decode("utf8", LATIN_1)
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _match(cells: pd.DataFrame, barcodes: NDArray[np.object_], path: Path) -> pd.DataFrame:
    """Rows of `cells` in the order of the matrix."""
    num_matched = int(pd.Index(barcodes).isin(cells.index).sum())
    if num_matched < len(barcodes):
        raise CifmError(
            f"{path}: only {num_matched:,} of the {len(barcodes):,} barcodes of the matrix are among its {len(cells):,} cells "
            f"(matrix {barcodes[0]!r}, ..., cells {', '.join(map(repr, cells.index[:1]))}, ...)",
            "take the matrix and the cells from the same download",
        )
    return cells.loc[pd.Index(barcodes)].copy()


def _read_clusters(path: Path) -> pd.Series[Any]:
    with reading(path):
        clusters = read_table(path, str).drop_duplicates("Barcode").set_index("Barcode")["Cluster"]
    names = clusters.dropna().unique()
    # Numeric names in numeric order: 2 before 10.
    ordered = sorted(names, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))
    return clusters.astype(pd.CategoricalDtype(ordered))


def _read_experiment(path: Path) -> dict[str, object]:
    with reading(path), open_maybe_gzip(path) as handle:
        content = json.load(handle)
    return content if isinstance(content, dict) else {}


def _panel_tissue(experiment: dict[str, object]) -> str:
    """The tissue that the panel was designed for, such as `Breast`; empty if there is none."""
    tissue = experiment.get("panel_tissue_type")
    return tissue.strip() if isinstance(tissue, str) and tissue.isprintable() and len(tissue) <= _MAX_TISSUE else ""


def _experiment_notes(experiment: dict[str, object], num_cells: int) -> list[str]:
    """A note if the description of the run declares another number of cells than the matrix has."""
    # A note and not an error: a bundle that was filtered may keep its original description.
    declared = experiment.get("num_cells")
    if isinstance(declared, int) and declared != num_cells:
        return [f"{_EXPERIMENT} declares {declared:,} cells, the matrix has {num_cells:,}"]
    return []
