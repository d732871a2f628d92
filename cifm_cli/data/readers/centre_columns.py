"""Columns of cell centres in tables, found by their names, and the unit that a name implies."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray


class CentreColumns(NamedTuple):
    """Names of the two columns of cell centres, and their unit in micrometres; 0 for pixels."""

    x: str
    y: str
    unit_um: float


# In order of preference; compared in lower case.
CENTRES = (
    CentreColumns("x_um", "y_um", 1.0),
    CentreColumns("x_centroid", "y_centroid", 1.0),
    CentreColumns("center_x", "center_y", 1.0),  # MERSCOPE
    CentreColumns("x_slide_mm", "y_slide_mm", 1000.0),  # CosMx
    CentreColumns("x_mm", "y_mm", 1000.0),
    CentreColumns("centerx_global_mm", "centery_global_mm", 1000.0),
    CentreColumns("centerx_global_px", "centery_global_px", 0.0),
    CentreColumns("x_global_px", "y_global_px", 0.0),
    CentreColumns("x_fov_px", "y_fov_px", 0.0),
    CentreColumns("pxl_col_in_fullres", "pxl_row_in_fullres", 0.0),
    CentreColumns("imagecol", "imagerow", 0.0),  # Seurat
    CentreColumns("x_px", "y_px", 0.0),
    CentreColumns("pixel_x", "pixel_y", 0.0),
    CentreColumns("centroid_x", "centroid_y", 1.0),
    CentreColumns("x_location", "y_location", 1.0),
    CentreColumns("x_coord", "y_coord", 1.0),
    CentreColumns("x", "y", 1.0),
)
# Fields of view in local coordinates lie on each other.
LOCAL = (CentreColumns("centerx_local_px", "centery_local_px", 0.0), CentreColumns("x_local_px", "y_local_px", 0.0))
_DEPTHS = ("z_um", "z_centroid", "center_z", "centroid_z", "z_location", "z_coord", "z")
_POSITION = re.compile(r"(?:.*?[^0-9])?([0-9]+)")  # spatial_1, dim0, 1


def find_centres(names: Iterable[object]) -> CentreColumns | None:
    """The first known pair among the names of columns, as they are spelt there; None if there is none."""
    lower = {str(name).lower(): str(name) for name in names}
    pair = next((pair for pair in CENTRES if pair.x in lower and pair.y in lower), None)
    return None if pair is None else CentreColumns(lower[pair.x], lower[pair.y], pair.unit_um)


def find_depth(names: Iterable[object]) -> str | None:
    """The column of the third coordinate; None if there is none."""
    lower = {str(name).lower(): str(name) for name in names}
    return next((lower[name] for name in _DEPTHS if name in lower), None)


def missing_centres_hint(names: Iterable[object]) -> str:
    """What to do about an AnnData without `obsm["spatial"]`, given the names of the columns of its obs."""
    pair = find_centres(names)
    if pair is None:
        return "store cell centres there, in micrometres: adata.obsm['spatial'] = an array of cells x 2"
    unit = {0.0: " and give --microns-per-pixel", 1.0: " if these are micrometres"}.get(pair.unit_um, " in micrometres")
    scale = "" if pair.unit_um in (0.0, 1.0) else f" * {pair.unit_um:g}"
    return f"adata.obsm['spatial'] = adata.obs[['{pair.x}', '{pair.y}']].to_numpy(){scale},{unit}"


class Places(NamedTuple):
    """Positions of N cells as they are stored."""

    xy: NDArray[np.float64]  # (N, 2), in any unit
    z: NDArray[np.float64] | None  # (N,) third coordinate in the same unit; None if there is none
    slot: str  # name of the slot or of the columns
    unit_um: (
        float | None
    )  # unit that the names of the columns imply, micrometres; 0 for pixels, None if they imply none


def read_places(stored: object, num_cells: int, where: str) -> Places:
    """Take coordinates from an array by position, and from a table by the names of its columns.

    Args:
        stored: The value of `obsm["spatial"]`.
        num_cells: N.
        where: The input, for messages.

    Returns:
        The places; NaN for a cell that has none.

    Raises:
        CifmError: The value has another shape, or its columns do not tell which are x and y.
    """
    if isinstance(stored, pd.DataFrame):
        return _from_table(stored, num_cells, where)
    values = np.asarray(stored)
    if values.ndim != 2 or len(values) != num_cells:
        raise CifmError(
            f"{where}: obs {num_cells} and obsm['spatial'] {values.shape} do not fit",
            "write the file again with anndata",
        )
    if values.shape[1] not in (2, 3):
        raise CifmError(
            f"{where}: obsm['spatial'] has {values.shape[1]} columns",
            "store x and y there in micrometres, and z in a third column if there is one",
        )
    numbers = _as_numbers(values, where)
    return Places(numbers[:, :2], numbers[:, 2] if values.shape[1] == 3 else None, "obsm['spatial']", None)


def _from_table(table: pd.DataFrame, num_cells: int, where: str) -> Places:
    names = [str(name) for name in table.columns]
    if len(table) != num_cells:
        raise CifmError(
            f"{where}: obs {num_cells} and obsm['spatial'] {table.shape} do not fit",
            "write the file again with anndata",
        )
    pair = find_centres(names) or _by_number(names)
    if pair is None:
        raise CifmError(
            f"{where}: obsm['spatial'] has columns {', '.join(names)}, and two of them must be x and y",
            "name them x_um and y_um",
        )
    repeated = [name for name in pair[:2] if names.count(name) > 1]
    if repeated:
        raise CifmError(
            f"{where}: obsm['spatial'] has several columns {repeated[0]}", "keep one column x_um and one y_um"
        )
    depth = find_depth(name for name in names if name not in pair[:2])
    columns = [table.iloc[:, names.index(name)] for name in (*pair[:2], *([depth] if depth else []))]
    numbers = np.column_stack([_as_numbers(column.to_numpy(dtype=object), where) for column in columns])
    # A plain x, y says nothing about the unit, and other sources do.
    unit = None if pair.unit_um == 1.0 else pair.unit_um
    slot = f"{pair.x}, {pair.y} of obsm['spatial']"
    return Places(numbers[:, :2], numbers[:, 2] if depth else None, slot, unit)


def _by_number(names: list[str]) -> CentreColumns | None:
    """Columns that are only numbered, such as spatial_1 and spatial_2."""
    numbers = [match.group(1) if (match := _POSITION.fullmatch(name)) else None for name in names]
    if numbers in (["0", "1"], ["1", "2"]):
        return CentreColumns(names[0], names[1], 1.0)
    return None


def _as_numbers(values: NDArray[np.generic], where: str) -> NDArray[np.float64]:
    if values.dtype.kind in "iuf":
        return values.astype(np.float64)
    try:
        # Missing values of nullable columns become NaN.
        return np.where(pd.isna(values), np.nan, values).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise CifmError(
            f"{where}: obsm['spatial'] holds a value that is not a number ({error})", "store cell centres there"
        ) from error


def centre_pairs(names: Iterable[object]) -> Iterator[CentreColumns]:
    """All known pairs among the names of columns, those in local coordinates too, as they are spelt there."""
    lower = {str(name).lower(): str(name) for name in names}
    for pair in (*CENTRES, *LOCAL):
        if pair.x in lower and pair.y in lower:
            yield CentreColumns(lower[pair.x], lower[pair.y], pair.unit_um)
