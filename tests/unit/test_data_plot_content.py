"""What a prepared slide keeps for plots: tissue images with scale factors in micrometres, matrices of obsm, colours."""

from __future__ import annotations

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.sparse import csr_matrix
from small_downloads import anndata_slide

from cifm_cli import keys
from cifm_cli.app import main
from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.prepare.pipeline import prepare_download, prepare_sections_to_anndata
from cifm_cli.data.readers.anndata_object import object_reader
from cifm_cli.data.readers.declared_scale import image_scale
from cifm_cli.data.readers.tissue_images import MAX_SIDE, convert_libraries, read_plot_content
from cifm_cli.data.units import Scale

pytestmark = pytest.mark.figures

FACTORS = {"spot_diameter_fullres": 26.0, "tissue_hires_scalef": 0.1, "tissue_lowres_scalef": 0.05}
SCALE = Scale(2.5, "the pitch")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`spatial/` of a section with two images; 1,000 pixels of the full image are 2,500 um."""
    spatial = tmp_path / "section" / "spatial"
    spatial.mkdir(parents=True)
    (spatial / "scalefactors_json.json").write_text(json.dumps(FACTORS))
    for name, side in (("hires", 100), ("lowres", 50)):
        Image.fromarray(np.full((side, side, 3), 200, np.uint8)).save(spatial / f"tissue_{name}_image.png")
    return spatial.parent


def test_scale_factors_lead_from_micrometres_to_the_same_pixel_of_the_image(folder: Path) -> None:
    content = read_plot_content(folder, None, SCALE)
    section = content.uns[keys.SPATIAL][""]
    assert section["images"]["hires"].shape == (100, 100, 3)
    assert {path.name for path in content.files} == {"tissue_hires_image.png", "tissue_lowres_image.png"}
    full_px = 400.0  # of a spot in the full image, so 40 in `hires`, 20 in `lowres`, and 1,000 um
    factors = section["scalefactors"]
    assert 1000.0 * factors["tissue_hires_scalef"] == pytest.approx(full_px * 0.1)
    assert 1000.0 * factors["tissue_lowres_scalef"] == pytest.approx(full_px * 0.05)
    assert factors["spot_diameter_fullres"] == pytest.approx(65.0)
    # The scale of the user is that of the coordinates.
    asked = read_plot_content(folder, 5.0, None).uns[keys.SPATIAL][""]["scalefactors"]
    assert asked["spot_diameter_fullres"] == pytest.approx(130.0)


def test_a_large_image_is_made_smaller_with_its_scale_factor(folder: Path) -> None:
    Image.new("RGB", (2 * MAX_SIDE + 1, 9)).save(folder / "spatial" / "tissue_hires_image.png")
    section = read_plot_content(folder, None, SCALE).uns[keys.SPATIAL][""]
    assert section["images"]["hires"].shape == (3, (2 * MAX_SIDE + 1 + 2) // 3, 3)
    assert section["scalefactors"]["tissue_hires_scalef"] == pytest.approx(0.1 / 2.5 / 3)


def test_a_damaged_image_is_noted_and_a_missing_diameter_leaves_nothing(folder: Path) -> None:
    path = folder / "spatial" / "tissue_hires_image.png"
    path.write_bytes(path.read_bytes()[:50])
    content = read_plot_content(folder, None, SCALE)
    assert set(content.uns[keys.SPATIAL][""]["images"]) == {"lowres"}
    assert content.notes[0].startswith("tissue_hires_image.png is left out: it cannot be read")
    (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps({"tissue_lowres_scalef": 0.05}))
    assert read_plot_content(folder, None, SCALE).uns == {}


def test_images_of_an_anndata_fit_coordinates_in_pixels_and_in_micrometres() -> None:
    xy = np.array([[10.0, 20.0], [0.0, 0.0], [30.0, np.nan]])
    libraries = {"a": {"spot_diameter_fullres": 26.0}}
    assert image_scale(xy, 2.5 * xy, libraries) == pytest.approx(2.5)
    assert image_scale(xy, xy, libraries) is None, "the diameter is too imprecise to convert images"
    declared = {"a": {"spot_diameter_fullres": 26.0, "microns_per_pixel": 2.5}}
    assert image_scale(xy, xy, declared) == pytest.approx(2.5)
    assert image_scale(xy[:2] + 1, xy[:2] * [[1.0], [2.0]] + [[1.0], [2.0]], libraries) is None
    image = np.full((4, 5, 4), 0.5, np.float32)
    stored = {"a": {"scalefactors": FACTORS, "images": {"hires": image, "lowres": np.ones(3)}}, "b": 1}
    sections, notes = convert_libraries(stored, 2.5)
    assert list(sections) == ["a"]
    assert sections["a"]["images"]["hires"].dtype == np.uint8
    assert (sections["a"]["images"]["hires"] == 128).all()
    assert notes == ("uns['spatial']: image 'lowres' of 'a' is left out: not an image",)


def slide_with_extras() -> ad.AnnData:
    slide = anndata_slide()
    num = slide.n_obs
    slide.obs["kind"] = pd.Categorical(np.where(np.arange(num) % 2, "a", "b"))
    slide.obsm["X_pca"] = np.arange(2.0 * num).reshape(num, 2)
    slide.obsm["X_wide"] = np.zeros((num, 129))
    slide.obsm["X_cifm"] = np.zeros((num, 3))  # would make it an embedded slide
    slide.obsp["distances"] = csr_matrix((num, num))
    slide.layers["scaled"] = np.zeros(slide.shape)
    slide.uns |= {"kind_colors": ["#000000", "#ffffff"], "split_colors": ["#000000"], "pca": {"params": 1}}
    return slide


@pytest.mark.parametrize("way", ["file", "memory"])
def test_small_matrices_and_colours_are_kept_and_the_rest_is_named(tmp_path: Path, way: str) -> None:
    source = slide_with_extras()
    if way == "file":
        source.write_h5ad(tmp_path / "slide.h5ad")
        slide = ad.read_h5ad(prepare_download(tmp_path / "slide.h5ad", PrepareConfig(out=tmp_path / "out")).path)
    else:
        config = PrepareConfig(name="slide")
        (slide,) = prepare_sections_to_anndata(Path("slide"), config, object_reader(source)).values()
    rows = slide.obs[keys.DOWNLOAD_ROW].to_numpy()
    assert np.array_equal(slide.obsm["X_pca"], source.obsm["X_pca"][rows])
    assert set(slide.obsm) == {keys.SPATIAL, "X_pca"}
    assert list(slide.uns["kind_colors"]) == ["#000000", "#ffffff"]
    assert set(slide.uns) == {keys.CIFM, "kind_colors"}
    (note,) = [text for text in json.loads(slide.uns[keys.CIFM][keys.REPORT])["notes"] if "left out" in text]
    for part in ("layers scaled", "X_wide", "X_cifm", "obsp distances", "pca"):
        assert part in note
    assert "X_pca" not in note


def test_the_command_says_what_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    slide_with_extras().write_h5ad("slide.h5ad")
    assert main(["prepare", "slide.h5ad"]) == 0
    assert "note: left out: layers scaled;" in " ".join(capsys.readouterr().err.split())


def test_each_section_keeps_its_own_image_and_cells(tmp_path: Path) -> None:
    source = slide_with_extras()
    half = source.n_obs // 2
    source.obs["library_id"] = pd.Categorical(["left"] * half + ["right"] * (source.n_obs - half))
    factors = {"spot_diameter_fullres": 65.0, "microns_per_pixel": 1.0, "tissue_hires_scalef": 0.5}
    image = np.zeros((4, 4, 3), np.uint8)
    source.uns["spatial"] = {name: {"scalefactors": factors, "images": {"hires": image}} for name in ("left", "right")}
    config = PrepareConfig(name="slide", by=("library_id",))
    slides = prepare_sections_to_anndata(Path("slide"), config, object_reader(source))
    for name, slide in slides.items():
        assert list(slide.uns["spatial"]) == [name.removeprefix("slide-")]
        rows = slide.obs[keys.DOWNLOAD_ROW].to_numpy()
        assert np.array_equal(slide.obsm["X_pca"], source.obsm["X_pca"][rows])
