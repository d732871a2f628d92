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

from cifm_cli import keys
from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.prepare.pipeline import prepare_download
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
    assert "cifm[spatialdata]" in caught.value.hint


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
