"""Results are opened and plotted by scanpy and squidpy as they are, without any conversion."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from builders import save_random_run
from PIL import Image

from cifm_cli import keys
from cifm_cli.data.slide import open_slide

pytestmark = pytest.mark.filterwarnings(
    "ignore::PendingDeprecationWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)  # of matplotlib, scanpy and squidpy
HIRES_PX_PER_PX = 0.2


@pytest.fixture(scope="module")
def visium(build_once: Callable[..., Path]) -> Path:
    """A workspace with a synthetic Visium section with a tissue image, prepared and embedded with a UMAP and clusters."""
    from cifm_cli.app import main
    from cifm_cli.synthetic.downloads import write_visium

    def build(folder: Path) -> None:
        write_visium(folder / "section", 6_000, seed=0)
        factors = folder / "section" / "spatial" / "scalefactors_json.json"
        scales = json.loads(factors.read_text()) | {"tissue_hires_scalef": HIRES_PX_PER_PX}
        factors.write_text(json.dumps(scales))
        Image.new("RGB", (900, 900), "white").save(factors.parent / "tissue_hires_image.png")
        assert main(["prepare", str(folder / "section"), "--out", str(folder / "prepared")]) == 0
        prepared = folder / "prepared" / "section.h5ad"
        run = folder / "runs" / "latest"
        save_random_run(run, open_slide(prepared), {"model": {"width": 8}, "data": {"tile_cells": 100}})
        words = ["embed", str(prepared), "--model", str(run), "--out", str(folder / "embedded"), "--backend", "torch"]
        assert main([*words, "--adapt", "none", "--umap", "--clusters", "--neighbors"]) == 0

    return build_once("plotted", build)


@pytest.fixture
def slide(visium: Path) -> ad.AnnData:
    """The embedded section."""
    return ad.read_h5ad(visium / "embedded" / "section.h5ad")


def test_spots_are_drawn_at_their_pixels_of_the_tissue_image(slide: ad.AnnData, visium: Path) -> None:
    import matplotlib.pyplot as plt
    import scanpy as sc

    for path in ("prepared", "embedded"):
        table = ad.read_h5ad(visium / path / "section.h5ad")
        assert list(table.uns["spatial"]) == ["section"]
        (axes,) = sc.pl.spatial(table, color="total_counts", show=False)
        assert axes.get_images()[0].get_array().shape == (900, 900, 3)
        (spots,) = [drawn for drawn in axes.collections if len(getattr(drawn, "get_paths", list)()) == table.n_obs]
        left, right = sorted(axes.get_xlim())
        # The synthetic download has pixels of 0.5 um, so one micrometre is 2 * 0.2 pixels of `hires`.
        drawn_px = np.array([patch.vertices.mean(axis=0) for patch in spots.get_paths()])
        expected_px = table.obsm[keys.SPATIAL] * 2 * HIRES_PX_PER_PX
        assert np.allclose(np.sort(drawn_px[:, 0]), np.sort(expected_px[:, 0]), atol=1.5)
        assert left <= expected_px[:, 0].min() <= expected_px[:, 0].max() <= right
        plt.close("all")


def test_scanpy_plots_umap_clusters_places_and_marker_genes(slide: ad.AnnData) -> None:
    import matplotlib.pyplot as plt
    import scanpy as sc

    symbol = slide.var[keys.SYMBOL].iloc[0]
    assert sc.pl.umap(slide, color="leiden", show=False).get_title() == "leiden"
    sc.pl.embedding(slide, "spatial", color=["leiden", keys.SPLIT], show=False)
    sc.pl.embedding(slide, "spatial", color=symbol, gene_symbols=keys.SYMBOL, show=False)
    slide.obs["half"] = (slide.obsm[keys.SPATIAL][:, 0] > np.median(slide.obsm[keys.SPATIAL][:, 0])).astype(str)
    slide.strings_to_categoricals()
    sc.tl.paga(slide, groups="half")
    sc.pp.normalize_total(slide)
    sc.pp.log1p(slide)
    sc.tl.rank_genes_groups(slide, "half", method="t-test")
    sc.pl.rank_genes_groups(slide, gene_symbols=keys.SYMBOL, show=False)
    plt.close("all")


@pytest.mark.filterwarnings("ignore")  # squidpy warns of its own defaults
def test_squidpy_plots_and_counts_neighbours(slide: ad.AnnData) -> None:
    import matplotlib.pyplot as plt

    sq = pytest.importorskip("squidpy")
    sq.pl.spatial_scatter(slide, color="leiden")
    sq.pl.spatial_scatter(slide, color="leiden", shape=None)
    sq.gr.spatial_neighbors(slide, coord_type="generic", radius=150.0)
    sq.gr.nhood_enrichment(slide, cluster_key=keys.SPLIT, n_perms=10, seed=0, show_progress_bar=False)
    assert slide.uns[f"{keys.SPLIT}_nhood_enrichment"]["zscore"].shape[0] > 1
    plt.close("all")
