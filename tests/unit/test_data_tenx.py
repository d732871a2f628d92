"""10x matrices in the variants of real files."""

from __future__ import annotations

import gzip
from pathlib import Path

import h5py
import numpy as np
import pytest

from cifm_cli.data.readers.counts import in_memory
from cifm_cli.data.readers.tenx import find_matrix, read_matrix
from cifm_cli.errors import CifmError

# cells x features: two genes and a control
COUNTS = [[1, 0, 0], [0, 0, 2], [3, 4, 0], [0, 0, 0]]
BARCODES = ["aaaa-1", "aaab-1", "aaac-1", "aaad-1"]
IDS = ["ENSG00000010610", "ENSG00000153563", "NegControlProbe_00001"]
SYMBOLS = ["CD4", "CD8A", "NegControlProbe_00001"]
KINDS = ["Gene Expression", "Gene Expression", "Negative Control Probe"]


def write_h5(path: Path, **changes: object) -> Path:
    parts: dict[str, object] = {
        "barcodes": np.array(BARCODES, dtype="S"),
        "data": np.array([1, 2, 3, 4], dtype=np.int32),
        "indices": np.array([0, 2, 0, 1], dtype=np.int64),
        "indptr": np.array([0, 1, 2, 4, 4], dtype=np.int64),
        "shape": np.array([3, 4], dtype=np.int32),
        "features/id": np.array(IDS, dtype="S"),
        "features/name": np.array(SYMBOLS, dtype="S"),
        "features/feature_type": np.array(KINDS, dtype="S"),
        **changes,
    }
    with h5py.File(path, "w") as file:
        for name, values in parts.items():
            if values is not None:
                file.create_dataset(f"matrix/{name}", data=values)
    return path


def write_mex(folder: Path, *, compress: bool, columns: int = 3, ending: str = ".gz") -> Path:
    folder.mkdir()
    rows = ["\t".join(row[:columns]) for row in zip(IDS, SYMBOLS, KINDS, strict=True)]
    entries = [f"{j + 1} {i + 1} {n}" for i, row in enumerate(COUNTS) for j, n in enumerate(row) if n]
    header = ["%%MatrixMarket matrix coordinate integer general", '%metadata_json: {"software_version": "x"}', "3 4 4"]
    texts = {
        "features.tsv" if columns == 3 else "genes.tsv": rows,
        "barcodes.tsv": BARCODES,
        "matrix.mtx": header + entries,
    }
    for name, lines in texts.items():
        content = ("\n".join(lines) + "\n").encode()
        (folder / f"{name}{ending}").write_bytes(gzip.compress(content) if compress else content)
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"barcodes": BARCODES},  # variable length
        {
            name: np.array(v, dtype=float)
            for name, v in [("indices", [0, 2, 0, 1]), ("indptr", [0, 1, 2, 4, 4]), ("shape", [3, 4])]
        },
        {"data": np.array([1, 2, 3, 4], dtype=float)},
        {"indices": np.array([0, 2, 0, 1], dtype=np.uint32), "indptr": np.array([0, 1, 2, 4, 4], dtype=np.uint64)},
        {"indices": np.array([0, 2, 1, 0]), "data": np.array([1, 2, 4, 3])},  # unsorted within a cell
        {"genes": np.array([1, 2])},  # an extra data set
    ],
    ids=["usual", "vlen", "float-index", "float-data", "unsigned", "unsorted", "extra"],
)
def test_h5_variants_read_the_same(tmp_path: Path, changes: dict[str, object]) -> None:
    matrix = read_matrix(write_h5(tmp_path / "m.h5", **changes))
    assert in_memory(matrix.counts).toarray().tolist() == COUNTS
    assert in_memory(matrix.counts).has_sorted_indices
    assert matrix.barcodes.tolist() == BARCODES
    assert matrix.genes["id"].tolist() == IDS
    assert matrix.genes["symbol"].tolist() == SYMBOLS
    assert matrix.genes["feature_type"].tolist() == KINDS


def test_integer_ids_become_text(tmp_path: Path) -> None:
    assert read_matrix(write_h5(tmp_path / "m.h5", barcodes=np.arange(1, 5))).barcodes.tolist() == ["1", "2", "3", "4"]


def test_without_feature_types_all_features_are_genes(tmp_path: Path) -> None:
    matrix = read_matrix(write_h5(tmp_path / "m.h5", **{"features/feature_type": None}))
    assert set(matrix.genes["feature_type"]) == {"Gene Expression"}


@pytest.mark.parametrize(
    ("compress", "columns", "ending"), [(True, 3, ".gz"), (False, 3, ""), (False, 3, ".gz"), (True, 2, ".gz")]
)
def test_mex_variants_read_the_same(tmp_path: Path, compress: bool, columns: int, ending: str) -> None:
    matrix = read_matrix(write_mex(tmp_path / "mex", compress=compress, columns=columns, ending=ending))
    assert in_memory(matrix.counts).toarray().tolist() == COUNTS
    assert matrix.barcodes.tolist() == BARCODES
    assert matrix.genes["symbol"].tolist() == SYMBOLS
    assert matrix.genes["feature_type"].tolist() == (KINDS if columns == 3 else ["Gene Expression"] * 3)
    assert len(matrix.files) == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"barcodes": np.array([*BARCODES[:3], "aaaa-1"], dtype="S")}, "occur twice, the first is 'aaaa-1'"),
        ({"barcodes": np.array(BARCODES[:3], dtype="S")}, "4 x 3 matrix, 3 barcodes"),
        ({"indices": np.array([0, 3, 0, 1])}, "damaged"),
        ({"indices": np.array([0, -1, 0, 1])}, "damaged"),
        ({"indices": np.array([0, 0.5, 0, 1])}, "holds fractions"),
        ({"indptr": np.array([0, 2, 1, 4, 4])}, "damaged"),
        ({"indptr": np.array([0, 1, 2, 4])}, "damaged"),
        ({"data": np.array([1, 2, 3])}, "damaged"),
        ({"indptr": None}, "damaged"),
        ({"features/id": None}, "damaged"),
    ],
)
def test_parts_of_different_sizes_are_refused(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(CifmError, match=words):
        in_memory(read_matrix(write_h5(tmp_path / "m.h5", **changes)).counts)


def test_truncated_h5_is_refused(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "m.h5")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CifmError, match=r"m.h5: damaged"):
        in_memory(read_matrix(path).counts)


def test_error_for_another_h5_lists_its_content(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["spam"] = 1
    with pytest.raises(CifmError, match=r"no group `matrix`.*spam"):
        read_matrix(tmp_path / "m.h5")


def test_missing_mex_part_is_named(tmp_path: Path) -> None:
    folder = write_mex(tmp_path / "mex", compress=True)
    (folder / "barcodes.tsv.gz").unlink()
    with pytest.raises(CifmError, match=r"no barcodes.tsv"):
        read_matrix(folder)


def test_truncated_mex_is_refused(tmp_path: Path) -> None:
    folder = write_mex(tmp_path / "mex", compress=True)
    whole = (folder / "matrix.mtx.gz").read_bytes()
    (folder / "matrix.mtx.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CifmError, match=r"matrix.mtx.gz: damaged"):
        read_matrix(folder)


def test_h5_is_preferred_to_mex(tmp_path: Path) -> None:
    assert find_matrix(tmp_path, "cells") is None
    (tmp_path / "cells").mkdir()
    assert find_matrix(tmp_path, "cells") == tmp_path / "cells"
    write_h5(tmp_path / "cells.h5")
    assert find_matrix(tmp_path, "cells") == tmp_path / "cells.h5"
