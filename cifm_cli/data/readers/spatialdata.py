"""SpatialData `.zarr` stores: the table of cells, with coordinates in the table or in the shapes that it annotates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from cifm_cli import keys
from cifm_cli.data.readers.anndata import find_gene_columns
from cifm_cli.data.readers.base import Download, ReadConfig, Reader
from cifm_cli.data.readers.files import reading
from cifm_cli.data.units import to_micrometres
from cifm_cli.errors import CifmError
from cifm_cli.system_files import without_system_files

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

_ATTRIBUTES, _REGION, _INSTANCE = "spatialdata_attrs", "region", "instance_key"
_ELEMENT_FOLDERS = ("tables", "shapes", "points", "images", "labels")
# Of Zarr 3 and Zarr 2, and their consolidated forms.
_METADATA_FILES = ("zarr.json", ".zattrs", "zmetadata", ".zmetadata")


def _recognises(path: Path) -> bool:
    return (
        path.is_dir()
        and any((path / name).is_file() for name in _METADATA_FILES)
        and any((path / name).is_dir() for name in _ELEMENT_FOLDERS)
    )


def _read(path: Path, config: ReadConfig) -> Download:
    """Read the only table, or the table of the bins of `config.bin_um`; images are not opened."""
    store, layer = _open(path), config.layer
    table_name = _choose_table(path, list(store.tables), config.bin_um)
    table: AnnData = store.tables[table_name]
    with reading(path):
        counts = csr_matrix(_stored_counts(table, path, layer))
        xy, xy_slot = _coordinates(store, table, path)
        obs = table.obs.set_axis(table.obs_names.astype(str))
        genes = find_gene_columns(table.var)
    xy_um, units = to_micrometres(xy, config.microns_per_pixel, xy_slot)
    return Download(
        platform="spatialdata",
        counts=counts,
        obs=obs,
        genes=genes,
        xy_um=xy_um,
        units=units,
        matrix=f"tables/{table_name}" + (f"/layers/{layer}" if layer else "/X"),
        files=tuple(without_system_files(file for file in (path / "tables" / table_name).rglob("*") if file.is_file())),
    )


SPATIALDATA = Reader("spatialdata", _recognises, _read)


def _open(path: Path) -> Any:  # noqa: ANN401 - a SpatialData, whose package is optional
    try:
        # Imported here, as the package is optional.
        from spatialdata import read_zarr
    except ImportError as error:
        raise CifmError(
            f"{path}: a SpatialData store, and the spatialdata package is missing",
            "pip install 'cifm[spatialdata]', or write its table as .h5ad with obsm['spatial'] in micrometres",
        ) from error
    with reading(path):
        # Images can be larger than the memory, and are not needed.
        return read_zarr(path, selection=("tables", "shapes"))


def _choose_table(path: Path, names: list[str], bin_um: int) -> str:
    bins = [name for name in names if name.endswith(f"square_{bin_um:03d}um")]  # as spatialdata-io names Visium HD
    if len(names) != 1 and len(bins) != 1:
        raise CifmError(
            f"{path}: {len(names)} tables ({', '.join(names) or 'none'})",
            "write the one that holds cells as .h5ad, with obsm['spatial'] in micrometres",
        )
    return names[0] if len(names) == 1 else bins[0]


def _stored_counts(table: AnnData, path: Path, layer: str | None) -> Any:  # noqa: ANN401 - any kind of matrix
    if layer is not None and layer not in table.layers:
        raise CifmError(f"{path}: no layer {layer!r}", f"the table has {', '.join(table.layers) or 'X alone'}")
    return table.layers[layer] if layer is not None else table.X


def _coordinates(store: Any, table: AnnData, path: Path) -> tuple[NDArray[np.float64], str]:  # noqa: ANN401 - a SpatialData, whose package is optional
    """(N, 2) coordinates as stored, and the slot that they come from; NaN for a cell without a shape."""
    if keys.SPATIAL in table.obsm:
        return np.asarray(table.obsm[keys.SPATIAL], dtype=np.float64)[:, :2], "obsm['spatial']"
    attributes = table.uns.get(_ATTRIBUTES, {})
    region = attributes.get(_REGION)
    # The name of a single region may be stored as text, or as a list of one name.
    if isinstance(region, list | np.ndarray) and len(region) == 1:
        region = region[0]
    if not isinstance(region, str) or region not in store.shapes:
        raise CifmError(
            f"{path}: the table has no obsm['spatial'], and does not annotate a single element of shapes ({region!r})",
            "store cell centres there, in micrometres",
        )
    centres = store.shapes[region].geometry.centroid
    # Shapes are matched by the key of the instance: their order may differ from that of the table.
    xy = pd.DataFrame({"x": centres.x, "y": centres.y}).reindex(table.obs[attributes[_INSTANCE]])
    return xy.to_numpy(dtype=np.float64), f"centroids of shapes/{region}"
