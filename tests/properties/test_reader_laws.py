"""Laws of the readers: rotation of the image changes nothing, and damage is refused or harmless."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from random import Random

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.spatial.distance import pdist

from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.readers.base import Download, Reader
from cifm_cli.data.readers.counts import in_memory
from cifm_cli.data.readers.spaceranger import fit_grid
from cifm_cli.data.readers.table import TABLE
from cifm_cli.data.readers.visium import VISIUM, derive_scale
from cifm_cli.data.readers.visium_hd import VISIUM_HD
from cifm_cli.errors import CifmError

ROWS, COLUMNS = 12, 14
IDS = ["ENSG00000010610", "ENSG00000153563", "ENSG00000177455"]
POSITIONS = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]
POSITIONS_CSV, POSITIONS_PARQUET = "spatial/tissue_positions.csv", "spatial/tissue_positions.parquet"
MATRIX, SCALES = "filtered_feature_bc_matrix.h5", "spatial/scalefactors_json.json"
INPUTS = {
    "visium": (VISIUM, (MATRIX, POSITIONS_CSV, SCALES)),
    "visium_hd": (VISIUM_HD, (MATRIX, POSITIONS_PARQUET, SCALES)),
    "table": (TABLE, ("counts.csv", "cells.csv")),
}


def hexagons() -> np.ndarray:
    """Row and column of spots: every second column, shifted in every second row."""
    return np.array([(row, column) for row in range(ROWS) for column in range(row % 2, COLUMNS, 2)])


def spots(positions: np.ndarray, pixels: np.ndarray) -> pd.DataFrame:
    barcodes = [f"{number:016d}-1" for number in range(len(positions))]
    values = [barcodes, 1, positions[:, 0], positions[:, 1], pixels[:, 1], pixels[:, 0]]
    return pd.DataFrame(dict(zip(POSITIONS, values, strict=True)))


def write_matrix(path: Path, barcodes: list[str]) -> None:
    counts = csr_matrix(np.random.default_rng(0).poisson(1.0, (len(barcodes), len(IDS))))
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"], group["shape"] = np.array(barcodes, dtype="S"), np.array(counts.shape[::-1])
        group["data"], group["indices"], group["indptr"] = counts.data, counts.indices, counts.indptr
        for name, values in (("id", IDS), ("name", IDS), ("feature_type", ["Gene Expression"] * 3)):
            group[f"features/{name}"] = np.array(values, dtype="S")


def write_visium(folder: Path) -> None:
    positions = hexagons()
    table = spots(positions, positions[:, ::-1] * [20.0, 34.64] + 300.0)
    table.to_csv(folder / POSITIONS_CSV, index=False)
    write_matrix(folder / MATRIX, table["barcode"].tolist())
    (folder / SCALES).write_text(json.dumps({"spot_diameter_fullres": 26.0}))


def write_visium_hd(folder: Path) -> None:
    positions = np.array([(row, column) for row in range(ROWS) for column in range(COLUMNS)])
    table = spots(positions, positions[:, ::-1] * [32.0, -32.0] + 900.0)
    table.to_parquet(folder / POSITIONS_PARQUET, index=False)
    write_matrix(folder / MATRIX, table["barcode"].tolist())
    (folder / SCALES).write_text(json.dumps({"bin_size_um": 8, "microns_per_pixel": 0.25}))


def write_table(folder: Path) -> None:
    positions = hexagons()
    names = [f"cell-{number}" for number in range(len(positions))]
    counts = pd.DataFrame(np.random.default_rng(1).poisson(1.0, (len(positions), 3)), columns=IDS)
    counts.insert(0, "cell", names)
    counts.to_csv(folder / "counts.csv", index=False)
    cells = pd.DataFrame({"name": names, "center_x": positions[:, 1] * 10.0, "center_y": positions[:, 0] * 17.3})
    cells.iloc[::-1].to_csv(folder / "cells.csv", index=False)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One intact download of each platform."""
    writers = {"visium": write_visium, "visium_hd": write_visium_hd, "table": write_table}
    folders = {name: tmp_path_factory.mktemp(name) for name in writers}
    for name, write in writers.items():
        (folders[name] / "spatial").mkdir()
        write(folders[name])
    return folders


def read(reader: Reader, folder: Path) -> Download:
    if reader is TABLE:
        return TABLE.read(folder / "counts.csv", PrepareConfig(cells=folder / "cells.csv"))
    return reader.read(folder, PrepareConfig())


def same_cells(one: Download, other: Download) -> bool:
    """Whether two downloads hold the same data of each cell."""
    rows = other.obs.index.get_indexer(one.obs.index)
    placed = np.isfinite(one.xy_um).all(axis=1)
    return bool(
        (rows >= 0).all()
        and np.allclose(one.xy_um[placed], other.xy_um[rows][placed], atol=0.05)
        and (in_memory(one.counts) != in_memory(other.counts)[rows]).nnz == 0
        and one.genes["id"].tolist() == other.genes["id"].tolist()
    )


@given(st.floats(0.05, 40.0), st.floats(0, 6.3), st.booleans(), st.floats(-1e5, 1e5), st.randoms(use_true_random=False))
def test_scale_does_not_depend_on_rotation_and_reflection_of_the_image(
    um_per_pixel: float, turn: float, mirrored: bool, shift: float, random: Random
) -> None:
    positions = hexagons()
    xy_um = positions[:, ::-1] * [50.0, 50.0 * np.sqrt(3)]
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    pixels = xy_um * [-1.0 if mirrored else 1.0, 1.0] @ rotation.T / um_per_pixel + shift
    table = spots(positions, pixels).sample(frac=1, random_state=random.randrange(2**32)).set_index("barcode")
    scale = derive_scale(fit_grid(table, Path("here")), {}, "here")
    assert scale.microns_per_pixel == pytest.approx(um_per_pixel, rel=1e-6)
    turned = table[POSITIONS[:3:-1]].to_numpy() * scale.microns_per_pixel
    order = np.argsort(table.index)
    assert np.allclose(pdist(turned[order]), pdist(xy_um), rtol=1e-5, atol=1e-4)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    platform=st.sampled_from(sorted(INPUTS)),
    number=st.integers(0, 2),
    where=st.floats(0, 1, exclude_max=True),
    flip=st.one_of(st.none(), st.integers(1, 255)),
)
def test_damaged_file_is_refused_or_harmless(
    folders: dict[str, Path], platform: str, number: int, where: float, flip: int | None
) -> None:
    reader, files = INPUTS[platform]
    path = folders[platform] / files[number % len(files)]
    whole = path.read_bytes()
    position = int(where * len(whole))
    rest = b"" if flip is None else bytes([whole[position] ^ flip]) + whole[position + 1 :]
    path.write_bytes(whole[:position] + rest)
    try:
        with suppress(CifmError):
            in_memory(read(reader, folders[platform]).counts)
    finally:
        path.write_bytes(whole)


def exchanged(names: list[str], random: Random) -> list[str]:
    one, other = random.sample(range(len(names)), 2)
    names[one], names[other] = names[other], names[one]
    return names


def emptied(table: pd.DataFrame, random: Random) -> pd.DataFrame:
    table = table.astype(object)
    table.iat[random.randrange(len(table)), random.randrange(table.shape[1])] = None
    return table


CHANGES = {
    "rows in another order": lambda table, random: table.sample(frac=1, random_state=random.randrange(2**32)),
    "columns in another order": lambda table, random: table[random.sample(list(table), table.shape[1])],
    "a column renamed": lambda table, random: table.rename(columns={random.choice(list(table)): "other"}),
    "a column lost": lambda table, random: table.drop(columns=random.choice(list(table))),
    "two columns exchanged": lambda table, random: table.set_axis(exchanged(list(table), random), axis=1),
    "a column as text": lambda table, random: table.astype({random.choice(list(table)): str}),
    "numbers as float32": lambda table, _: table.astype(dict.fromkeys(table.select_dtypes("number"), "float32")),
    "rows lost": lambda table, random: table.iloc[: random.randrange(len(table))],
    "a row twice": lambda table, random: pd.concat([table, table.iloc[[random.randrange(len(table))]]]),
    "a field empty": emptied,
}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(INPUTS)), st.sampled_from(sorted(CHANGES)), st.randoms(use_true_random=False))
def test_changed_table_is_refused_or_gives_the_same_cells(
    folders: dict[str, Path], platform: str, change: str, random: Random
) -> None:
    reader, files = INPUTS[platform]
    path = folders[platform] / {"visium": files[1], "visium_hd": files[1], "table": files[1]}[platform]
    whole, intact = path.read_bytes(), read(reader, folders[platform])
    is_parquet = path.suffix == ".parquet"
    table = CHANGES[change](pd.read_parquet(path) if is_parquet else pd.read_csv(path), random)
    with suppress(Exception):  # a change that cannot be written gives no input
        table.to_parquet(path, index=False) if is_parquet else table.to_csv(path, index=False)
    try:
        changed = read(reader, folders[platform])
    except CifmError:
        return
    finally:
        path.write_bytes(whole)
    mirrored = change == "two columns exchanged"  # an exchange of x and y mirrors the image, which is valid
    assert same_cells(changed, intact) or mirrored
