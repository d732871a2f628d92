"""The unit of coordinates in AnnData files: whatever the file says about it is used, and contradictions are errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders import jittered_tissue, write_tissue
from hypothesis import given, settings
from hypothesis import strategies as st

from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.prepare.pipeline import prepare_to_anndata
from cifm_cli.data.prepare.pitch import require_known_pitch
from cifm_cli.data.readers.anndata import ANNDATA
from cifm_cli.data.readers.base import Download, ReadConfig
from cifm_cli.errors import CifmError

Read = Callable[..., Download]

PER_PIXEL = 0.2737


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def run(xy: np.ndarray, config: ReadConfig | None = None, **obs: Any) -> Download:
        return ANNDATA.read(write_tissue(tmp_path / "x.h5ad", xy, **obs), config or ReadConfig())

    return run


def square(pitch: float, size: int = 20) -> np.ndarray:
    """Positions of a square grid, row by row."""
    return np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1).reshape(-1, 2) * pitch


def bin_names(size: int = 20, bin_um: int = 8, ending: str = "-1") -> list[str]:
    return [f"s_{bin_um:03d}um_{row:05d}_{column:05d}{ending}" for row in range(size) for column in range(size)]


def visium(per_um: float = 1.0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Positions of Visium spots in units of 1 / `per_um` um, and their array positions."""
    rows, columns = np.divmod(np.arange(20 * 24), 24)
    columns = 2 * columns + rows % 2
    xy = np.stack([columns * 50.0, rows * 50.0 * np.sqrt(3)], axis=1)
    return xy * per_um + 300.0, {"array_row": rows, "array_col": columns, "in_tissue": np.ones(len(xy), dtype=int)}


def spacing_um(download: Download) -> float:
    return float(np.linalg.norm(download.xy_um[1] - download.xy_um[0]))


def library(**factors: float) -> dict[str, Any]:
    return {"spatial": {"library": {"scalefactors": {"tissue_hires_scalef": 0.1, **factors}, "metadata": {"x": "y"}}}}


@pytest.mark.parametrize("ending", ["-1", "-1-sample_2", "-1_1"])
def test_names_of_bins_give_the_scale(read: Read, ending: str) -> None:
    download = read(square(8 / PER_PIXEL), names=bin_names(ending=ending))
    assert spacing_um(download) == pytest.approx(8.0)
    assert "barcodes s_008um name bins of 8 um" in download.units
    assert any("it was multiplied by 0.2737" in note for note in download.notes)
    assert not download.is_assumed_um


def test_bins_in_micrometres_stay_as_they_are(read: Read) -> None:
    xy = square(8.0) + 3.0
    download = read(xy, names=bin_names())
    assert np.array_equal(download.xy_um, xy)
    assert download.units.startswith("obsm['spatial']: micrometres (barcodes")


@settings(max_examples=15)
@given(st.floats(0.05, 20.0), st.floats(0.0, 6.3), st.booleans())
def test_visium_arrays_give_the_scale_at_any_angle(
    tmp_path_factory: pytest.TempPathFactory, per_um: float, angle: float, mirrored: bool
) -> None:
    xy, obs = visium(per_um)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    xy = xy @ rotation * ([-1.0, 1.0] if mirrored else [1.0, 1.0])
    path = write_tissue(tmp_path_factory.mktemp("visium") / "x.h5ad", xy, **obs)
    assert spacing_um(ANNDATA.read(path, ReadConfig())) == pytest.approx(100.0, rel=0.021)


def test_rounded_pixels_of_visium(read: Read) -> None:
    xy, obs = visium(0.3)
    assert spacing_um(read(xy.round().astype(np.int64), **obs)) == pytest.approx(100.0, rel=0.03)


def test_array_of_a_registered_section_is_ignored(read: Read) -> None:
    """Coordinates that were changed by a registration are no linear function of the array positions."""
    xy, obs = visium()
    download = read(xy + 200.0 * np.sin(xy[:, ::-1] / 300.0), **obs)
    assert download.is_assumed_um


@pytest.mark.parametrize("unit", [1.0, 1 / PER_PIXEL])
def test_scale_factors_of_bins_tell_pixels_from_micrometres(read: Read, unit: float) -> None:
    download = read(square(8 * unit), uns=library(microns_per_pixel=PER_PIXEL, bin_size_um=8.0))
    assert spacing_um(download) == pytest.approx(8.0)
    assert not download.is_assumed_um


@pytest.mark.parametrize("unit", [1.0, 1 / 0.65])
def test_width_of_spots_tells_pixels_from_micrometres(read: Read, unit: float) -> None:
    xy, _ = visium(unit)
    assert spacing_um(read(xy, uns=library(spot_diameter_fullres=100.0))) == pytest.approx(100.0)


def test_contradictions_are_errors(read: Read) -> None:
    with pytest.raises(CifmError, match="two scales differ") as caught:
        read(square(8 / PER_PIXEL), names=bin_names(), uns=library(microns_per_pixel=0.5))
    assert "--microns-per-pixel" in caught.value.hint
    with pytest.raises(CifmError, match="nearest cells are 3 apart"):
        read(square(3.0), uns=library(microns_per_pixel=PER_PIXEL, bin_size_um=8.0))
    xy, obs = visium(0.3)
    with pytest.raises(CifmError, match="two scales differ"):
        read(xy, **obs, uns=library(spot_diameter_fullres=500.0))
    assert spacing_um(read(xy, ReadConfig(microns_per_pixel=1 / 0.3), **obs)) == pytest.approx(100.0)


def test_sections_of_two_images_have_a_scale_each(read: Read) -> None:
    (one, obs), (other, _) = visium(0.3), visium(0.5)
    both = {name: np.tile(values, 2) for name, values in obs.items()}
    labels = np.repeat(["a", "b"], len(one))
    xy = np.concatenate([one, other])
    by_array = read(xy, sample=pd.Categorical(labels), **both)
    factors = {
        name: {"scalefactors": {"spot_diameter_fullres": 65.0 * per_um}} for name, per_um in (("a", 0.3), ("b", 0.5))
    }
    by_factors = read(xy, sample=pd.Categorical(labels), uns={"spatial": factors})
    for download in (by_array, by_factors):
        distances = [np.linalg.norm(download.xy_um[row + 1] - download.xy_um[row]) for row in (0, len(one))]
        assert distances == pytest.approx([100.0, 100.0])
    with pytest.raises(CifmError, match="pixels of different sizes") as caught:
        read(xy, uns={"spatial": factors})
    assert "library_id" in caught.value.hint


def columns(names: str, xy: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(names.split(), xy.T, strict=True))


@pytest.mark.parametrize(
    ("unit_um", "obs", "scale"),
    [
        (1000.0, "x_slide_mm y_slide_mm", None),
        (0.12, "CenterX_global_px CenterY_global_px", "x_slide_mm y_slide_mm"),
        (0.5, "pxl_col_in_fullres pxl_row_in_fullres", "x_um y_um"),
    ],
)
def test_columns_with_the_same_coordinates_give_the_unit(
    read: Read, unit_um: float, obs: str, scale: str | None
) -> None:
    xy_um = jittered_tissue(20, 20, 0)
    known = columns(obs, xy_um / unit_um)
    if scale:
        known |= columns(scale, xy_um / 1000.0 if "mm" in scale else xy_um)
    assert np.allclose(read(xy_um / unit_um, **known).xy_um, xy_um, rtol=1e-3)


@pytest.mark.parametrize(
    "names", ["CenterX_global_px CenterY_global_px", "CenterX_local_px CenterY_local_px", "x_px y_px"]
)
def test_pixels_of_unknown_size_are_refused(read: Read, names: str) -> None:
    xy = jittered_tissue(20, 20, 0)
    with pytest.raises(CifmError, match="in pixels") as caught:
        read(xy, **columns(names, xy))
    assert "--microns-per-pixel" in caught.value.hint
    assert np.allclose(read(xy, ReadConfig(microns_per_pixel=0.5), **columns(names, xy)).xy_um, xy / 2)
    # Columns of another section, or before a registration, say nothing.
    assert read(xy, **columns(names, xy * 3 + 100)).is_assumed_um


@pytest.mark.parametrize("pitch", [0.5, 0.715, 2, 8, 10, 12.5, 16, 20, 25, 50, 100, 150, 200])
def test_pitches_of_platforms_pass(pitch: float) -> None:
    require_known_pitch(square(pitch), "x")


@pytest.mark.parametrize("pitch", [7.3, 29.2, 58.4, 29.0])
def test_odd_pitch_is_asked_about(tmp_path: Path, pitch: float) -> None:
    path = write_tissue(tmp_path / "x.h5ad", square(pitch))
    with pytest.raises(CifmError, match=f"a square grid with a pitch of {pitch:.4g}") as caught:
        prepare_to_anndata(path, PrepareConfig())
    assert f"{8 / pitch:.4g} for bins of 8 um" in caught.value.hint
    assert prepare_to_anndata(path, PrepareConfig(microns_per_pixel=1.0)).n_obs == 400


def test_hexagonal_grids() -> None:
    xy, _ = visium()
    for pitch in (2.0, 97.0, 100.0, 103.0):
        require_known_pitch(xy * pitch / 100.0, "x")
    with pytest.raises(CifmError, match="a hexagonal grid with a pitch of 85") as caught:
        require_known_pitch(xy * 0.85, "x")
    assert "1.176 for Visium spots" in caught.value.hint


@given(st.integers(0, 100), st.floats(3.0, 60.0))
@settings(max_examples=20)
def test_cells_are_no_grid(seed: int, spacing_um: float) -> None:
    require_known_pitch(jittered_tissue(20, 20, seed, spacing_um), "x")
    require_known_pitch(np.random.default_rng(seed).uniform(0, 20 * spacing_um, (400, 2)), "x")


@pytest.mark.parametrize(("factor", "unit"), [(1e-3, "1000 for millimetres"), (1e3, "0.001 for nanometres")])
def test_other_units_are_refused_with_the_scale(tmp_path: Path, factor: float, unit: str) -> None:
    path = write_tissue(tmp_path / "x.h5ad", jittered_tissue(20, 20, 0) * factor)
    with pytest.raises(CifmError, match=r"x\.h5ad: median distance") as caught:
        prepare_to_anndata(path, PrepareConfig())
    assert unit in caught.value.hint
