"""Columns of cells with a meaning: `in_tissue`, flags of other programs, names of coordinates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import jittered_tissue, write_tissue

from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.prepare.pipeline import prepare_download
from cifm_cli.data.readers.cell_flags import read_flags
from cifm_cli.data.readers.centre_columns import read_places
from cifm_cli.errors import CifmError

XY = jittered_tissue(20, 20, 0)
INSIDE = np.arange(400) % 3 > 0


@pytest.mark.parametrize(
    "values",
    [
        INSIDE,
        INSIDE.astype(int),
        INSIDE.astype(float),
        INSIDE.astype(str),
        INSIDE.astype(int).astype(str),
        pd.Categorical(INSIDE.astype(int)),
        pd.Categorical(INSIDE.astype(str)),
        pd.array(INSIDE, dtype="boolean"),
    ],
)
def test_cells_outside_the_tissue_are_dropped_and_counted(tmp_path: Path, values: object) -> None:
    path = write_tissue(tmp_path / "x.h5ad", XY, in_tissue=values)
    result = prepare_download(path, PrepareConfig(out=tmp_path / "out"))
    assert result.report["cells"]["dropped"] == {"not in tissue": int((~INSIDE).sum())}
    kept = prepare_download(path, PrepareConfig(out=tmp_path / "kept", keep=("outside-tissue",)))
    assert kept.report["cells"]["kept"] == 400


def test_missing_and_other_values_of_in_tissue() -> None:
    flags = read_flags(pd.DataFrame({"In_Tissue": [1.0, np.nan, 0.0]}))
    assert flags.in_tissue.tolist() == [True, True, False]
    assert flags.notes == ("1 cells have no value in 'In_Tissue' and count as in the tissue",)
    flags = read_flags(pd.DataFrame({"in_tissue": [0.2, 0.9]}))
    assert flags.in_tissue is None
    assert "other values than 0 and 1" in flags.notes[0]


def test_flags_of_other_programs_are_only_pointed_out() -> None:
    obs = pd.DataFrame(
        {"predicted_doublet": [True, False, False], "passed_filter": ["1", "1", "1"], "counts": [1, 0, 5]}
    )
    flags = read_flags(obs)
    assert flags.in_tissue is None
    assert flags.notes == ("obs column 'predicted_doublet' is true for 1 of 3 cells; it does not drop cells",)


@pytest.mark.parametrize(
    "names",
    [("cell", "x", "y"), ("y", "cell", "x"), ("Y_centroid", "X_centroid", "area"), ("row", "y_um", "x_um")],
)
def test_columns_of_places_are_read_by_name(names: tuple[str, ...]) -> None:
    values = {"x": XY[:, 0], "y": XY[:, 1]}
    table = pd.DataFrame({name: values.get(name[0].lower(), np.arange(400.0)) for name in names})
    places = read_places(table, 400, "x.h5ad")
    assert np.array_equal(places.xy, XY)
    assert places.z is None


def test_table_of_places_in_a_file(tmp_path: Path) -> None:
    table = pd.DataFrame({"cell": np.arange(400), "x": XY[:, 0], "y": XY[:, 1]}, index=[f"cell{n}" for n in range(400)])
    table.iloc[5, 1] = np.nan
    result = prepare_download(write_tissue(tmp_path / "x.h5ad", table), PrepareConfig(out=tmp_path / "out"))
    assert result.report["cells"]["dropped"] == {"no position": 1}
    assert result.report["units"]["derivation"] == "x, y of obsm['spatial']: micrometres"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (pd.DataFrame({"a": [1.0], "b": [2.0]}), "has columns a, b, and two of them must be x and y"),
        (pd.DataFrame({"cell": [1.0], "x": [2.0], "row": [2.0]}), "two of them must be x and y"),
        (pd.DataFrame([[1.0, 2.0, 3.0]], columns=["x", "x", "y"]), "several columns x"),
        (pd.DataFrame({"x": ["a"], "y": ["b"]}), "not a number"),
        (np.zeros((1, 1)), "1 columns"),
        (np.zeros((1, 4)), "4 columns"),
        (np.zeros((2, 2)), "do not fit"),
        (np.zeros(1), "do not fit"),
    ],
)
def test_ambiguous_places_are_refused(table: object, words: str) -> None:
    with pytest.raises(CifmError, match=words) as caught:
        read_places(table, 1, "x.h5ad")
    assert caught.value.hint


def test_numbered_columns_and_depth() -> None:
    assert read_places(pd.DataFrame({"spatial_1": [1.0], "spatial_2": [2.0]}), 1, "x").xy.tolist() == [[1.0, 2.0]]
    with_depth = read_places(pd.DataFrame({"z": [3.0], "x": [1.0], "y": [2.0]}), 1, "x")
    assert (with_depth.xy.tolist(), with_depth.z.tolist()) == ([[1.0, 2.0]], [3.0])
    assert read_places(np.array([[1, 2, 3]]), 1, "x").z.tolist() == [3.0]
