"""SpatialData stores, and the error if the package is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from builders import jittered_tissue

from cifm_cli import keys
from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.prepare.pipeline import prepare_download, prepare_sections_to_anndata
from cifm_cli.data.prepare.slide_names import slide_name
from cifm_cli.data.readers.registry import find_reader
from cifm_cli.data.readers.spatialdata import SPATIALDATA
from cifm_cli.errors import CifmError

COUNTS = np.array([[1, 0], [0, 2], [3, 4]])
XY_UM = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The files and folders by which a store is recognised."""
    folder = tmp_path / "tissue.zarr"
    (folder / "tables").mkdir(parents=True)
    (folder / "zarr.json").write_text("{}")
    return folder


def test_error_without_the_package_names_what_to_install(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spatialdata", None)
    assert find_reader(store)[1] is SPATIALDATA
    assert slide_name(store, PrepareConfig()) == "tissue"
    with pytest.raises(CifmError, match="the spatialdata package is missing") as caught:
        SPATIALDATA.read(store, PrepareConfig())
    assert ".[spatialdata]" in caught.value.hint


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a small store of three cells with the real package."""
    spatialdata = pytest.importorskip("spatialdata", reason="needs the spatialdata extra", exc_type=ImportError)
    from spatialdata.models import ShapesModel, TableModel

    def run(**changes: Any) -> Path:
        obs = pd.DataFrame({"region": "cells", "instance": [7, 8, 9]}, index=["a", "b", "c"])
        table = ad.AnnData(X=np.log1p(COUNTS), obs=obs, var=pd.DataFrame(index=["CD4", "CD8A"]))
        table.layers["counts"] = COUNTS
        table.obs["region"] = table.obs["region"].astype("category")
        if changes.get("positions", True):
            table.obsm["spatial"] = XY_UM
        circles = ShapesModel.parse(XY_UM[::-1] + 100.0, geometry=0, radius=4.0, index=[9, 8, 7])
        annotated = TableModel.parse(table, region="cells", region_key="region", instance_key="instance")
        tables = dict.fromkeys(changes.get("tables", ["table"]), annotated)
        path = tmp_path / "tissue.zarr"
        spatialdata.SpatialData(shapes={"cells": circles}, tables=tables).write(path)
        return path

    return run


@pytest.mark.spatialdata
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("positions", "shift"), [(True, 0.0), (False, 100.0)])
def test_counts_and_coordinates_of_a_store(
    write: Callable[..., Path], tmp_path: Path, positions: bool, shift: float
) -> None:
    config = PrepareConfig(out=tmp_path / "prepared", layer="counts")
    slide = ad.read_h5ad(prepare_download(write(positions=positions), config).path)
    order = np.argsort(slide.obs[keys.DOWNLOAD_ROW])
    assert slide.X.toarray()[order].astype(int).tolist() == COUNTS.tolist()
    assert np.allclose(slide.obsm[keys.SPATIAL][order], XY_UM + shift)
    assert slide.obs_names[order].tolist() == ["a", "b", "c"]


@pytest.mark.spatialdata
@pytest.mark.filterwarnings("ignore")
def test_bins_choose_among_tables(write: Callable[..., Path]) -> None:
    path = write(tables=["square_008um", "square_016um"])
    assert (
        SPATIALDATA.read(path, PrepareConfig(layer="counts", bin_um=16)).matrix == "tables/square_016um/layers/counts"
    )
    with pytest.raises(CifmError, match=r"2 tables \(square_008um, square_016um\)"):
        SPATIALDATA.read(path, PrepareConfig(bin_um=4))
    with pytest.raises(CifmError, match="no layer 'raw'"):
        SPATIALDATA.read(path, PrepareConfig(layer="raw"))


@pytest.mark.spatialdata
@pytest.mark.filterwarnings("ignore")
def test_sections_in_regions_and_tables(tmp_path: Path) -> None:
    """Two sections that lie on each other: as two regions of one table, and as two tables."""
    spatialdata = pytest.importorskip("spatialdata", reason="needs the spatialdata extra", exc_type=ImportError)
    from spatialdata.models import ShapesModel, TableModel

    xy = {name: jittered_tissue(15, 15, seed) for seed, name in enumerate(("left", "right"))}
    shapes = {name: ShapesModel.parse(places, geometry=0, radius=4.0) for name, places in xy.items()}

    def table(*regions: str) -> ad.AnnData:
        obs = pd.DataFrame({"region": np.repeat(regions, 225), "instance": np.tile(np.arange(225), len(regions))})
        obs["region"] = obs["region"].astype("category")
        cells = ad.AnnData(np.full((len(obs), 2), 3), obs=obs.set_axis([f"c{n}" for n in range(len(obs))]))
        cells.var_names = ["CD4", "CD8A"]
        return TableModel.parse(cells, region=list(regions), region_key="region", instance_key="instance")

    spatialdata.SpatialData(shapes=shapes, tables={"cells": table("left", "right")}).write(tmp_path / "regions.zarr")
    tables = {f"{name}_cells": table(name) for name in xy}
    spatialdata.SpatialData(shapes=shapes, tables=tables).write(tmp_path / "tables.zarr")
    with pytest.raises(CifmError, match=r"2 sections lie on each other \(obs\['region'\]\)"):
        prepare_sections_to_anndata(tmp_path / "regions.zarr", PrepareConfig())
    with pytest.raises(CifmError, match="2 tables") as caught:
        prepare_sections_to_anndata(tmp_path / "tables.zarr", PrepareConfig())
    assert caught.value.hint.startswith("--by table")
    for store, by, names in (("regions", "region", list(xy)), ("tables", "table", list(tables))):
        slides = prepare_sections_to_anndata(tmp_path / f"{store}.zarr", PrepareConfig(by=(by,)))
        assert list(slides) == [f"{store}-{name}" for name in names]
        for slide, places in zip(slides.values(), xy.values(), strict=True):
            order = np.argsort(slide.obs[keys.DOWNLOAD_ROW])
            assert np.allclose(slide.obsm[keys.SPATIAL][order], places)
