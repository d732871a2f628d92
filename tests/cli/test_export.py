"""`cifm export`: what other programs read, compared with the slide, and slides that cannot be exported."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from builders import forget_checksums

from cifm_cli import keys
from cifm_cli.data.writers.embedded import write_embedded
from cifm_cli.data.writers.spatialdata_store import circle_radius_um


@pytest.fixture
def embedded(workspace: Path, prepared_synthetic: Path) -> Path:
    """The slide of the workspace with an embedding of three features, `embedded/tissue.h5ad`."""
    from builders import EMBEDDING_ORIGIN

    num_cells = ad.read_h5ad(prepared_synthetic, backed="r").n_obs
    values = np.arange(3 * num_cells, dtype=np.float32).reshape(num_cells, 3)
    write_embedded(Path("embedded/tissue.h5ad"), prepared_synthetic, {keys.MICROENVIRONMENT: values}, EMBEDDING_ORIGIN)
    return Path("embedded/tissue.h5ad")


def change(source: Path, **columns: Any) -> Path:
    """A copy of a prepared slide with other columns of obs, `changed.h5ad`."""
    slide = forget_checksums(ad.read_h5ad(source))
    for name, values in columns.items():
        slide.obs[name] = values(slide) if callable(values) else values
    slide.write_h5ad("changed.h5ad")
    return Path("changed.h5ad")


def read_csv(path: str) -> tuple[list[str], dict[str, str]]:
    with Path(path).open(encoding="utf8", newline="") as file:
        header, *rows = csv.reader(file)
    return header, dict(map(tuple, rows))


def in_download_order(slide: ad.AnnData) -> ad.AnnData:
    return slide[np.argsort(slide.obs[keys.DOWNLOAD_ROW])]


def test_cell_groups_for_xenium_explorer(cifm, workspace: Path) -> None:
    code, out, err = cifm("export", "prepared/tissue.h5ad", "--to", "xenium-explorer", "--json")
    assert code == 0, err
    header, groups = read_csv("exported/tissue.xenium_explorer.csv")
    slide = in_download_order(ad.read_h5ad("prepared/tissue.h5ad"))
    assert header == ["cell_id", "group"]
    assert groups == dict(zip(slide.obs_names, slide.obs[keys.CLUSTER].astype(str), strict=True))
    assert list(groups) == slide.obs_names.tolist()
    facts = json.loads(out)
    assert facts["path"] == "exported/tissue.xenium_explorer.csv"
    assert (facts["cells"], facts["groups"]) == (slide.n_obs, slide.obs[keys.CLUSTER].nunique())
    assert ["cifm annotate apply --write-obs prepared/tissue.h5ad" in note for note in facts["notes"]] == [True]
    words = ("prepared/tissue.h5ad", "--to", "xenium-explorer", "--column", keys.CLUSTER, "--force", "--json")
    assert json.loads(cifm("export", *words).out)["notes"] == []


def test_a_hint_names_columns_of_groups_before_counts(cifm, workspace: Path) -> None:
    code, _, err = cifm("export", "prepared/tissue.h5ad", "--to", "xenium-explorer", "--column", "celltype")
    assert code == 1
    assert keys.CLUSTER in err
    assert keys.TOTAL_COUNTS not in err
    assert keys.NUM_GENES not in err


def test_categories_for_loupe_leave_out_cells_without_a_value(cifm, workspace: Path) -> None:
    source = change(
        Path("prepared/tissue.h5ad"),
        niche=lambda slide: pd.Categorical(["a, b", None, 'c "d"'] * 200 + [None] * (slide.n_obs - 600)),
    )
    code, _, err = cifm("export", source, "--to", "loupe", "--column", "niche", "-o", "files")
    assert code == 0, err
    header, groups = read_csv("files/changed.loupe.csv")
    assert header == ["Barcode", "niche"]
    assert sorted(set(groups.values())) == ["a, b", 'c "d"']
    assert len(groups) == 400
    assert "have no value in niche" in err
    assert "a slide of the platform xenium: Loupe Browser" in err


def test_types_come_before_clusters(cifm, workspace: Path) -> None:
    source = change(Path("prepared/tissue.h5ad"), **{keys.CELL_TYPE: "T cell"})
    _, out, _ = cifm("export", source, "--to", "xenium-explorer", "--json")
    assert json.loads(out)["column"] == keys.CELL_TYPE


def test_a_table_has_annotation_and_embeddings(cifm, embedded: Path) -> None:
    assert cifm("export", embedded, "--to", "parquet").code == 0
    table, slide = pq.read_table("exported/tissue.parquet").to_pandas(), ad.read_h5ad(embedded)
    assert table["cell"].tolist() == slide.obs_names.tolist()
    assert table["slide"].unique().tolist() == ["tissue"]
    assert np.array_equal(table[["x_um", "y_um"]], slide.obsm[keys.SPATIAL])
    assert np.array_equal(table[[f"X_cifm_{column}" for column in range(3)]], slide.obsm[keys.MICROENVIRONMENT])
    for name in (keys.CLUSTER, keys.SPLIT, keys.TOTAL_COUNTS):
        assert table[name].tolist() == slide.obs[name].tolist()
    assert keys.CHECKSUM not in table


def test_a_column_with_the_name_of_another_is_renamed(cifm, workspace: Path) -> None:
    source = change(Path("prepared/tissue.h5ad"), x_um=1.5)
    assert cifm("export", source, "--to", "parquet").code == 0
    table = pq.read_table("exported/changed.parquet").to_pandas()
    assert table["obs_x_um"].eq(1.5).all()
    assert not table["x_um"].eq(1.5).any()


@pytest.mark.spatialdata
@pytest.mark.filterwarnings("ignore")
def test_a_spatialdata_store_holds_the_slide_in_micrometres(cifm, embedded: Path) -> None:
    spatialdata = pytest.importorskip("spatialdata", reason="needs the spatialdata extra", exc_type=ImportError)
    code, _, err = cifm("export", embedded, "--to", "spatialdata")
    assert code == 0, err
    store, slide = spatialdata.read_zarr("exported/tissue.zarr"), ad.read_h5ad(embedded)
    table, circles = store.tables["table"], store.shapes["cells"]
    assert store.coordinate_systems == ["global"]
    assert (table.X != slide.X).nnz == 0
    assert table.obs_names.tolist() == slide.obs_names.tolist()
    assert np.array_equal(table.obsm[keys.MICROENVIRONMENT], slide.obsm[keys.MICROENVIRONMENT])
    centres = spatialdata.get_centroids(circles).compute()[["x", "y"]]
    assert np.allclose(centres, slide.obsm[keys.SPATIAL], rtol=0, atol=1e-9)
    # The table annotates the circles: the circle of a row is found by its instance.
    _, matched = spatialdata.join_spatialelement_table(sdata=store, spatial_element_names="cells", table_name="table")
    assert matched.obs_names.tolist() == slide.obs_names.tolist()


@pytest.mark.spatialdata
@pytest.mark.filterwarnings("ignore")
def test_a_store_can_be_prepared_again(cifm, workspace: Path) -> None:
    pytest.importorskip("spatialdata", reason="needs the spatialdata extra", exc_type=ImportError)
    assert cifm("export", "prepared/tissue.h5ad", "--to", "spatialdata").code == 0
    code, _, err = cifm("prepare", "exported/tissue.zarr", "--out", "again")
    assert code == 0, err
    before, after = (in_download_order(ad.read_h5ad(Path(name, "tissue.h5ad"))) for name in ("prepared", "again"))
    assert before.obs_names.tolist() == after.obs_names.tolist()
    assert before.var_names.tolist() == after.var_names.tolist()
    assert (before.X != after.X).nnz == 0
    assert np.array_equal(before.obsm[keys.SPATIAL], after.obsm[keys.SPATIAL])


def test_circles_of_neighbours_touch() -> None:
    # o--o    o   the nearest neighbours are 4, 4 and 8 micrometres away
    assert circle_radius_um(np.array([[0.0, 0.0], [4.0, 0.0], [12.0, 0.0]])) == 2.0
    assert circle_radius_um(np.zeros((1, 2))) == circle_radius_um(np.zeros((5, 2))) == 1.0


def test_without_the_package_the_extra_is_named(
    fail: Callable[..., str], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "spatialdata", None)
    assert ".[spatialdata]" in fail("export", "prepared/tissue.h5ad", "--to", "spatialdata")
    assert not Path("exported").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere.h5ad", "--to", "parquet"), "nowhere.h5ad: no such file"),
        (("prepared/tissue.h5ad", "--to", "loupe", "--column", "niche"), "obs has no column niche"),
        (("prepared/tissue.h5ad", "--to", "loupe", "--column", "total_counts"), "which are no groups"),
        (("prepared/tissue.h5ad", "--to", "parquet", "--column", "cluster"), "--column cluster"),
        (("prepared", "--to", "parquet"), "prepared: not a Zarr store"),
    ],
)
def test_what_cannot_be_exported(
    fail: Callable[..., str], workspace: Path, words: tuple[str, ...], message: str
) -> None:
    assert message in fail("export", *words)
    assert not Path("exported").exists()


def test_columns_without_groups_and_names_that_occur_twice(fail: Callable[..., str], workspace: Path) -> None:
    source = change(Path("prepared/tissue.h5ad"), nothing="")
    assert "no cell has a value" in fail("export", source, "--to", "loupe", "--column", "nothing")
    slide = forget_checksums(ad.read_h5ad("prepared/tissue.h5ad"))
    slide.obs_names = ["a"] * slide.n_obs
    slide.write_h5ad("changed.h5ad")
    assert "two cells are called a" in fail("export", source, "--to", "loupe")


def test_an_existing_file_is_replaced_only_with_force(cifm, fail: Callable[..., str], workspace: Path) -> None:
    Path("exported").mkdir()
    Path("exported/tissue.parquet").write_text("mine")
    words = ("export", "prepared/tissue.h5ad", "--to", "parquet")
    assert "--force" in fail(*words)
    assert Path("exported/tissue.parquet").read_text() == "mine"
    assert cifm(*words, "--force").code == 0
    assert pq.read_table("exported/tissue.parquet").num_rows
    assert [path.name for path in Path("exported").iterdir()] == ["tissue.parquet"]


def test_a_folder_that_is_no_store_is_never_replaced(fail: Callable[..., str], workspace: Path) -> None:
    pytest.importorskip("spatialdata", reason="needs the spatialdata extra", exc_type=ImportError)
    Path("exported/tissue.zarr").mkdir(parents=True)
    assert "not a Zarr store" in fail("export", "prepared/tissue.h5ad", "--to", "spatialdata", "--force")
