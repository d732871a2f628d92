"""`cifm embed` onto files that exist: what is replaced, what is refused, and that no earlier analysis stays."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from builders import save_random_run

from cifm_cli import keys
from cifm_cli.data.slide import open_slide
from cifm_cli.data.writers.analysed import SlideAnalysis, add_analysis
from cifm_cli.data.writers.embedded import read_embedded
from cifm_cli.data.writers.embedding_formats import write_npy, write_parquet

TARGET = Path("embedded/tissue.h5ad")
PLAIN = ("embed", "--adapt", "none", "--level", "cell", "--backend", "torch")


@pytest.fixture(autouse=True)
def embedded_once(workspace: Path, prepared_synthetic: Path, cifm) -> None:
    """A workspace with a model of random weights and an embedded slide of it, to which a UMAP and clusters were added."""
    save_random_run(workspace / "runs" / "latest", open_slide(prepared_synthetic), _tables(8))
    assert cifm(*PLAIN).code == 0
    num_cells = open_slide(TARGET).num_cells
    slots = ["obsm/X_umap", "uns/umap", "obs/leiden", "uns/leiden", "uns/leiden_colors"]
    analysis = SlideAnalysis(
        about={keys.ANALYSIS: {"slots": slots}},
        umap=np.zeros((num_cells, 2), np.float32),
        umap_params={"a": 1.0},
        clusters=np.zeros(num_cells, np.int32),
        cluster_params={"resolution": 1.0},
        cluster_colours=("#0072B2",),
    )
    add_analysis(TARGET, analysis, "")
    assert "leiden" in ad.read_h5ad(TARGET).obs


def _tables(width: int) -> dict:
    return {"model": {"width": width}, "data": {"tile_cells": 100}}


@pytest.mark.parametrize("source", [(), (TARGET, "--out", "again")])
def test_an_embedding_does_not_keep_the_umap_and_clusters_of_an_earlier_one(cifm, source: tuple) -> None:
    code, _, err = cifm(*PLAIN, *source)
    assert code == 0, err
    slide = ad.read_h5ad(Path(source[-1] if source else "embedded", "tissue.h5ad"))
    assert set(slide.obsm) == {keys.SPATIAL, keys.CELL}
    assert "leiden" not in slide.obs
    assert set(slide.uns) == {keys.CIFM}
    assert keys.ANALYSIS not in slide.uns[keys.CIFM]


def test_a_page_of_an_earlier_analysis_is_named(cifm) -> None:
    Path("embedded/report.html").write_text("page", encoding="utf8")
    assert "embedded/report.html: of an earlier analysis" in cifm(*PLAIN).err


def test_a_slide_embedded_by_another_model_is_replaced_only_with_force(cifm, prepared_synthetic: Path) -> None:
    save_random_run(Path("runs/other"), open_slide(prepared_synthetic), _tables(16))
    before = TARGET.read_bytes()
    code, out, err = cifm(*PLAIN, "--model", "runs/other")
    assert (code, out) == (1, "")
    assert err.splitlines()[-2:] == [
        "error: embedded/tissue.h5ad exists, embedded by another model",
        "hint: replace it with --force, or choose another folder with --out",
    ]
    assert TARGET.read_bytes() == before
    assert cifm(*PLAIN, "--model", "runs/other", "--force").code == 0
    assert read_embedded(TARGET).embeddings[keys.CELL].shape[1] == 16


def test_what_a_user_added_to_an_embedded_slide_is_lost_only_with_force(cifm) -> None:
    slide = ad.read_h5ad(TARGET)
    slide.obs["mine"] = 1.0
    slide.uns["leiden_colors"] = ["#000000"]  # as plots of scanpy set them
    slide.write_h5ad(TARGET)
    code, _, err = cifm(*PLAIN)
    assert code == 1
    assert "embedded/tissue.h5ad exists, with what would be lost: obs/mine" in err
    assert "mine" in ad.read_h5ad(TARGET).obs
    assert cifm(*PLAIN, "--force").code == 0
    assert "mine" not in ad.read_h5ad(TARGET).obs


def test_a_slide_of_other_cells_and_another_file_are_not_replaced(cifm) -> None:
    slide = ad.read_h5ad(TARGET)
    slide.uns[keys.CIFM][keys.CONTENT] = "{}"
    slide.write_h5ad(TARGET)
    assert "exists, made from another slide" in cifm(*PLAIN).err
    ad.AnnData(np.ones((2, 2))).write_h5ad(TARGET)
    for words in ((), ("--force",)):
        code, _, err = cifm(*PLAIN, *words)
        assert code == 1
        assert "embedded/tissue.h5ad exists and is not an embedded slide" in err


def test_a_store_is_replaced_by_the_same_rule(cifm, prepared_synthetic: Path) -> None:
    pytest.importorskip("zarr")
    words = (*PLAIN, "--format", "zarr")
    for _ in range(2):
        assert cifm(*words).code == 0
    save_random_run(Path("runs/other"), open_slide(prepared_synthetic), _tables(16))
    code, _, err = cifm(*words, "--model", "runs/other")
    assert code == 1
    assert "embedded/tissue.zarr exists, embedded by another model" in err
    assert cifm(*words, "--model", "runs/other", "--force").code == 0


def test_clusters_of_other_slides_are_no_categories(tmp_path: Path) -> None:
    numbers = np.where(np.arange(open_slide(TARGET).num_cells) % 2, 0, 10).astype(np.int32)
    colours = [f"#{number:06d}" for number in range(11)]
    about = {keys.ANALYSIS: {"slots": ["obs/leiden", "uns/leiden", "uns/leiden_colors"]}}
    analysis = SlideAnalysis(about, clusters=numbers, cluster_params={"resolution": 1.0}, cluster_colours=colours)
    add_analysis(TARGET, analysis, "")
    slide = ad.read_h5ad(TARGET)
    assert list(slide.obs["leiden"].cat.categories) == ["0", "10"]
    assert slide.obs["leiden"].astype(int).tolist() == numbers.tolist()
    assert list(slide.uns["leiden_colors"]) == ["#000000", "#000010"]
    names = {"umap": "X_umap", "clusters": "leiden"}
    write_npy(TARGET, tmp_path, names)
    assert np.load(tmp_path / "tissue.leiden.npy").tolist() == numbers.tolist()
    write_parquet(TARGET, tmp_path / "table.parquet", names)
    assert pd.read_parquet(tmp_path / "table.parquet")["leiden"].tolist() == numbers.tolist()
