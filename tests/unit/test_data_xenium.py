"""Xenium bundles: six cells drawn by hand, in the variants of real bundles."""

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
from cifm_cli.data.slide import open_slide
from cifm_cli.errors import CifmError

#   y 20 |  e . . . f        d is void, c has no cluster
#     10 |  c . d
#      0 |  a . b
#           0  10   20 um
CELLS = {"a": (0, 0), "b": (10, 0), "c": (0, 10), "d": (10, 10), "e": (0, 20), "f": (20, 20)}
IDS = ["ENSG00000010610.4", "ENSG00000153563.1", "ENSG00000198804", "NegControlProbe_00001"]
SYMBOLS = ["CD4", "CD8A", "MT-CO1", "NegControlProbe_00001"]
KINDS = ["Gene Expression"] * 3 + ["Negative Control Probe"]
COUNTS = np.array([[5, 0, 1, 0], [0, 2, 0, 0], [1, 1, 0, 0], [0, 0, 9, 2], [3, 0, 0, 0], [0, 7, 0, 1]])
CLUSTERS = {"a": "1", "b": "2", "e": "10", "f": "2"}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "section"
    write_bundle(folder)
    return folder


def write_bundle(folder: Path, names: list[str] | None = None, kinds: list[str] | None = None) -> None:
    names = names or [f"aaaa{letter}-1" for letter in CELLS]
    folder.mkdir(parents=True)
    write_h5(folder / "cell_feature_matrix.h5", np.array(names, dtype="S"), kinds or KINDS)
    table = cells_table(names)
    table.to_parquet(folder / "cells.parquet", index=False)
    table.to_csv(folder / "cells.csv.gz", index=False)
    (folder / "experiment.xenium").write_text(json.dumps({"num_cells": 6, "analysis_sw_version": "a word"}))
    clusters = folder / "analysis/clustering/gene_expression_graphclust"
    clusters.mkdir(parents=True)
    rows = [f"{name},{CLUSTERS[letter]}" for name, letter in zip(names, CELLS, strict=True) if letter in CLUSTERS]
    (clusters / "clusters.csv").write_text("\n".join(["Barcode,Cluster", *rows]))


def write_h5(path: Path, barcodes: np.ndarray, kinds: list[str]) -> None:
    row, column = COUNTS.nonzero()
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"], group["data"], group["indices"] = barcodes, COUNTS[row, column], column
        group["indptr"] = np.concatenate([[0], np.cumsum((COUNTS > 0).sum(axis=1))])
        group["shape"] = np.array(COUNTS.T.shape)
        for name, values in (("id", IDS), ("name", SYMBOLS), ("feature_type", kinds)):
            group[f"features/{name}"] = np.array(values, dtype="S")


def cells_table(names: list[str]) -> pd.DataFrame:
    x, y = np.array(list(CELLS.values()), dtype=float).T
    table = pd.DataFrame({"cell_id": names, "x_centroid": x, "y_centroid": y})
    return table.assign(total_counts=COUNTS.sum(axis=1), cell_area=50.0).iloc[::-1]  # in another order than the matrix


def prepare(folder: Path, config: PrepareConfig | None = None) -> ad.AnnData:
    config = replace(config or PrepareConfig(), out=folder.parent / "prepared")
    return ad.read_h5ad(prepare_download(folder, config).path)


def by_letter(slide: ad.AnnData) -> dict[str, int]:
    return {str(name)[4]: row for row, name in enumerate(slide.obs_names)}


def test_six_cells_by_hand(bundle: Path) -> None:
    slide = prepare(bundle)
    row = by_letter(slide)
    assert sorted(row) == ["a", "b", "c", "e", "f"]
    assert slide.var_names.tolist() == ["ENSG00000010610", "ENSG00000153563"]
    assert slide.var[keys.SYMBOL].tolist() == ["CD4", "CD8A"]
    for letter, rows in row.items():
        origin = list(CELLS).index(letter)
        assert slide.X[rows].toarray().ravel().tolist() == COUNTS[origin, :2].tolist()
        assert tuple(slide.obsm[keys.SPATIAL][rows]) == CELLS[letter]
        assert slide.obs[keys.DOWNLOAD_ROW].iloc[rows] == origin
        assert slide.obs[keys.TOTAL_COUNTS].iloc[rows] == COUNTS[origin, :2].sum()
        assert slide.obs["input_total_counts"].iloc[rows] == COUNTS[origin].sum()
        assert slide.obs["cell_area"].iloc[rows] == 50.0
    # x to 20: train up to 12; of the rest, y to 20: validation from 10
    assert {letter: slide.obs[keys.SPLIT].iloc[rows] for letter, rows in row.items()} == {
        **dict.fromkeys("abce", keys.TRAIN),
        "f": keys.VALIDATION,
    }
    clusters = slide.obs[keys.CLUSTER]
    assert clusters.cat.categories.tolist() == ["1", "2", "10"]
    assert {letter: clusters.iloc[rows] for letter, rows in row.items() if letter != "c"} == CLUSTERS
    assert clusters.isna().sum() == 1
    about = slide.uns[keys.CIFM]
    assert (about[keys.FORMAT], about[keys.PLATFORM], about[keys.RADIUS_UM]) == (keys.PREPARED_FORMAT, "xenium", 20.0)
    assert about[keys.SAMPLE] == "section"


def test_report_counts_all_cells_and_genes(bundle: Path) -> None:
    result = prepare_download(bundle, PrepareConfig(out=bundle.parent / "prepared"))
    report = result.report
    assert report["cells"] == {"in": 6, "dropped": {"void (no counts)": 1}, "kept": 5, "duplicate_coordinates": 0}
    assert report["genes"]["in"] == 4
    assert report["genes"]["kept"] == 2
    assert report["genes"]["dropped"] == {
        "mitochondrial": {"count": 1, "names": ["MT-CO1"]},
        "Negative Control Probe": {"count": 1, "names": ["NegControlProbe_00001"]},
    }
    assert report["split"] == {keys.TRAIN: 4, keys.VALIDATION: 1, keys.TEST: 0, keys.BUFFER: 0}
    assert (report["median_counts"], report["median_genes"]) == (3.0, 1.0)
    assert report["warnings"] == [
        "only 2.4 neighbours per cell within 20 um: check the units, or --radius-um",  # 3 + 2 + 3 + 3 + 1 over 5
        "no cell lies in the region test",
    ]
    assert report == json.loads(ad.read_h5ad(result.path).uns[keys.CIFM][keys.REPORT])


def test_prepared_slide_opens(bundle: Path) -> None:
    result = prepare_download(bundle, PrepareConfig(out=bundle.parent / "prepared", condition="tumour", sample="p1"))
    slide = open_slide(result.path)
    assert slide.name == "section"
    assert (slide.num_cells, slide.num_genes, slide.radius_um) == (5, 2, 20.0)
    assert slide.facts == {keys.PLATFORM: "xenium", keys.TISSUE: "", keys.CONDITION: "tumour", keys.SAMPLE: "p1"}
    assert slide.counts(np.arange(5)).sum() == COUNTS[[0, 1, 2, 4, 5], :2].sum()


@pytest.mark.parametrize(
    ("declared", "given", "expected"),
    [
        ("Breast", "", "Breast"),
        ("Breast", "lymph node", "lymph node"),
        (None, "", ""),
        (["Breast"], "", ""),
        ("a\0b", "", ""),
        ("x" * 1000, "", ""),
    ],
)
def test_the_tissue_is_that_of_the_panel_unless_the_user_names_one(
    bundle: Path, declared: object, given: str, expected: str
) -> None:
    (bundle / "experiment.xenium").write_text(json.dumps({"num_cells": 6, "panel_tissue_type": declared}))
    result = prepare_download(bundle, PrepareConfig(out=bundle.parent / "prepared", tissue=given))
    facts = open_slide(result.path).facts
    assert facts is not None
    assert facts[keys.TISSUE] == expected
    noted = [note for note in result.report["notes"] if note.startswith("tissue: Breast")]
    assert len(noted) == (expected == "Breast")


def change_nothing(folder: Path) -> None: ...


def only_csv(folder: Path) -> None:
    (folder / "cells.parquet").unlink()


def csv_with_row_numbers_from_r(folder: Path) -> None:
    only_csv(folder)
    table = pd.read_csv(folder / "cells.csv.gz")
    table.index += 1
    table.to_csv(folder / "cells.csv.gz")


def plain_csv(folder: Path) -> None:
    only_csv(folder)
    (folder / "cells.csv").write_bytes(gzip.decompress((folder / "cells.csv.gz").read_bytes()))
    (folder / "cells.csv.gz").unlink()


def gz_that_is_not_gzip(folder: Path) -> None:
    plain_csv(folder)
    (folder / "cells.csv").rename(folder / "cells.csv.gz")


def bytes_ids(folder: Path) -> None:
    table = pd.read_parquet(folder / "cells.parquet")
    table["cell_id"] = [name.encode() for name in table["cell_id"]]
    table.to_parquet(folder / "cells.parquet", index=False)


def no_experiment(folder: Path) -> None:
    (folder / "experiment.xenium").unlink()


@pytest.mark.parametrize(
    "change",
    [change_nothing, only_csv, csv_with_row_numbers_from_r, plain_csv, gz_that_is_not_gzip, bytes_ids, no_experiment],
)
def test_variants_of_the_bundle_prepare_the_same(bundle: Path, change: Callable[[Path], None]) -> None:
    expected = prepare(bundle)
    change(bundle)
    slide = prepare(bundle, PrepareConfig(force=True))
    assert slide.obs_names.tolist() == expected.obs_names.tolist()
    assert (slide.X != expected.X).nnz == 0
    assert np.array_equal(slide.obsm[keys.SPATIAL], expected.obsm[keys.SPATIAL])
    pd.testing.assert_frame_equal(slide.obs, expected.obs)


@pytest.mark.parametrize("kept", ["cells.parquet", "cells.csv.gz"])
def test_integer_ids_of_any_type_match(tmp_path: Path, kept: str) -> None:
    folder = tmp_path / "old"
    write_bundle(folder, names=[str(number) for number in range(1, 7)])
    table = cells_table([str(number) for number in range(1, 7)]).assign(cell_id=np.arange(6, 0, -1))
    for name in ("cells.parquet", "cells.csv.gz"):
        (folder / name).unlink()
    table.to_parquet(folder / kept, index=False) if kept.endswith("parquet") else table.to_csv(
        folder / kept, index=False
    )
    slide = prepare(folder)
    assert sorted(slide.obs_names) == ["1", "2", "3", "5", "6"]
    place = dict(zip(slide.obs_names, slide.obsm[keys.SPATIAL].tolist(), strict=True))
    assert place["2"] == [10.0, 0.0]


def test_controls_are_recognised_by_name(tmp_path: Path) -> None:
    write_bundle(tmp_path / "old", kinds=["Gene Expression"] * 4)
    result = prepare_download(tmp_path / "old", PrepareConfig(out=tmp_path / "prepared"))
    assert result.report["genes"]["dropped"]["control by name"]["names"] == ["NegControlProbe_00001"]


def test_bundle_in_a_folder_outs(tmp_path: Path) -> None:
    write_bundle(tmp_path / "tumour_1" / "outs")
    for download in (tmp_path / "tumour_1", tmp_path / "tumour_1" / "outs"):
        result = prepare_download(download, PrepareConfig(out=tmp_path / "prepared"))
        assert result.path == tmp_path / "prepared" / "tumour_1.h5ad"
    assert result.up_to_date


def test_cell_without_position_is_dropped_and_counted(bundle: Path) -> None:
    table = pd.read_parquet(bundle / "cells.parquet")
    table.loc[table["cell_id"] == "aaaab-1", "x_centroid"] = np.nan
    table.to_parquet(bundle / "cells.parquet", index=False)
    result = prepare_download(bundle, PrepareConfig(out=bundle.parent / "prepared"))
    assert result.report["cells"]["dropped"] == {"no position": 1, "void (no counts)": 1}


def test_cells_with_equal_coordinates_are_kept_and_counted(bundle: Path) -> None:
    table = pd.read_parquet(bundle / "cells.parquet")
    table.loc[table["cell_id"] == "aaaab-1", "x_centroid"] = 0.0
    table.to_parquet(bundle / "cells.parquet", index=False)
    (bundle / "cells.csv.gz").unlink()  # as it would contradict the other table
    cells = prepare_download(bundle, PrepareConfig(out=bundle.parent / "prepared")).report["cells"]
    assert (cells["kept"], cells["duplicate_coordinates"]) == (5, 1)


def test_crop_keeps_the_cells_of_a_rectangle(bundle: Path) -> None:
    slide = prepare(bundle, PrepareConfig(crop=(0.0, 0.0, 10.0, 10.0)))
    assert sorted(by_letter(slide)) == ["a", "b", "c"]


def test_scale_is_applied(bundle: Path) -> None:
    slide = prepare(bundle, PrepareConfig(microns_per_pixel=0.5))
    assert slide.obsm[keys.SPATIAL].max() == 10.0


def drop_matrix(folder: Path) -> None:
    (folder / "cell_feature_matrix.h5").unlink()


def drop_cells(folder: Path) -> None:
    for name in ("cells.parquet", "cells.csv.gz"):
        (folder / name).unlink()


def cut_matrix(folder: Path) -> None:
    path = folder / "cell_feature_matrix.h5"
    path.write_bytes(path.read_bytes()[:3000])


def cut_cells(folder: Path) -> None:
    path = folder / "cells.parquet"
    path.write_bytes(path.read_bytes()[:-40])


def other_cells(folder: Path) -> None:
    table = pd.read_parquet(folder / "cells.parquet")
    table["cell_id"] = ["aaaaa-1", "aaaab-1", "zzzzz-1", "zzzzy-1", "zzzzx-1", "zzzzw-1"]
    table.to_parquet(folder / "cells.parquet", index=False)


def cells_twice(folder: Path) -> None:
    table = pd.read_parquet(folder / "cells.parquet")
    pd.concat([table, table]).to_parquet(folder / "cells.parquet", index=False)


def no_coordinates(folder: Path) -> None:
    table = pd.read_parquet(folder / "cells.parquet").rename(columns={"y_centroid": "y"})
    table.to_parquet(folder / "cells.parquet", index=False)


def words_for_numbers(folder: Path) -> None:
    table = pd.read_parquet(folder / "cells.parquet").assign(x_centroid="1,5")
    table.to_parquet(folder / "cells.parquet", index=False)


def pixels(folder: Path) -> None:
    table = pd.read_parquet(folder / "cells.parquet")
    table[["x_centroid", "y_centroid"]] /= 0.2125
    table.to_parquet(folder / "cells.parquet", index=False)


def negative_count(folder: Path) -> None:
    with h5py.File(folder / "cell_feature_matrix.h5", "r+") as file:
        file["matrix/data"][2] = -4


def broken_experiment(folder: Path) -> None:
    (folder / "experiment.xenium").write_text("{")


def broken_clusters(folder: Path) -> None:
    (folder / "analysis/clustering/gene_expression_graphclust/clusters.csv").write_text("Zellen,Gruppe\n1,2\n")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (drop_matrix, "without cell_feature_matrix.h5"),
        (drop_cells, "without cells.parquet or cells.csv.gz"),
        (cut_matrix, "cell_feature_matrix.h5: damaged"),
        (cut_cells, "cells.parquet: damaged"),
        (other_cells, "2 of the 6 barcodes of the matrix are among its 6 cells"),
        (cells_twice, "has two rows"),
        (no_coordinates, "no column y_centroid .it has cell_id, x_centroid, y,"),
        (words_for_numbers, "column x_centroid holds text"),
        (pixels, "too sparse for micrometres: median distance to the nearest cell 47.06"),
        (negative_count, "-4 in cell 'aaaab-1', gene 'CD8A'"),
        (broken_experiment, "experiment.xenium: damaged"),
        (broken_clusters, "clusters.csv: damaged"),
    ],
)
def test_damaged_bundle_is_refused_and_leaves_no_files(
    bundle: Path, damage: Callable[[Path], None], words: str
) -> None:
    damage(bundle)
    with pytest.raises(CifmError, match=words) as caught:
        prepare(bundle)
    assert caught.value.hint
    assert not (bundle.parent / "prepared").exists()
