"""`cifm embed --umap --clusters --neighbors` and `--format`: slots of scanpy, the page, other formats, errors."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from builders import save_random_run

from cifm_cli import keys
from cifm_cli.data.slide import open_slide
from cifm_cli.data.writers.embedded import open_embeddings, read_embedded

pytestmark = pytest.mark.figures

ALL = ("--umap", "--clusters", "--neighbors")


@pytest.fixture(scope="module")
def embedded(build_once: Callable, prepared_synthetic: Path) -> Path:
    """A workspace with two slides, a model with random weights, and both slides embedded and analysed."""
    from cifm_cli.app import main

    def build(folder: Path) -> None:
        (folder / "prepared").mkdir()
        for name in ("one", "two"):
            shutil.copyfile(prepared_synthetic, folder / "prepared" / f"{name}.h5ad")
        tables = {"model": {"width": 8}, "data": {"tile_cells": 100}}
        save_random_run(folder / "runs" / "latest", open_slide(prepared_synthetic), tables)
        words = ["embed", folder / "prepared", "--model", folder / "runs" / "latest", "--out", folder / "embedded"]
        assert main([str(word) for word in (*words, *ALL, "--backend", "torch")]) == 0

    return build_once("analysed", build)


@pytest.fixture
def two_slides(embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new workspace with the two slides and the model."""
    shutil.copytree(embedded / "prepared", tmp_path / "prepared")
    (tmp_path / "runs").symlink_to(embedded / "runs", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_scanpy_goes_on_with_what_is_written(embedded: Path) -> None:
    import scanpy as sc

    slides = [ad.read_h5ad(embedded / "embedded" / f"{name}.h5ad") for name in ("one", "two")]
    for slide in slides:
        num = slide.n_obs
        assert slide.obsm["X_umap"].shape == (num, 2)
        assert slide.uns["umap"]["params"].keys() == {"a", "b", "random_state"}
        categories = list(slide.obs["leiden"].cat.categories)
        assert categories == [str(number) for number in range(len(categories))], "not sorted as numbers"
        assert slide.uns["neighbors"]["params"]["use_rep"] == keys.MICROENVIRONMENT
        assert slide.obsp["distances"].shape == slide.obsp["connectivities"].shape == (num, num)
        assert keys.MICROENVIRONMENT in slide.obsm
    assert list(slides[0].obs["leiden"].cat.categories) == list(slides[1].obs["leiden"].cat.categories)
    sc.tl.paga(slides[0], groups="leiden")  # reads the graph by its names in uns
    assert slides[0].uns["paga"]["connectivities"].shape[0] == len(slides[0].obs["leiden"].cat.categories)


def test_the_page_needs_no_other_file_and_its_figures_and_tables_are_beside_it(embedded: Path) -> None:
    folder = embedded / "embedded"
    page = (folder / "report.html").read_text(encoding="utf8")
    assert "clusters in" in page
    assert "of 2 slides: in none of them, at least 90% of the cells are of a single slide." in page
    assert 'src="http' not in page
    assert page.count("<img") == 7
    names = {"umap_slide", "umap_cluster", "umap_type", "clusters_one", "clusters_two", "composition_slide"}
    for name in names | {"composition_type"}:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert b"<svg" in (folder / f"{name}.svg").read_bytes()[:1000]
    table = pd.read_csv(folder / "composition_slide.csv")
    pd.testing.assert_frame_equal(table, pd.read_parquet(folder / "composition_slide.parquet"), check_dtype=False)
    assert table["cells"].sum() == sum(ad.read_h5ad(folder / f"{name}.h5ad").n_obs for name in ("one", "two"))


def test_the_slides_with_an_analysis_are_still_embedded_slides(embedded: Path, recwarn: object) -> None:
    slide = read_embedded(embedded / "embedded" / "one.h5ad")
    assert slide.obs["leiden"].dtype == "category"
    about = json.loads(ad.read_h5ad(embedded / "embedded" / "one.h5ad").uns[keys.CIFM][keys.ANALYSIS])
    assert about["analysis"]["slides"] == ["one", "two"]
    assert about["analysis"]["packages"].keys() >= {"scanpy", "umap-learn"}


def test_the_same_seed_gives_the_same_analysis_and_a_sample_is_reported(two_slides: Path, cifm, blank_figures) -> None:
    words = ("embed", "--level", "microenvironment", "--clusters", "--neighbors", "--max-cells", 300, "--json")
    contents = []
    for out in ("a", "b"):
        code, content, err = cifm(*words, "--out", out)
        assert code == 0, err
        assert "a random sample of 300 is analysed" in err
        assert "the graph of nearest neighbours is not written" in err
        contents.append(json.loads(content))
    assert contents[0]["analysis"] == contents[1]["analysis"]
    assert contents[0]["analysis"]["analysed_cells"] == 300
    one, two = (ad.read_h5ad(f"{out}/one.h5ad") for out in ("a", "b"))
    assert one.obs["leiden"].equals(two.obs["leiden"])
    assert not one.obsp
    assert "random" in Path("a/report.html").read_text(encoding="utf8")


def test_formats_hold_the_same_numbers(two_slides: Path, cifm, blank_figures) -> None:
    words = ("embed", "prepared/one.h5ad", "--clusters", "--adapt", "none")
    for name in ("h5ad", "zarr", "parquet", "npy"):
        code, _, err = cifm(*words, "--format", name, "--out", name)
        assert code == 0, err
    slide = ad.read_h5ad("h5ad/one.h5ad")
    store = ad.read_zarr("zarr/one.zarr")
    pd.testing.assert_frame_equal(store.obs, slide.obs)
    assert np.array_equal(store.obsm[keys.CELL], slide.obsm[keys.CELL])
    table = pd.read_parquet("parquet/one.parquet")
    assert table["cell"].tolist() == slide.obs_names.tolist()
    assert table["leiden"].astype(str).tolist() == slide.obs["leiden"].tolist()
    assert np.array_equal(table[["x_um", "y_um"]], slide.obsm[keys.SPATIAL])
    columns = [f"{keys.MICROENVIRONMENT}_{number}" for number in range(8)]
    assert np.array_equal(table[columns], slide.obsm[keys.MICROENVIRONMENT])
    assert np.array_equal(np.load(f"npy/one.{keys.CELL}.npy"), slide.obsm[keys.CELL])
    assert np.load("npy/one.leiden.npy").astype(str).tolist() == slide.obs["leiden"].tolist()
    assert Path("npy/one.names.txt").read_text(encoding="utf8").splitlines() == slide.obs_names.tolist()
    for name in ("zarr", "parquet", "npy"):
        assert not list(Path(name).glob("*.h5ad")), "the temporary file is left"
        assert not list(Path(name).glob(".*"))


def test_zarr_and_hdf5_hold_the_same_embeddings_and_are_probed_alike(two_slides: Path, cifm, blank_figures) -> None:
    assert cifm("embed", "prepared/one.h5ad", "--adapt", "none").code == 0
    assert cifm("embed", "prepared/one.h5ad", "--adapt", "none", "--format", "zarr").code == 0
    mapped, converted = (open_embeddings(Path("embedded", name)) for name in ("one.h5ad", "one.zarr"))
    assert converted.name == mapped.name == "one"
    assert converted.path == Path("embedded/one.zarr")
    assert all(np.array_equal(values, converted.embeddings[slot]) for slot, values in mapped.embeddings.items())
    results = []
    for given in ("embedded", "embedded/one.h5ad", "embedded/one.zarr"):
        code, out, err = cifm("probe", given, "--label", "cell_type", "--max-cells", 200, "--folds", 2, "--json")
        assert code == 0, err
        results.append({name: value for name, value in json.loads(out).items() if name != keys.PROVENANCE})
    assert results[0] == results[1] == results[2]


def test_other_elements_of_these_names_are_kept_and_an_earlier_analysis_is_replaced(
    two_slides: Path, cifm, blank_figures
) -> None:
    path = Path("prepared/one.h5ad")
    slide = ad.read_h5ad(path)
    slide.obs["leiden"] = "mine"
    slide.write_h5ad(path)
    words = ("embed", "--clusters", "--neighbors", "--json", "--adapt", "none")
    for given, out in (("prepared", "first"), ("first", "second")):
        code, content, err = cifm(*words, given, "--out", out)
        assert code == 0, err
        slots = json.loads(content)["analysis"]["slots"]
        graph = {"obsp/cifm_neighbors_distances", "obsp/cifm_neighbors_connectivities", "uns/cifm_neighbors"}
        assert set(slots) >= {"obs/cifm_leiden", *graph}
        embedded = ad.read_h5ad(f"{out}/one.h5ad")
        assert set(embedded.obs["leiden"]) == {"mine"}
        assert set(embedded.obsp) == {"cifm_neighbors_distances", "cifm_neighbors_connectivities"}
    # `two` has no other elements, so the names are the usual ones, and nothing is left of the earlier analysis.
    code, content, err = cifm("embed", "first/two.h5ad", "--neighbors", "--adapt", "none", "--out", "third")
    assert code == 0, err
    embedded = ad.read_h5ad("third/two.h5ad")
    assert set(embedded.obsp) == {"distances", "connectivities"}
    assert not [name for name in (*embedded.obs, *embedded.uns) if "leiden" in name]


@pytest.mark.parametrize("missing", ["scanpy", "umap", "igraph", "leidenalg"])
def test_a_missing_package_is_an_error_before_anything_is_computed(
    two_slides: Path, cifm, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == missing else find(name, *rest))
    code, out, err = cifm("embed", "--umap", "--model", "runs/none")
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        f"error: --umap, --clusters and --neighbors need {missing}, which is not installed",
        'hint: install it with `pip install ".[analysis]"` in the source folder of cifm',
    ]
    assert not Path("embedded").exists()


def test_a_folder_that_is_no_embedded_slide_is_not_replaced(two_slides: Path, cifm) -> None:
    precious = Path("embedded/one.zarr/precious.txt")
    precious.parent.mkdir(parents=True)
    precious.write_text("data", encoding="utf8")
    code, out, err = cifm("embed", "--format", "zarr")
    assert (code, out) == (1, "")
    assert err.startswith("error: embedded/one.zarr: exists and is not an embedded slide")
    assert precious.read_text(encoding="utf8") == "data"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--label", "cell_type"), "types are shown on the page of"),
        (("--clusters", "--label", "organ"), "--label organ: no such column of obs in one, two"),
        (("--clusters", "--label", "download_row"), "different values, at most 100 can be shown"),
    ],
)
def test_a_label_that_cannot_be_shown_is_an_error(two_slides: Path, cifm, words: tuple[str, ...], message: str) -> None:
    code, out, err = cifm("embed", *words, "--adapt", "none", "--level", "cell")
    assert (code, out) == (1, "")
    assert message in err
    assert err.count("error: ") == err.count("hint: ") == 1
    assert not Path("embedded").exists()


def test_pickled_objects_in_a_store_are_refused(two_slides: Path, cifm) -> None:
    assert cifm("embed", "prepared/one.h5ad", "--adapt", "none", "--format", "zarr").code == 0
    about = Path("embedded/one.zarr/obs/_index/.zarray")
    content = json.loads(about.read_text(encoding="utf8"))
    content["filters"] = [{"id": "pickle", "protocol": 4}]
    about.write_text(json.dumps(content), encoding="utf8")
    code, out, err = cifm("probe", "embedded/one.zarr", "--label", "cell_type")
    assert (code, out) == (1, "")
    assert "pickled objects are not read" in err
    shutil.rmtree("embedded/one.zarr/X")
    about.unlink()
    code, out, err = cifm("probe", "embedded/one.zarr", "--label", "cell_type")
    assert (code, out) == (1, "")
    assert err.startswith("error: embedded/one.zarr")


def test_slides_that_are_embedded_already_are_embedded_and_analysed(cifm: Callable, two_slides: Path) -> None:
    words = ("embed", "prepared", "--backend", "torch")
    for more in ((), ("--neighbors",), ("--neighbors", "--format", "parquet")):
        code, _, err = cifm(*words, *more)
        assert code == 0, err
    assert "distances" in ad.read_h5ad(two_slides / "embedded" / "one.h5ad").obsp
