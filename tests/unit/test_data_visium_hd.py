"""Visium HD downloads drawn by hand: bins of several sizes, the folder at all levels, and segmented cells."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifm_cli import keys
from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.prepare.pipeline import prepare_download
from cifm_cli.data.prepare.slide_names import slide_name
from cifm_cli.data.readers.base import Download
from cifm_cli.data.readers.registry import find_reader
from cifm_cli.data.readers.segmentation import centroid
from cifm_cli.data.readers.visium_hd import VISIUM_HD
from cifm_cli.errors import CifmError

UM_PER_PIXEL = 0.25
IDS, SYMBOLS = ["ENSG00000010610", "ENSG00000153563"], ["CD4", "CD8A"]
#  3 x 3 bins; the last row of the array lies above the first in the image, as in real files
ROWS_AND_COLUMNS = np.array([(row, column) for row in range(3) for column in range(3)])
CELLS = {7: [(0, 0), (40, 0), (40, 40), (0, 40), (0, 0)], 21: [(40, 0), (80, 0), (40, 40)], 305: [(0, 40), (40, 80)]}
CENTRES_PX = {7: (20, 20), 21: (160 / 3, 40 / 3), 305: (20, 60)}


def write_h5(path: Path, barcodes: list[str]) -> None:
    counts = np.arange(2 * len(barcodes)).reshape(-1, 2) % 3 + 1
    row, column = counts.nonzero()
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"], group["data"], group["indices"] = np.array(barcodes, dtype="S"), counts[row, column], column
        group["indptr"] = np.arange(len(barcodes) + 1) * 2
        group["shape"] = np.array(counts.T.shape)
        for name, values in (("id", IDS), ("name", SYMBOLS), ("feature_type", ["Gene Expression"] * 2)):
            group[f"features/{name}"] = np.array(values, dtype="S")


def write_scales(spatial: Path, **scales: float) -> None:
    (spatial / "scalefactors_json.json").write_text(json.dumps(scales))


def write_bins(folder: Path, size_um: int) -> None:
    (folder / "spatial").mkdir(parents=True)
    rows, columns = ROWS_AND_COLUMNS.T
    barcodes = [f"s_{size_um:03d}um_{row:05d}_{column:05d}-1" for row, column in ROWS_AND_COLUMNS]
    pitch = size_um / UM_PER_PIXEL
    pixels = {"pxl_row_in_fullres": 900.0 - rows * pitch, "pxl_col_in_fullres": 500.0 + columns * pitch}
    table = pd.DataFrame({"barcode": barcodes, "in_tissue": 1, "array_row": rows, "array_col": columns, **pixels})
    table.sample(frac=1, random_state=3).to_parquet(folder / "spatial" / "tissue_positions.parquet", index=False)
    write_h5(folder / "filtered_feature_bc_matrix.h5", barcodes)
    write_scales(folder / "spatial", bin_size_um=size_um, microns_per_pixel=UM_PER_PIXEL, spot_diameter_fullres=pitch)


def write_segmented(folder: Path) -> None:
    (folder / "spatial").mkdir(parents=True)
    shapes = {number: {"type": "Polygon", "coordinates": [corners]} for number, corners in CELLS.items()}
    features = [
        {"type": "Feature", "properties": {"cell_id": number}, "geometry": shape} for number, shape in shapes.items()
    ]
    outlines = {"type": "FeatureCollection", "features": features}
    (folder / "cell_segmentations.geojson").write_text(json.dumps(outlines))
    write_h5(folder / "filtered_feature_cell_matrix.h5", [f"cellid_{number:09d}-1" for number in reversed(CELLS)])
    write_scales(folder / "spatial", microns_per_pixel=UM_PER_PIXEL)


@pytest.fixture
def outs(tmp_path: Path) -> Path:
    outs = tmp_path / "section" / "outs"
    for size_um in (2, 8, 16):
        write_bins(outs / "binned_outputs" / f"square_{size_um:03d}um", size_um)
    write_segmented(outs / "segmented_outputs")
    return outs


@pytest.fixture
def read(outs: Path) -> Callable[..., Download]:
    def run(folder: str = ".", **options: object) -> Download:
        root, reader = find_reader(outs / folder)
        assert reader is VISIUM_HD
        return reader.read(root, PrepareConfig(**options))

    return run


@pytest.mark.parametrize("folder", ["..", ".", "binned_outputs", "binned_outputs/square_008um"])
def test_folder_is_accepted_at_all_levels(outs: Path, read: Callable[..., Download], folder: str) -> None:
    assert slide_name(outs / folder, PrepareConfig()) == "section"
    download = read(folder)
    expected = np.array([125.0, 225.0]) + ROWS_AND_COLUMNS[:, ::-1] * [8.0, -8.0]
    assert np.abs(download.xy_um - expected).max() < 1e-9
    assert download.obs.index[:2].tolist() == ["s_008um_00000_00000-1", "s_008um_00000_00001-1"]
    assert download.radius_um == 20.0
    assert download.notes[0] == "bins of 8 um"
    assert any("also has segmented cells" in note for note in download.notes) == (folder in {"..", "."})


@pytest.mark.parametrize("size_um", [2, 16])
def test_radius_follows_the_bin_size(outs: Path, tmp_path: Path, size_um: int) -> None:
    config = PrepareConfig(out=tmp_path / "prepared", bin_um=size_um)
    slide = ad.read_h5ad(prepare_download(outs, config).path)
    assert np.ptp(slide.obsm[keys.SPATIAL], axis=0).tolist() == [2.0 * size_um] * 2
    assert slide.uns[keys.CIFM][keys.RADIUS_UM] == 2.5 * size_um
    assert slide.uns[keys.CIFM][keys.PLATFORM] == "visium_hd"


def test_missing_bin_size_is_refused(read: Callable[..., Download]) -> None:
    with pytest.raises(CifmError, match=r"no bins of 4 um \(there are 2 um and 8 um and 16 um\)") as caught:
        read(bin_um=4)
    assert "--bin-um" in caught.value.hint


def test_declared_scale_that_contradicts_the_grid_is_refused(outs: Path, read: Callable[..., Download]) -> None:
    spatial = outs / "binned_outputs" / "square_008um" / "spatial"
    write_scales(spatial, bin_size_um=8, microns_per_pixel=0.2125)
    with pytest.raises(CifmError, match=r"0\.2125 um per pixel \(microns_per_pixel.*0\.25 um per pixel \(columns of 8"):
        read()
    write_scales(spatial, bin_size_um=8)
    assert "columns of 8 um bins 32.0000 pixels apart" in read().units
    write_scales(spatial, bin_size_um=8, microns_per_pixel=0.2125)
    assert np.ptp(read(microns_per_pixel=0.5).xy_um) > 0


def test_bin_name_that_contradicts_its_position_is_refused(outs: Path, read: Callable[..., Download]) -> None:
    path = outs / "binned_outputs" / "square_008um" / "spatial" / "tissue_positions.parquet"
    table = pd.read_parquet(path)
    table["barcode"] = np.roll(table["barcode"], 1)
    table.to_parquet(path, index=False)
    with pytest.raises(CifmError, match="9 bins are not at the row and column in their names, such as 's_008um_"):
        read()


def test_segmented_cells_are_at_their_centroids(outs: Path, tmp_path: Path) -> None:
    config = PrepareConfig(out=tmp_path / "prepared", name="cells")
    slide = ad.read_h5ad(prepare_download(outs / "segmented_outputs", config).path)
    order = np.argsort(slide.obs[keys.DOWNLOAD_ROW])
    assert slide.obs_names[order].tolist() == [f"cellid_{number:09d}-1" for number in (305, 21, 7)]
    positions = np.array([CENTRES_PX[number] for number in (305, 21, 7)]) * UM_PER_PIXEL
    assert np.allclose(slide.obsm[keys.SPATIAL][order], positions, atol=1e-12)
    assert slide.uns[keys.CIFM][keys.RADIUS_UM] == 20.0


def test_segmented_cells_are_read_if_there_are_no_bins(outs: Path) -> None:
    (outs / "binned_outputs").rename(outs / "elsewhere")
    root, reader = find_reader(outs / "segmented_outputs")
    assert len(reader.read(root, PrepareConfig()).obs) == 3


def test_missing_or_repeated_outline_is_refused(outs: Path, read: Callable[..., Download]) -> None:
    path = outs / "segmented_outputs" / "cell_segmentations.geojson"
    text = path.read_text()
    path.write_text(text.replace('"cell_id": 305', '"cell_id": 306'))
    with pytest.raises(
        CifmError, match=r"no position for 1 of the 3 barcodes of the matrix, such as 'cellid_000000305-1'"
    ):
        read("segmented_outputs")
    path.write_text(text.replace('"cell_id": 305', '"cell_id": 7'))
    with pytest.raises(CifmError, match="has two outlines"):
        read("segmented_outputs")
    path.write_text(text[:-20])
    with pytest.raises(CifmError, match="damaged"):
        read("segmented_outputs")


def test_centroid_by_hand() -> None:
    square = np.array([(0.0, 0.0), (2.0, 0.0), (2.0, 2.0), (0.0, 2.0)])
    assert centroid([square]) == (1.0, 1.0)
    assert centroid([square, square + np.array([4.0, 0.0])]) == (3.0, 1.0)  # two parts of one cell
    assert centroid([np.array([(0.0, 0.0), (2.0, 4.0)])]) == (1.0, 2.0)  # no area


@given(
    st.integers(3, 12), st.floats(-1e5, 1e5), st.floats(-1e5, 1e5), st.floats(0, 6.3), st.booleans(), st.integers(0, 11)
)
def test_centroids_move_with_the_outline(
    corners: int, x: float, y: float, turn: float, mirrored: bool, start: int
) -> None:
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    ring = np.stack([(3 + np.cos(angles)) * np.cos(angles), (2 + np.sin(angles)) * np.sin(angles)], axis=1)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    moved = np.roll(ring[:: -1 if mirrored else 1], start, axis=0) @ rotation.T + [x, y]
    assert np.allclose(centroid([moved]), rotation @ np.array(centroid([ring])) + [x, y], atol=1e-8)
