"""SpatialData `.zarr` stores: the table of cells, with coordinates in the table or in the shapes that it annotates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, vstack

from cifm_cli import keys
from cifm_cli.data.readers.anndata import find_gene_columns
from cifm_cli.data.readers.base import Download, ReadConfig, Reader
from cifm_cli.data.readers.cell_flags import read_flags
from cifm_cli.data.readers.centre_columns import Places, read_places
from cifm_cli.data.readers.declared_scale import Libraries, read_libraries, scale_places
from cifm_cli.data.readers.files import reading
from cifm_cli.errors import CifmError
from cifm_cli.system_files import without_system_files

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

_ATTRIBUTES, _REGION, _REGION_KEY, _INSTANCE = "spatialdata_attrs", "region", "region_key", "instance_key"
_TABLE = "table"  # the column of the name of the table, for `--by`
_ELEMENT_FOLDERS = ("tables", "shapes", "points", "images", "labels")
# Of Zarr 3 and Zarr 2, and their consolidated forms.
_METADATA_FILES = ("zarr.json", ".zattrs", "zmetadata", ".zmetadata")


def _recognises(path: Path) -> bool:
    return (
        path.is_dir()
        and any((path / name).is_file() for name in _METADATA_FILES)
        and any((path / name).is_dir() for name in _ELEMENT_FOLDERS)
    )


class _Table(NamedTuple):
    """A table of N cells x F features."""

    counts: csr_matrix  # (N, F) values
    obs: pd.DataFrame  # N rows indexed by barcode
    places: Places  # positions as stored
    genes: pd.DataFrame  # F rows
    libraries: Libraries  # scale factors


def _read(path: Path, config: ReadConfig) -> Download:
    """Read the only table, that of the bins of `config.bin_um`, or all of them with `--by table`; no image is opened."""
    store, layer = _open(path), config.layer
    names = _choose_tables(path, list(store.tables), config)
    with reading(path):
        table = _join({name: _read_table(store, store.tables[name], path, layer) for name in names}, path)
    scaled, flags = scale_places(table.places, table.obs, table.libraries, config, path), read_flags(table.obs)
    return Download(
        platform="spatialdata",
        counts=table.counts,
        obs=table.obs,
        genes=table.genes,
        xy_um=scaled.xy_um,
        units=scaled.units,
        matrix=f"tables/{', tables/'.join(names)}" + (f"/layers/{layer}" if layer else "/X"),
        files=tuple(
            file
            for name in names
            for file in without_system_files(file for file in (path / "tables" / name).rglob("*") if file.is_file())
        ),
        in_tissue=flags.in_tissue,
        notes=(*scaled.notes, *flags.notes),
        z_um=scaled.z_um,
        is_assumed_um=scaled.is_assumed,
    )


SPATIALDATA = Reader("spatialdata", _recognises, _read)


def _open(path: Path) -> Any:  # noqa: ANN401 - a SpatialData, whose package is optional
    try:
        # Imported here, as the package is optional.
        from spatialdata import read_zarr
    except ImportError as error:
        raise CifmError(
            f"{path}: a SpatialData store, and the spatialdata package is missing",
            'install it with `pip install ".[spatialdata]"` in the source folder of cifm, or write its table as .h5ad with '
            "obsm['spatial'] in micrometres",
        ) from error
    with reading(path):
        # Images can be larger than the memory, and are not needed.
        return read_zarr(path, selection=("tables", "shapes"))


def _choose_tables(path: Path, names: list[str], config: ReadConfig) -> list[str]:
    if _TABLE in config.by:
        return names
    bins = [
        name for name in names if name.endswith(f"square_{config.bin_um:03d}um")
    ]  # as spatialdata-io names Visium HD
    if len(names) != 1 and len(bins) != 1:
        raise CifmError(
            f"{path}: {len(names)} tables ({', '.join(names) or 'none'})",
            "--by table makes a slide of each; or write the one that holds cells as .h5ad",
        )
    return names if len(names) == 1 else bins


def _read_table(store: Any, table: AnnData, path: Path, layer: str | None) -> _Table:  # noqa: ANN401 - a SpatialData, whose package is optional
    return _Table(
        csr_matrix(_stored_counts(table, path, layer)),
        table.obs.set_axis(table.obs_names.astype(str)),
        _coordinates(store, table, path),
        find_gene_columns(table.var),
        read_libraries(table.uns.get("spatial")),
    )


def _join(tables: dict[str, _Table], path: Path) -> _Table:
    """The cells of all tables, with the name of the table in a column."""
    first = next(iter(tables.values()))
    if len(tables) == 1:
        return first
    for name, table in tables.items():
        if not table.genes.equals(first.genes):
            raise CifmError(
                f"{path}: tables {next(iter(tables))} and {name} hold different genes", "write each of them as .h5ad"
            )
    parts = list(tables.values())
    obs = pd.concat([table.obs for table in parts])
    obs[_TABLE] = np.repeat(list(tables), [len(table.obs) for table in parts])
    depths = [table.places.z for table in parts if table.places.z is not None]
    return first._replace(
        counts=csr_matrix(vstack([table.counts for table in parts])),
        obs=obs,
        places=first.places._replace(
            xy=np.concatenate([table.places.xy for table in parts]),
            z=np.concatenate(depths) if len(depths) == len(parts) else None,
        ),
        libraries={name: factors for table in parts for name, factors in table.libraries.items()},
    )


def _stored_counts(table: AnnData, path: Path, layer: str | None) -> Any:  # noqa: ANN401 - any kind of matrix
    if layer is not None and layer not in table.layers:
        raise CifmError(f"{path}: no layer {layer!r}", f"the table has {', '.join(table.layers) or 'X alone'}")
    return table.layers[layer] if layer is not None else table.X


def _coordinates(store: Any, table: AnnData, path: Path) -> Places:  # noqa: ANN401 - a SpatialData, whose package is optional
    """Coordinates as stored, NaN for a cell without a shape."""
    if keys.SPATIAL in table.obsm:
        return read_places(table.obsm[keys.SPATIAL], table.n_obs, str(path))
    attributes = table.uns.get(_ATTRIBUTES, {})
    stored = attributes.get(_REGION)
    # The name of a single region may be stored as text, or as a list of one name.
    regions = [str(name) for name in (stored if isinstance(stored, list | np.ndarray) else [stored])]
    missing = [name for name in regions if name not in store.shapes]
    if not regions or missing:
        raise CifmError(
            f"{path}: the table has no obsm['spatial'], and annotates no element of shapes ({', '.join(missing)})",
            "store cell centres there, in micrometres",
        )
    xyz = np.full((table.n_obs, 3), np.nan)
    # A single region need not be named in the rows.
    rows_of = table.obs[attributes[_REGION_KEY]].astype(str) if len(regions) > 1 else pd.Series(regions * table.n_obs)
    for region in regions:
        rows = np.flatnonzero(rows_of == region)
        # Shapes are matched by the key of the instance: their order may differ from that of the table.
        centres = _centres(store.shapes[region].geometry).reindex(table.obs[attributes[_INSTANCE]].iloc[rows])
        xyz[rows] = centres.to_numpy(dtype=np.float64)
    z = xyz[:, 2] if np.isfinite(xyz[:, 2]).any() else None
    return Places(xyz[:, :2], z, f"centroids of shapes/{', shapes/'.join(regions)}", None)


def _centres(shapes: Any) -> pd.DataFrame:  # noqa: ANN401 - a GeoSeries, whose package is optional
    """Centroid of each shape; z of points that have one, else NaN."""
    centroids = shapes.centroid
    # The centroid of a point in three dimensions has two.
    z = shapes.z if shapes.has_z.all() and (shapes.geom_type == "Point").all() else np.nan
    return pd.DataFrame({"x": centroids.x, "y": centroids.y, "z": z})
