"""Laws of `prepare`: invariances, conservation of counts, and that damage is refused or harmless."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from random import Random

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from example_counts import num_examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from cifm_cli import keys
from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.prepare.genes import plan_genes
from cifm_cli.data.prepare.order import hilbert_order
from cifm_cli.data.prepare.pipeline import prepare_download
from cifm_cli.data.prepare.splits import regional_split
from cifm_cli.data.slide import open_slide
from cifm_cli.errors import CifmError
from cifm_cli.synthetic.downloads import SyntheticTruth, write_xenium

coordinates = st.lists(
    st.tuples(st.floats(-1e4, 1e4, width=32), st.floats(-1e4, 1e4, width=32)), min_size=1, max_size=60
).map(lambda pairs: np.array(pairs, dtype=np.float64))


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SyntheticTruth]:
    folder = tmp_path_factory.mktemp("law") / "tissue"
    return folder, write_xenium(folder, 500, seed=5, num_genes=60)


@pytest.fixture
def copy(download: tuple[Path, SyntheticTruth], tmp_path: Path) -> Path:
    return Path(shutil.copytree(download[0], tmp_path / "tissue"))


def prepared(folder: Path, out: Path) -> ad.AnnData:
    return ad.read_h5ad(prepare_download(folder, PrepareConfig(out=out, force=True)).path)


@given(coordinates)
def test_hilbert_order_is_a_permutation(xy: np.ndarray) -> None:
    assert sorted(hilbert_order(xy)) == list(range(len(xy)))


@given(coordinates, st.randoms(use_true_random=False))
def test_hilbert_order_depends_on_coordinates_only(xy: np.ndarray, random: Random) -> None:
    xy = np.unique(xy, axis=0)
    shuffled = np.array(random.sample(range(len(xy)), len(xy)))
    distinct = np.unique(np.floor((xy - xy.min(axis=0)) * 65535 / ((xy - xy.min(axis=0)).max() or 1)), axis=0)
    if len(distinct) == len(xy):  # cells in one square of the curve keep their order
        assert np.array_equal(xy[shuffled][hilbert_order(xy[shuffled])], xy[hilbert_order(xy)])


@given(coordinates)
def test_regions_do_not_overlap_and_follow_the_thresholds(xy: np.ndarray) -> None:
    regions = regional_split(xy)
    x, y = xy.T
    x_threshold, y_threshold = x.min() + 0.6 * (x.max() - x.min()), y.min() + 0.5 * (y.max() - y.min())
    for region, inside in zip(
        range(3),
        (x <= x_threshold, (x > x_threshold) & (y >= y_threshold), (x > x_threshold) & (y < y_threshold)),
        strict=True,
    ):
        assert np.array_equal(regions == region, inside)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 2**32 - 1))
def test_summing_features_conserves_counts(genes: list[int], seed: int) -> None:
    features = pd.DataFrame(
        {
            "id": [f"ENSG{gene:011d}.{row}" for row, gene in enumerate(genes)],
            "symbol": "A",
            "feature_type": "Gene Expression",
        }
    )
    counts = np.random.default_rng(seed).poisson(0.7, size=(7, len(genes)))
    plan = plan_genes(features)
    summed = plan.apply(csr_matrix(counts)).toarray()
    assert np.array_equal(summed.sum(axis=1), counts.sum(axis=1))
    for column, gene in enumerate(plan.ids):
        assert np.array_equal(summed[:, column], counts[:, np.array(genes) == int(gene[4:])].sum(axis=1))


def test_all_losses_are_reported(download: tuple[Path, SyntheticTruth], tmp_path: Path) -> None:
    folder, truth = download
    result = prepare_download(folder, PrepareConfig(out=tmp_path))
    slide, report = ad.read_h5ad(result.path), result.report
    assert report["cells"]["in"] == report["cells"]["kept"] + sum(report["cells"]["dropped"].values())
    dropped_genes = sum(part["count"] for part in report["genes"]["dropped"].values())
    assert report["genes"]["in"] == report["genes"]["kept"] + dropped_genes + report["genes"]["summed"]["count"]
    rows = slide.obs[keys.DOWNLOAD_ROW].to_numpy()
    assert sorted(rows) == np.flatnonzero(~truth.void).tolist()
    columns = [truth.gene_ids.index(gene) for gene in slide.var_names]
    assert (truth.counts[rows][:, columns] != slide.X).nnz == 0
    assert np.array_equal(slide.obsm[keys.SPATIAL], truth.xy_um[rows])
    assert slide.obs_names.tolist() == truth.barcodes[rows].tolist()
    assert slide.obs[keys.CLUSTER].tolist() == truth.cell_type[rows].tolist()
    assert sum(report["split"].values()) == slide.n_obs


def test_order_of_the_cells_in_the_download_does_not_matter(copy: Path, tmp_path: Path) -> None:
    before = prepared(copy, tmp_path / "out")
    order = np.random.default_rng(0).permutation(500)
    with h5py.File(copy / "cell_feature_matrix.h5", "r+") as file:
        group = file["matrix"]
        matrix = csr_matrix((group["data"][:], group["indices"][:], group["indptr"][:]))[order]
        barcodes = group["barcodes"][:][order]
        for name, values in (
            ("data", matrix.data),
            ("indices", matrix.indices),
            ("indptr", matrix.indptr),
            ("barcodes", barcodes),
        ):
            group[name][:] = values
    after = prepared(copy, tmp_path / "out")
    assert after.obs_names.tolist() == before.obs_names.tolist()
    assert (after.X != before.X).nnz == 0
    pd.testing.assert_frame_equal(after.obs.drop(columns=keys.DOWNLOAD_ROW), before.obs.drop(columns=keys.DOWNLOAD_ROW))


def test_order_of_the_table_of_cells_does_not_matter(copy: Path, tmp_path: Path) -> None:
    before = prepared(copy, tmp_path / "out")
    pd.read_parquet(copy / "cells.parquet").sample(frac=1, random_state=1).to_parquet(
        copy / "cells.parquet", index=False
    )
    after = prepared(copy, tmp_path / "out")
    assert np.array_equal(after.obsm[keys.SPATIAL], before.obsm[keys.SPATIAL])
    pd.testing.assert_frame_equal(after.obs, before.obs)


def test_translation_changes_only_coordinates(copy: Path, tmp_path: Path) -> None:
    before = prepared(copy, tmp_path / "out")
    table = pd.read_parquet(copy / "cells.parquet")
    table[["x_centroid", "y_centroid"]] += [4096.0, -1024.0]
    table.to_parquet(copy / "cells.parquet", index=False)
    after = prepared(copy, tmp_path / "out")
    assert after.obs_names.tolist() == before.obs_names.tolist()
    assert np.allclose(after.obsm[keys.SPATIAL] - [4096.0, -1024.0], before.obsm[keys.SPATIAL], atol=1e-9)


def test_adding_void_cells_changes_nothing(copy: Path, tmp_path: Path) -> None:
    before = prepared(copy, tmp_path / "out")
    with h5py.File(copy / "cell_feature_matrix.h5", "r+") as file:
        group = file["matrix"]
        barcodes, indptr = group["barcodes"][:], group["indptr"][:]
        for name in ("barcodes", "indptr"):
            del group[name]
        group["barcodes"] = np.append(barcodes, [b"zzzz-1", b"zzzy-1"])
        group["indptr"] = np.append(indptr, [indptr[-1]] * 2)
        group["shape"][1] += 2
    table = pd.read_parquet(copy / "cells.parquet")
    extra = table.iloc[:2].assign(cell_id=["zzzz-1", "zzzy-1"], x_centroid=[-500.0, 9e3], y_centroid=[1.0, 2.0])
    extra[[name for name in table if name.endswith("_counts")]] = 0
    pd.concat([table, extra]).to_parquet(copy / "cells.parquet", index=False)
    after = prepared(copy, tmp_path / "out")
    assert after.obs_names.tolist() == before.obs_names.tolist()
    assert (after.obs[keys.SPLIT] == before.obs[keys.SPLIT]).all()


def test_preparing_an_h5ad_of_a_slide_gives_the_slide(copy: Path, tmp_path: Path) -> None:
    first = prepared(copy, tmp_path / "out")
    plain = first.copy()
    del plain.uns[keys.CIFM]
    plain.write_h5ad(tmp_path / "plain.h5ad")
    result = prepare_download(tmp_path / "plain.h5ad", PrepareConfig(out=tmp_path / "again", radius_um=20.0))
    again, slide = ad.read_h5ad(result.path), open_slide(result.path)
    assert again.obs_names.tolist() == first.obs_names.tolist()
    assert (again.X != first.X).nnz == 0
    assert slide.radius_um == 20.0


@settings(max_examples=num_examples(25, thorough=200), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(
        ["cell_feature_matrix.h5", "cells.parquet", "analysis/clustering/gene_expression_graphclust/clusters.csv"]
    ),
    where=st.floats(0, 1, exclude_max=True),
    flip=st.one_of(st.none(), st.integers(1, 255)),
)
def test_damage_is_refused_or_harmless(
    download: tuple[Path, SyntheticTruth], copy: Path, tmp_path: Path, name: str, where: float, flip: int | None
) -> None:
    whole = (download[0] / name).read_bytes()
    position = int(where * len(whole))
    damaged = (
        whole[:position] if flip is None else whole[:position] + bytes([whole[position] ^ flip]) + whole[position + 1 :]
    )
    (copy / name).write_bytes(damaged)
    out = tmp_path / "fuzz"
    with suppress(CifmError):
        prepare_download(copy, PrepareConfig(out=out, force=True))
    (copy / name).write_bytes(whole)
    assert not list(out.glob(".*partial*"))
