"""Visium downloads drawn by hand: formats of positions and matrix, and the source of the scale."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest

from cifm_cli import keys
from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.prepare.pipeline import prepare_download
from cifm_cli.data.prepare.slide_names import slide_name
from cifm_cli.data.readers.base import Download
from cifm_cli.data.readers.counts import in_memory
from cifm_cli.data.readers.registry import find_reader
from cifm_cli.data.readers.spaceranger import Grid
from cifm_cli.data.readers.visium import VISIUM, derive_scale
from cifm_cli.errors import CifmError

# array_col 0   1   2   3     spots of a row are 2 columns and 100 um apart, 40 pixels here: 2.5 um per pixel
#   row 0   a . . . b         d is not in the tissue
#   row 1   . . c . . . d
#   row 2   e . . . f
PIXELS_PER_UM = 0.4
ARRAY_POSITIONS = {"a": (0, 0), "b": (0, 2), "c": (1, 1), "d": (1, 3), "e": (2, 0), "f": (2, 2)}  # row, column
BARCODES = [f"{name.upper() * 16}-1" for name in ARRAY_POSITIONS]
XY_UM = np.array([(50.0 * column, 50.0 * np.sqrt(3) * row) for row, column in ARRAY_POSITIONS.values()])
ORIGIN_PX = np.array([1000.0, 500.0])
ORIGIN_UM = ORIGIN_PX / PIXELS_PER_UM
IN_TISSUE = [1, 1, 1, 0, 1, 1]
IDS, SYMBOLS = ["ENSG00000010610", "ENSG00000153563", "ENSG00000198804"], ["CD4", "CD8A", "MT-CO1"]
COUNTS = np.array([[1, 0, 5], [0, 2, 0], [3, 4, 0], [9, 9, 9], [1, 1, 1], [0, 1, 7]])
SPOT_PX = 65 * PIXELS_PER_UM
HEADER = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]


def positions() -> pd.DataFrame:
    rows, columns = np.array(list(ARRAY_POSITIONS.values())).T
    pixels = XY_UM * PIXELS_PER_UM + ORIGIN_PX
    values = [BARCODES, IN_TISSUE, rows, columns, pixels[:, 1], pixels[:, 0]]
    return pd.DataFrame(dict(zip(HEADER, values, strict=True)))


def write_h5(path: Path, counts: np.ndarray = COUNTS, barcodes: list[str] = BARCODES) -> None:
    row, column = counts.nonzero()
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"], group["data"], group["indices"] = np.array(barcodes, dtype="S"), counts[row, column], column
        group["indptr"] = np.concatenate([[0], np.cumsum((counts > 0).sum(axis=1))])
        group["shape"] = np.array(counts.T.shape)
        kinds = ["Gene Expression"] * len(IDS)
        for name, values in (("id", IDS), ("name", SYMBOLS), ("feature_type", kinds)):
            group[f"features/{name}"] = np.array(values, dtype="S")


def write_mex(folder: Path) -> None:
    folder.mkdir()
    entries = [f"{j + 1} {i + 1} {n}" for i, row in enumerate(COUNTS) for j, n in enumerate(row) if n]
    texts = {
        "features.tsv": [f'"{gene}"\t"{symbol}"\t"Gene Expression"' for gene, symbol in zip(IDS, SYMBOLS, strict=True)],
        "barcodes.tsv": [f'"{barcode}"' for barcode in BARCODES],  # as R quotes them
        "matrix.mtx": ["%%MatrixMarket matrix coordinate integer general", f"3 6 {len(entries)}", *entries],
    }
    for name, lines in texts.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A download of Space Ranger 2 or later, whose matrix covers the whole array."""
    folder = tmp_path / "section" / "outs"
    (folder / "spatial").mkdir(parents=True)
    write_h5(folder / "raw_feature_bc_matrix.h5")
    positions().to_csv(folder / "spatial" / "tissue_positions.csv", index=False)
    scales = {"spot_diameter_fullres": SPOT_PX, "tissue_hires_scalef": 0.1}
    (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps(scales))
    return folder


@pytest.fixture
def read(folder: Path) -> Callable[..., Download]:
    return lambda **options: VISIUM.read(folder, PrepareConfig(**options))


def test_spots_of_the_tissue_in_micrometres(folder: Path, tmp_path: Path) -> None:
    config = PrepareConfig(out=tmp_path / "prepared", radius_um=150.0)
    assert find_reader(folder.parent)[1] is VISIUM
    assert slide_name(folder, config) == "section"
    result = prepare_download(folder, config)
    slide = ad.read_h5ad(result.path)
    order = np.argsort(slide.obs[keys.DOWNLOAD_ROW])
    kept = [0, 1, 2, 4, 5]
    assert slide.obs_names[order].tolist() == [BARCODES[row] for row in kept]
    assert slide.X.toarray()[order].astype(int).tolist() == COUNTS[kept][:, :2].tolist()
    assert np.allclose(slide.obsm[keys.SPATIAL][order], XY_UM[kept] + ORIGIN_UM, atol=1e-9)
    assert slide.obs["array_col"].to_numpy()[order].tolist() == [0, 2, 1, 0, 2]
    assert slide.uns[keys.CIFM][keys.PLATFORM] == "visium"
    assert result.report["cells"]["dropped"] == {"not in tissue": 1}
    assert result.report["units"]["spacing_um"] == pytest.approx(100.0)
    assert "100 um between spots" in result.report["units"]["derivation"]


def test_missing_spots_of_the_tissue_are_noted(folder: Path, read: Callable[..., Download]) -> None:
    assert read().notes == ()
    write_h5(folder / "raw_feature_bc_matrix.h5", COUNTS[:4], BARCODES[:4])
    assert read().notes == ("2 spots or bins in the tissue are not in the matrix",)


def test_the_paper_radius(read: Callable[..., Download]) -> None:
    assert read().radius_um == 150.0


def as_list_without_header(spatial: Path) -> None:
    positions().round().astype(dict.fromkeys(HEADER[1:], int)).to_csv(
        spatial / "tissue_positions_list.csv", header=False, index=False
    )


def as_list_with_header(spatial: Path) -> None:
    positions().to_csv(spatial / "tissue_positions_list.csv", index=False)


def as_parquet(spatial: Path) -> None:
    positions().astype({"in_tissue": "int32"}).iloc[::-1].to_parquet(spatial / "tissue_positions.parquet", index=False)


def as_gzip(spatial: Path) -> None:
    (spatial / "tissue_positions.csv").write_bytes(gzip.compress(positions().to_csv(index=False).encode()))


@pytest.mark.parametrize("write", [as_list_without_header, as_list_with_header, as_parquet, as_gzip])
def test_all_formats_of_the_positions(
    folder: Path, read: Callable[..., Download], write: Callable[[Path], None]
) -> None:
    spatial = folder / "spatial"
    (spatial / "tissue_positions.csv").unlink()
    write(spatial)
    download = read()
    assert np.allclose(download.xy_um, XY_UM + ORIGIN_UM, atol=1.5)  # whole pixels are 2.5 um
    assert download.in_tissue is not None
    assert download.in_tissue.tolist() == [bool(flag) for flag in IN_TISSUE]


def test_all_formats_of_the_matrix(folder: Path, read: Callable[..., Download]) -> None:
    write_mex(folder / "raw_feature_bc_matrix")
    first = read()
    stored = in_memory(first.counts)
    (folder / "raw_feature_bc_matrix.h5").unlink()
    mex = read()
    assert (stored != in_memory(mex.counts)).nnz == 0
    assert first.obs.index.tolist() == mex.obs.index.tolist()
    assert first.genes.equals(mex.genes)
    write_h5(
        folder / "V1_Section_filtered_feature_bc_matrix.h5", COUNTS[:3], BARCODES[:3]
    )  # the file name on 10x's website
    assert len(read().obs) == 3


def test_matrix_of_positions_without_values_is_refused(folder: Path, read: Callable[..., Download]) -> None:
    write_mex(folder / "filtered_feature_bc_matrix")
    text = "%%MatrixMarket matrix coordinate pattern general\n3 6 1\n1 1\n"
    (folder / "filtered_feature_bc_matrix" / "matrix.mtx.gz").write_bytes(gzip.compress(text.encode()))
    with pytest.raises(CifmError, match="positions of counts without their values"):
        read()


@pytest.mark.parametrize("diameter_um", [55.0, 65.0, 70.0])
def test_spot_diameters_of_real_files_are_accepted(diameter_um: float) -> None:
    scale = derive_scale(Grid(20.0, 34.64), {"spot_diameter_fullres": diameter_um * 0.4}, "here")
    assert scale.microns_per_pixel == 2.5


def test_spot_diameter_of_another_image_is_refused(folder: Path, read: Callable[..., Download]) -> None:
    (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps({"spot_diameter_fullres": SPOT_PX / 6}))
    with pytest.raises(CifmError, match=r"2\.5 um per pixel .*, 15 um per pixel") as caught:
        read()
    assert "--microns-per-pixel" in caught.value.hint
    asked = read(microns_per_pixel=2.0)
    assert asked.units.endswith("x 2 um, as asked")
    assert np.ptp(asked.xy_um[:, 0]) == pytest.approx(np.ptp(XY_UM[:, 0]) * 0.8)


def test_exchanged_array_rows_and_columns_are_refused(folder: Path, read: Callable[..., Download]) -> None:
    table = positions().rename(columns={"array_row": "array_col", "array_col": "array_row"})
    table.to_csv(folder / "spatial" / "tissue_positions.csv", index=False)
    with pytest.raises(CifmError, match="two scales differ by more than 2%"):
        read()


def test_pixels_of_other_spots_are_refused(folder: Path, read: Callable[..., Download]) -> None:
    table = positions()
    table["pxl_row_in_fullres"] = table["pxl_row_in_fullres"].to_numpy()[[4, 0, 5, 1, 2, 3]]
    table.to_csv(folder / "spatial" / "tissue_positions.csv", index=False)
    with pytest.raises(CifmError, match="do not form one grid"):
        read()


def test_spot_diameter_gives_the_scale_if_the_array_does_not() -> None:
    scale = derive_scale(Grid(np.nan, np.nan), {"spot_diameter_fullres": 26.0}, "here")
    assert scale.microns_per_pixel == 2.5
    with pytest.raises(CifmError, match="give the scale"):
        derive_scale(Grid(np.nan, np.nan), {"spot_diameter_fullres": 0.0}, "here")


def lose_first_row(spatial: Path) -> None:
    positions().iloc[1:].to_csv(spatial / "tissue_positions.csv", index=False)


def rename_column(spatial: Path) -> None:
    positions().rename(columns={"pxl_col_in_fullres": "x"}).to_csv(spatial / "tissue_positions.csv", index=False)


def repeat_row(spatial: Path) -> None:
    pd.concat([positions(), positions().iloc[:1]]).to_csv(spatial / "tissue_positions.csv", index=False)


def write_text(spatial: Path) -> None:
    positions().assign(array_row="first").to_csv(spatial / "tissue_positions.csv", index=False)


def lose_scales(spatial: Path) -> None:
    (spatial / "scalefactors_json.json").unlink()


def damage_scales(spatial: Path) -> None:
    (spatial / "scalefactors_json.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lose_first_row, r"no position for 1 of the 6 barcodes of the matrix, such as 'AAAA"),
        (rename_column, "no column pxl_col_in_fullres"),
        (repeat_row, "has two rows"),
        (write_text, "holds text, such as"),
        (lose_scales, "no such file"),
        (damage_scales, "damaged or of another format"),
    ],
)
def test_damage_is_reported(
    folder: Path, read: Callable[..., Download], damage: Callable[[Path], None], words: str
) -> None:
    damage(folder / "spatial")
    with pytest.raises(CifmError, match=words):
        read()


def test_download_without_a_matrix_is_refused(folder: Path, read: Callable[..., Download]) -> None:
    (folder / "raw_feature_bc_matrix.h5").unlink()
    with pytest.raises(CifmError, match=r"without filtered_feature_bc_matrix.h5 or raw_feature_bc_matrix.h5"):
        read()


def test_keep_options_disable_filters(folder: Path, tmp_path: Path) -> None:
    config = PrepareConfig(out=tmp_path / "prepared", radius_um=150.0)
    kept = replace(config, name="all", keep=("outside-tissue", "mitochondrial"))
    slide = ad.read_h5ad(prepare_download(folder, kept).path)
    assert slide.shape == (6, 3)
    assert slide.var_names.tolist() == IDS
