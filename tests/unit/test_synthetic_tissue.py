"""The synthetic tissue: reproducible bytes, and its truth read from the download."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.spatial import cKDTree

from cifm_cli.data.readers.counts import in_memory
from cifm_cli.data.readers.xenium import XENIUM
from cifm_cli.provenance import hash_file
from cifm_cli.synthetic.downloads import SyntheticTruth, write_xenium
from cifm_cli.synthetic.expression import panel
from cifm_cli.synthetic.tissue import EFFECTS, MARKERS, MITOCHONDRIAL, UBIQUITOUS, Effect


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SyntheticTruth]:
    folder = tmp_path_factory.mktemp("planted") / "tissue"
    return folder, write_xenium(folder, 4_000, seed=1)


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    hashes = []
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        write_xenium(tmp_path / name, 300, seed=seed)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        hashes.append({path.relative_to(tmp_path / name).as_posix(): hash_file(path) for path in files})
    assert hashes[0] == hashes[1]
    assert hashes[0]["cells.parquet"] != hashes[2]["cells.parquet"]


def test_files_are_consistent(planted: tuple[Path, SyntheticTruth]) -> None:
    folder, truth = planted
    cells = pd.read_parquet(folder / "cells.parquet")
    pd.testing.assert_frame_equal(cells, pd.read_csv(folder / "cells.csv.gz"))
    assert cells["cell_id"].tolist() == truth.barcodes.tolist()
    assert cells["cell_id"].is_unique
    assert cells["cell_id"].str.fullmatch("[a-p]{8}-1").all()
    with h5py.File(folder / "cell_feature_matrix.h5") as file:
        sums = np.add.reduceat(np.append(file["matrix/data"][:], 0), file["matrix/indptr"][:-1])
        sums[np.diff(file["matrix/indptr"][:]) == 0] = 0
    assert cells["total_counts"].tolist() == sums.tolist()
    clusters = pd.read_csv(folder / "analysis/clustering/gene_expression_graphclust/clusters.csv")
    assert len(clusters) == (~truth.void).sum()


def test_reader_returns_the_truth(planted: tuple[Path, SyntheticTruth]) -> None:
    from cifm_cli.data.prepare.config import PrepareConfig

    folder, truth = planted
    download = XENIUM.read(folder, PrepareConfig())
    assert (in_memory(download.counts)[:, : len(truth.gene_ids)] != truth.counts).nnz == 0
    assert np.array_equal(download.xy_um, truth.xy_um)
    assert download.obs["cell_type"].tolist() == truth.cell_type.tolist()


def test_depth_density_and_void_fraction_are_realistic(planted: tuple[Path, SyntheticTruth]) -> None:
    _, truth = planted
    depth = np.asarray(truth.counts.sum(axis=1)).ravel()
    assert 40 <= np.median(depth) <= 80
    assert (depth[truth.void] == 0).all()
    assert 0.003 < truth.void.mean() < 0.03
    degree = cKDTree(truth.xy_um).count_neighbors(cKDTree(truth.xy_um), 20.0) / len(depth) - 1
    assert 8 < degree < 20


def test_all_types_occur_and_express_their_markers(planted: tuple[Path, SyntheticTruth]) -> None:
    _, truth = planted
    symbols = list(truth.symbols)
    for kind, markers in MARKERS.items():
        of_kind = truth.cell_type == kind
        assert of_kind.sum() > 10, kind
        columns = [symbols.index(marker) for marker in markers.split()]
        fraction = np.asarray(truth.counts[:, columns].sum(axis=1)).ravel() / np.maximum(truth.counts.sum(axis=1).A1, 1)
        assert fraction[of_kind].mean() > 3 * fraction[~of_kind].mean(), kind


def test_types_depend_on_neighbours(planted: tuple[Path, SyntheticTruth]) -> None:
    _, truth = planted
    near = cKDTree(truth.xy_um).query(truth.xy_um, k=7)[1][:, 1:]
    fraction = (truth.cell_type[near] == "t_cell").mean(axis=1)
    crowded, total = fraction[truth.cell_type == "t_cell"].mean(), (truth.cell_type == "t_cell").mean()
    assert crowded > 1.5 * total
    stroma = truth.domain == "stroma"  # within one domain, so that domains alone do not explain it
    macrophages = (truth.cell_type[near] == "macrophage").mean(axis=1)
    is_t = truth.cell_type == "t_cell"
    assert macrophages[stroma & is_t].mean() > macrophages[stroma & ~is_t].mean()


@pytest.mark.parametrize(
    "effect", [effect for effect in EFFECTS if effect.receiver in {"tumour", "fibroblast", "macrophage"}]
)
def test_genes_respond_to_neighbours(planted: tuple[Path, SyntheticTruth], effect: Effect) -> None:
    _, truth = planted
    receivers = np.flatnonzero((truth.cell_type == effect.receiver) & ~truth.void)
    senders = cKDTree(truth.xy_um[truth.cell_type == effect.sender])
    received = np.array([len(near) for near in senders.query_ball_point(truth.xy_um[receivers], 25.0)])
    gene = truth.counts[receivers, truth.symbols.index(effect.gene)].toarray().ravel()
    depth = np.asarray(truth.counts[receivers].sum(axis=1)).ravel()
    near, far = received >= 3, received == 0
    assert (gene[near].sum() / depth[near].sum()) > 1.5 * (gene[far].sum() / depth[far].sum())


def test_panel_has_real_genes_and_markers_of_all_types() -> None:
    genes = panel()
    assert genes["id"].str.fullmatch(r"ENSG\d{11}").all()
    assert genes["id"].is_unique
    named = {name for words in (*MARKERS.values(), UBIQUITOUS, MITOCHONDRIAL) for name in words.split()}
    assert set(genes["symbol"]) == named
    first = set(genes["symbol"][:40])
    for kind, markers in MARKERS.items():
        assert len(first & set(markers.split())) >= 3, kind


def test_smaller_panel(tmp_path: Path) -> None:
    truth = write_xenium(tmp_path / "small", 200, seed=0, num_genes=50)
    assert truth.counts.shape == (200, 50)
    assert len(truth.symbols) == 50


@pytest.mark.data
def test_ids_of_the_panel_are_from_gencode(shared_data: Path) -> None:
    table = pd.read_csv(
        shared_data / "gene_tables" / "GENCODEv44_Gene_id2name.csv", header=None, names=["id", "symbol"]
    )
    expected = table.drop_duplicates("symbol").set_index("symbol")["id"]
    genes = panel()
    assert genes["id"].tolist() == expected[genes["symbol"]].tolist()
