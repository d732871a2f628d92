"""One synthetic tissue in the four layouts of 10x: all are prepared, hold the same cells, and contain the planted effects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree
from scipy.stats import spearmanr

from cifm_cli.app import main
from cifm_cli.provenance import hash_file
from cifm_cli.synthetic.downloads import WRITERS, PlantedCells, SyntheticTruth, write_download, write_xenium
from cifm_cli.synthetic.expression import choose_genes, panel
from cifm_cli.synthetic.tissue import EFFECTS, MARKERS, MITOCHONDRIAL, Effect

NUM_CELLS = 12_000
SEED = 5
# Genes of tumour cells and macrophages that respond to neighbours, expressed enough to be measured in 12,000 cells.
READABLE = [effect for effect in EFFECTS if effect.gene in {"CD274", "CXCL10", "SPP1", "FAP"}]


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> SyntheticTruth:
    """The planted cells of the tissue, which is written as Xenium V1."""
    return write_xenium(tmp_path_factory.mktemp("truth") / "xenium", NUM_CELLS, SEED)


@pytest.fixture(scope="module")
def folder(build_once: Callable[..., Path]) -> Path:
    """Downloads in all layouts, and the slides prepared from them in one call."""

    def write(downloads: Path) -> None:
        for platform in WRITERS:
            write_download(downloads / platform, platform, NUM_CELLS, SEED)
        words = ["prepare", *(str(downloads / platform) for platform in WRITERS)]
        assert main([*words, "--out", str(downloads / "prepared")]) == 0

    return build_once("layouts", write)


@pytest.fixture(scope="module")
def prepared(folder: Path) -> dict[str, ad.AnnData]:
    """The prepared slides by platform."""
    return {platform: ad.read_h5ad(folder / "prepared" / f"{platform}.h5ad") for platform in WRITERS}


def is_not_mitochondrial(truth: PlantedCells) -> list[bool]:
    """Return for each gene whether the mitochondrial filter keeps it."""
    return [symbol not in MITOCHONDRIAL.split() for symbol in truth.symbols]


def fraction_of(slide: ad.AnnData, symbols: str) -> NDArray[np.float64]:
    """Return the fraction of each cell's counts in the given genes, shape (N,)."""
    columns = slide.var["symbol"].isin(symbols.split()).to_numpy()
    return np.asarray(slide.X[:, columns].sum(axis=1)).ravel() / slide.obs["total_counts"].to_numpy()


@pytest.mark.parametrize("platform", list(WRITERS))
def test_same_seed_same_bytes(platform: str, tmp_path: Path) -> None:
    hashes = []
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        write_download(tmp_path / name, platform, 300, seed)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        hashes.append({path.relative_to(tmp_path / name).as_posix(): hash_file(path) for path in files})
    assert hashes[0] == hashes[1]
    assert hashes[0] != hashes[2]


@pytest.mark.parametrize(
    ("platform", "reader", "num_genes", "radius_um"),
    [
        ("visium", "visium", 187, 150.0),
        ("visium_hd", "visium_hd", 187, 20.0),
        ("xenium", "xenium", 187, 20.0),
        ("xenium_prime", "xenium", 5_000, 20.0),
    ],
)
def test_all_layouts_are_recognised(
    prepared: dict[str, ad.AnnData], platform: str, reader: str, num_genes: int, radius_um: float
) -> None:
    slide = prepared[platform]
    about = slide.uns["cifm"]
    assert (about["platform"], about["radius_um"]) == (reader, radius_um)
    assert slide.n_vars == num_genes - len(MITOCHONDRIAL.split())


def test_xenium_and_prime_hold_the_same_molecules(prepared: dict[str, ad.AnnData], truth: SyntheticTruth) -> None:
    v1, prime = prepared["xenium"], prepared["xenium_prime"]
    # A cell may be void on the panel but not on all genes, so cells are matched by their coordinates.
    positions = pd.MultiIndex.from_arrays(prime.obsm["spatial"].T)
    rows = positions.get_indexer(pd.MultiIndex.from_arrays(v1.obsm["spatial"].T))
    assert (rows >= 0).all()
    assert (prime.X[rows][:, prime.var_names.get_indexer(v1.var_names)] != v1.X).nnz == 0
    is_expressed = np.asarray(truth.counts[:, is_not_mitochondrial(truth)].sum(axis=1)).ravel() > 0
    assert v1.n_obs == is_expressed.sum()
    expressed = np.diff(prime.X.indptr)
    assert 250 < np.median(expressed) < 400


def test_spot_is_the_sum_of_the_cells_it_covers(
    prepared: dict[str, ad.AnnData], folder: Path, truth: SyntheticTruth
) -> None:
    slide = prepared["visium"]
    under = cKDTree(truth.xy_um).query_ball_point(slide.obsm["spatial"], 27.5)
    rows, columns = np.repeat(np.arange(len(under)), [len(cells) for cells in under]), np.concatenate(under).astype(int)
    member = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(under), NUM_CELLS))
    assert ((member @ truth.counts)[:, is_not_mitochondrial(truth)] != slide.X).nnz == 0
    positions = pd.read_csv(folder / "visium/spatial/tissue_positions.csv")
    assert positions["in_tissue"].sum() == slide.n_obs < len(positions)
    assert ((positions["array_row"] + positions["array_col"]) % 2 == 0).all()
    nearest = cKDTree(slide.obsm["spatial"]).query(slide.obsm["spatial"], k=2)[0][:, 1]
    assert np.allclose(nearest, 100.0, atol=1e-3)


def test_bins_hold_each_molecule_once(prepared: dict[str, ad.AnnData], folder: Path, truth: SyntheticTruth) -> None:
    slide = prepared["visium_hd"]
    assert np.array_equal(slide.X.sum(axis=0).A1, truth.counts[:, is_not_mitochondrial(truth)].sum(axis=0).A1)
    positions = slide.obsm["spatial"] / 8.0 - 0.5
    assert np.abs(positions - np.round(positions)).max() < 1e-6
    assert slide.obs_names.str.fullmatch(r"s_008um_\d{5}_\d{5}-1").all()
    positions = pd.read_parquet(folder / "visium_hd/binned_outputs/square_008um/spatial/tissue_positions.parquet")
    assert slide.n_obs <= positions["in_tissue"].sum() < len(positions)
    assert 1.3 < slide.n_obs / NUM_CELLS < 1.9


def test_spots_and_bins_have_the_same_composition_at_the_same_position(
    prepared: dict[str, ad.AnnData], truth: SyntheticTruth
) -> None:
    spots, bins = prepared["visium"], prepared["visium_hd"]
    near = cKDTree(bins.obsm["spatial"]).query_ball_point(spots.obsm["spatial"], 27.5)
    cells = cKDTree(truth.xy_um).query_ball_point(spots.obsm["spatial"], 27.5)
    for kind in ("tumour", "acinar", "fibroblast"):
        in_spots, in_bins = fraction_of(spots, MARKERS[kind]), fraction_of(bins, MARKERS[kind])
        summed = np.array([in_bins[some].mean() for some in near])
        planted = np.array([(truth.cell_type[some] == kind).mean() for some in cells])
        assert spearmanr(in_spots, summed).statistic > 0.8, kind
        assert spearmanr(in_spots, planted).statistic > 0.6, kind


@pytest.mark.parametrize("platform", ["xenium", "xenium_prime"])
def test_t_cells_are_more_frequent_beside_macrophages(prepared: dict[str, ad.AnnData], platform: str) -> None:
    slide = prepared[platform]
    kinds = slide.obs["cell_type"].astype(str).to_numpy()
    near = kinds[cKDTree(slide.obsm["spatial"]).query(slide.obsm["spatial"], k=7)[1][:, 1:]]
    beside_macrophage = (near == "macrophage").any(axis=1)
    fibroblast_side = (near == "fibroblast").sum(axis=1) >= 2  # in stroma, so that domains alone do not explain it
    fraction = {
        beside: (kinds[fibroblast_side & (beside_macrophage == beside)] == "t_cell").mean() for beside in (True, False)
    }
    assert fraction[True] > 1.2 * fraction[False]


@pytest.mark.parametrize("platform", ["xenium", "xenium_prime"])
@pytest.mark.parametrize("effect", READABLE, ids=lambda effect: effect.gene)
def test_receivers_express_more_beside_senders(prepared: dict[str, ad.AnnData], platform: str, effect: Effect) -> None:
    slide = prepared[platform]
    kinds = slide.obs["cell_type"].astype(str).to_numpy()
    receivers = slide[kinds == effect.receiver]
    senders = cKDTree(slide.obsm["spatial"][kinds == effect.sender])
    near = senders.query_ball_point(receivers.obsm["spatial"], 25.0, return_length=True)
    fraction = fraction_of(receivers, effect.gene)
    assert fraction[near >= 3].mean() > 1.8 * fraction[near == 0].mean()


@pytest.mark.parametrize(("platform", "reach_um"), [("visium_hd", 25.0), ("visium", 1.0)])
def test_the_effect_is_measurable_in_spots_and_bins(
    prepared: dict[str, ad.AnnData], platform: str, reach_um: float
) -> None:
    slide = prepared[platform]
    tumour = fraction_of(slide, "EPCAM KRT8 KRT18 KRT19 MUC1 CEACAM6")
    t_cells = fraction_of(slide, "CD3E CD3D CD3G TRAC CD2 LCK ITK CD5 CD7")
    near = cKDTree(slide.obsm["spatial"]).query_ball_point(slide.obsm["spatial"], reach_um)
    received = np.array([t_cells[some].mean() for some in near])
    chosen = tumour > np.quantile(tumour, 0.7)
    low, high = np.quantile(received[chosen], [0.3, 0.7])
    response = fraction_of(slide, "CD274") / np.maximum(tumour, 1e-9)
    assert response[chosen & (received > high)].mean() > 1.3 * response[chosen & (received < low)].mean()


def test_further_genes_are_real_distinct_and_the_same_for_every_slide() -> None:
    genes = choose_genes(5_000)
    assert len(genes) == 5_000
    assert genes["id"].is_unique
    assert genes["symbol"].is_unique
    assert genes["id"].str.fullmatch(r"ENSG\d{11}").all()
    pd.testing.assert_frame_equal(genes[: len(panel())], panel())
    pd.testing.assert_frame_equal(choose_genes(1_000), genes[:1_000])


def test_genes_beyond_the_panel_differ_between_types(prepared: dict[str, ad.AnnData]) -> None:
    slide = prepared["xenium_prime"][:, len(panel()) - 2 :]
    kinds = slide.obs["cell_type"].astype(str).to_numpy()
    profiles = {kind: slide.X[kinds == kind].mean(axis=0).A1 for kind in ("tumour", "acinar")}
    ratio = profiles["tumour"] / np.maximum(profiles["acinar"], 1e-4)
    assert (ratio > 3).sum() > 60
    assert (ratio < 1 / 3).sum() > 60
    assert 0.85 < np.mean((ratio > 0.5) & (ratio < 2.0)) < 0.99


@pytest.mark.data
def test_further_genes_code_for_proteins(shared_data: Path) -> None:
    table = pd.read_csv(
        shared_data / "gene_tables/genes_homo_sapiens.csv.gz", header=None, usecols=[0, 4], names=["id", "biotype"]
    ).set_index("id")["biotype"]
    assert (choose_genes(5_000)["id"].map(table) == "protein_coding").mean() > 0.98
