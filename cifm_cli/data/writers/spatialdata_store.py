"""A slide as a SpatialData store: a table of cells that annotates a circle for each cell, in micrometres.

The elements follow the models of the spatialdata package (https://spatialdata.scverse.org): `table` holds counts, obs, var, obsm
and uns of the slide, and `cells` a circle for each row. The coordinate system is `global`, and one unit of it is a micrometre.

Letters: N cells.
"""

from __future__ import annotations

import importlib.util
import warnings
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from cifm_cli import keys
from cifm_cli.data.slide import open_slide
from cifm_cli.data.slide_file import reading_slot
from cifm_cli.data.writers.embedded_store import as_h5ad
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from cifm_cli.data.writers.export_cells import ExportCells

SHAPES: Final = "cells"  # name of the circles
TABLE: Final = "table"
COORDINATE_SYSTEM: Final = "global"
# Names that no column of a download has: an obs column `region` may be one of anatomy.
_REGION, _INSTANCE = "spatialdata_region", "spatialdata_instance"
_SAMPLE: Final = 20_000  # cells from which the size of the circles is computed


def require_spatialdata() -> None:
    """Check that the spatialdata package is installed.

    Raises:
        CifmError: It is not.
    """
    if importlib.util.find_spec("spatialdata") is None:
        raise CifmError(
            "--to spatialdata needs spatialdata, which is not installed",
            'install it with `pip install ".[spatialdata]"` in the source folder of cifm',
        )


def circle_radius_um(xy_um: NDArray[np.float64]) -> float:
    """Half the median distance from a cell to the nearest other one, so that circles of neighbours touch.

    Args:
        xy_um: (N, 2) micrometres.

    Returns:
        The radius in micrometres; 1 for a single cell, or where most cells lie on others.
    """
    if len(xy_um) < 2:
        return 1.0
    step = max(1, len(xy_um) // _SAMPLE)
    distances, _ = cKDTree(xy_um).query(xy_um[::step], k=2)
    return float(np.median(distances[:, 1])) / 2 or 1.0


def write_spatialdata(target: Path, cells: ExportCells) -> None:
    """Write a slide as a SpatialData store. The slide is read into memory.

    Args:
        target: A folder that does not exist.
        cells: The cells of the slide, from whose file the counts are read.

    Raises:
        CifmError: The slide is damaged, or was changed since it was written.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the packages about each other
        from spatialdata import SpatialData
        from spatialdata.models import ShapesModel, TableModel
        from spatialdata.transformations import Identity

        table = _read_table(cells)
        table.obs[_REGION] = pd.Categorical([SHAPES] * table.n_obs)
        table.obs[_INSTANCE] = np.arange(table.n_obs)
        circles = ShapesModel.parse(
            cells.xy_um,
            geometry=0,  # circles
            radius=circle_radius_um(cells.xy_um),
            index=np.arange(table.n_obs),
            transformations={COORDINATE_SYSTEM: Identity()},
        )
        annotated = TableModel.parse(table, region=SHAPES, region_key=_REGION, instance_key=_INSTANCE)
        SpatialData(shapes={SHAPES: circles}, tables={TABLE: annotated}).write(target)


def _read_table(cells: ExportCells) -> Any:  # noqa: ANN401 - an AnnData
    """The AnnData of a slide, cells in the order of the download."""
    import anndata as ad

    with as_h5ad(cells.path) as path:
        slide = open_slide(path, hold=False)
        slide.counts(slide.region(keys.ALL))  # compared with their checksums
        with reading_slot(path):
            table = ad.read_h5ad(path)
    order = np.argsort(table.obs[keys.DOWNLOAD_ROW].to_numpy(), kind="stable")
    table = table[order].copy()
    table.obs = cells.obs.copy()
    return table
