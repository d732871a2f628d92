"""`cifm predict` on the command line: hidden cells and free locations."""

from __future__ import annotations

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from builders import save_random_run

from cifm_cli import keys
from cifm_cli.data.slide import open_slide
from cifm_cli.inference.predict_slide import split_far_apart


@pytest.fixture(scope="session")
def prepared_synthetic(prepared_few_genes: Path) -> Path:
    """The slide of these tests."""
    return prepared_few_genes


def save_run(tables: dict, slide: Path) -> None:
    """Save a network with random weights as `runs/latest` of the working directory."""
    save_random_run(Path("runs/latest"), open_slide(slide), tables, noise=0.1)


@pytest.fixture
def random_run(workspace: Path, prepared_synthetic: Path) -> None:
    """The latest run of the workspace, with random weights."""
    save_run({"model": {"width": 8}}, prepared_synthetic)


def write_csv(name: str, *lines: str) -> Path:
    Path(name).write_text("\n".join(lines) + "\n", encoding="utf8")
    return Path(name)


def test_every_cell_is_written_in_the_order_of_the_download(cifm, random_run: None) -> None:
    code, out, _ = cifm("predict", "prepared/tissue.h5ad", "--json")
    assert code == 0
    predicted = ad.read_h5ad("predicted/tissue.h5ad")
    prepared = ad.read_h5ad("prepared/tissue.h5ad")
    assert json.loads(out)["cells"] == prepared.n_obs
    assert (np.diff(predicted.obs[keys.DOWNLOAD_ROW]) > 0).all()
    assert set(predicted.obs_names) == set(prepared.obs_names)
    assert np.array_equal(predicted[prepared.obs_names].obsm[keys.SPATIAL], prepared.obsm[keys.SPATIAL])
    assert predicted.X.min() >= 0
    assert 0 <= predicted.layers["expressed"].min() <= predicted.layers["expressed"].max() <= 1


def test_gated_is_the_mean_where_a_gene_is_likely_expressed(cifm, random_run: None) -> None:
    for form in ("mean", "gated"):
        words = ("--form", form, "--threshold", "0.4", "--adapt", "none", "--out", f"{form}.h5ad")
        assert cifm("predict", "prepared/tissue.h5ad", *words).code == 0
    mean, gated = ad.read_h5ad("mean.h5ad"), ad.read_h5ad("gated.h5ad")
    likely = mean.layers["expressed"] > 0.4
    assert 0 < likely.mean() < 1
    assert np.array_equal(gated.X, np.where(likely, mean.X, 0))


def test_the_median_of_cells_and_of_locations(cifm, random_run: None) -> None:
    at = ("--at", write_csv("p.csv", "x,y", "200,200", "300,310"))
    for where in ((), at):
        for form in ("mean", "median"):
            words = ("--form", form, "--adapt", "none", "--out", f"{form}.h5ad", "--force", "--json")
            code, out, _ = cifm("predict", "prepared/tissue.h5ad", *where, *words)
            assert code == 0
            assert (json.loads(out)["form"], json.loads(out)["threshold"]) == (form, None)
        mean, median = ad.read_h5ad("mean.h5ad"), ad.read_h5ad("median.h5ad")
        probability = mean.layers["expressed"]
        is_likely = probability > 0.5
        assert 0 < is_likely.mean() < 1
        expected = np.where(is_likely, np.minimum(mean.X / np.maximum(probability, 0.5), np.log1p(1e4)), 0)
        assert np.allclose(median.X, expected, rtol=1e-6)


def test_a_model_without_a_mean_has_no_median(cifm, random_run: None) -> None:
    save_run({"model": {"width": 8}, "objective": {"name": "balanced_mse"}}, Path("prepared/tissue.h5ad"))
    code, out, err = cifm("predict", "prepared/tissue.h5ad", "--form", "median")
    assert (code, out) == (1, "")
    assert "balanced_mse" in err
    assert "hint: ask for --form gated" in err
    assert not Path("predicted").exists()


def test_an_existing_file_is_replaced_with_force_only(cifm, random_run: None) -> None:
    Path("predicted").mkdir()
    Path("predicted/tissue_at_p.h5ad").write_text("notes", encoding="utf8")
    words = ("predict", "prepared/tissue.h5ad", "--at", write_csv("p.csv", "x,y", "200,200"), "--adapt", "none")
    code, out, err = cifm(*words)
    assert (code, out) == (1, "")
    assert "error: predicted/tissue_at_p.h5ad exists\nhint: replace it with --force" in err
    assert Path("predicted/tissue_at_p.h5ad").read_text(encoding="utf8") == "notes"
    assert cifm(*words, "--force").code == 0
    assert ad.read_h5ad("predicted/tissue_at_p.h5ad").n_obs == 1


def test_images_of_the_tissue_are_copied(cifm, random_run: None) -> None:
    tissue = ad.read_h5ad("prepared/tissue.h5ad")
    tissue.uns[keys.SPATIAL] = {"one": {"images": {"hires": np.eye(3)}, "scalefactors": {"tissue_hires_scalef": 0.5}}}
    tissue.write_h5ad("images.h5ad")
    assert cifm("predict", "images.h5ad", "--adapt", "none").code == 0
    copied = ad.read_h5ad("predicted/images.h5ad").uns[keys.SPATIAL]["one"]
    assert np.array_equal(copied["images"]["hires"], np.eye(3))
    assert copied["scalefactors"]["tissue_hires_scalef"] == 0.5


def test_a_location_has_no_effect_on_the_others(cifm, random_run: None) -> None:
    x, y = ad.read_h5ad("prepared/tissue.h5ad").obsm[keys.SPATIAL][100]
    alone = write_csv("one.csv", "x_um,y_um", f"{x + 3},{y}")
    among_others = write_csv("many.csv", "x,y", f"{x + 3},{y}", f"{x + 4},{y + 1}", f"{x + 3},{y}", f"{x - 5},{y}")
    for path in (alone, among_others):
        words = ("--at", path, "--adapt", "none", "--out", path.with_suffix(".h5ad"))
        assert cifm("predict", "prepared/tissue.h5ad", *words).code == 0
    one, many = ad.read_h5ad("one.h5ad"), ad.read_h5ad("many.h5ad")
    assert many.obs_names.tolist() == ["place_1", "place_2", "place_3", "place_4"]
    assert np.allclose(many.obsm[keys.SPATIAL][0], [x + 3, y])
    assert np.allclose(one.X[0], many.X[0], rtol=1e-5, atol=1e-6)
    assert np.allclose(one.X[0], many.X[2], rtol=1e-5, atol=1e-6)
    assert not np.allclose(one.X[0], many.X[3], rtol=1e-5, atol=1e-6)


def test_locations_far_from_all_cells_are_named(cifm, random_run: None) -> None:
    """A prediction there looks like any other, so that the file has to say how far the nearest cell is."""
    xy_um = ad.read_h5ad("prepared/tissue.h5ad").obsm[keys.SPATIAL]
    right, y = xy_um[:, 0].max(), xy_um[xy_um[:, 0].argmax(), 1]
    places = write_csv("places.csv", "x_um,y_um", f"{xy_um[100, 0]},{xy_um[100, 1]}", f"{right + 300},{y}")
    code, _, err = cifm("predict", "prepared/tissue.h5ad", "--adapt", "none", "--at", places)
    assert code == 0
    assert f"warning: 1 of 2 locations have no cell within 20 um, such as {right + 300:g},{y:g}: little to infer" in err
    distances = ad.read_h5ad("predicted/tissue_at_places.h5ad").obs["nearest_cell_um"]
    assert distances.tolist() == pytest.approx([0.0, 300.0], abs=0.1)


def test_locations_do_not_replace_the_prediction_of_all_cells(cifm, random_run: None) -> None:
    places = write_csv("places.csv", "x,y", "200,200")
    for at in ((), ("--at", places)):
        assert cifm("predict", "prepared/tissue.h5ad", "--adapt", "none", *at).code == 0
    assert {path.name: ad.read_h5ad(path).n_obs for path in Path("predicted").iterdir()} == {
        "tissue.h5ad": ad.read_h5ad("prepared/tissue.h5ad").n_obs,
        "tissue_at_places.h5ad": 1,
    }


def test_locations_of_a_round_are_far_apart() -> None:
    """a-b-c, 10 um apart: b is within 10 um of both others, a and c are in one round."""
    locations_um = np.array([[0.0, 0], [10, 0], [20, 0]])
    assert [part.tolist() for part in split_far_apart(locations_um, 10.0)] == [[0, 2], [1]]
    assert [part.tolist() for part in split_far_apart(locations_um, 9.9)] == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("a,b", "1,2"), "no columns x_um and y_um, but a, b"),
        (("x,y", "1,2", "3,here"), "line 3 is not two numbers"),
        (("x,y",), "it has no locations"),
        (("x,y", "-9000,-9000"), "no cell of tissue is within"),
    ],
)
def test_unusable_locations(cifm, random_run: None, lines: tuple[str, ...], message: str) -> None:
    code, out, err = cifm("predict", "prepared/tissue.h5ad", "--at", write_csv("p.csv", *lines))
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert message in err
    assert "hint: " in err
    assert not Path("predicted").exists()


def test_a_missing_file_of_locations(cifm, random_run: None) -> None:
    code, _, err = cifm("predict", "prepared/tissue.h5ad", "--at", "none.csv")
    assert code == 1
    assert "error: none.csv: no such file" in err
