"""An imported release in all commands: a stand-in of its structure on a prepared slide."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from builders import use_few_baselines
from dense_release import DenseRelease
from release_stand_in import stand_in_tensors, write_release

from cifm_cli.app import main
from cifm_cli.data.slide import open_slide

WIDTH, NUM_EXTRA = 16, 500


@pytest.fixture(scope="module")
def genes(prepared_synthetic: Path) -> list[str]:
    """Genes of the release: half of those of the slide, and many others."""
    own = list(open_slide(prepared_synthetic).gene_ids)
    return [f"ENSG{number:011d}" for number in range(9 * 10**10, 9 * 10**10 + NUM_EXTRA)] + own[: -(len(own) // 4)]


@pytest.fixture(scope="module")
def tensors(genes: list[str]) -> dict[str, Any]:
    return stand_in_tensors(len(genes), WIDTH)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, genes: list[str], tensors: dict[str, Any]) -> Path:
    folder = tmp_path_factory.mktemp("release")
    write_release(folder / "download", genes, tensors)
    assert main(["import-release", str(folder / "download"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def expression(path: Path, genes: list[str]) -> np.ndarray:
    """Log-normalised expression of all genes of the release, those that the slide lacks being zero."""
    slide = open_slide(path)
    dense = np.zeros((slide.num_cells, len(genes)))
    values = slide.expression(np.arange(slide.num_cells), 1e4).toarray()
    for column, gene in enumerate(slide.gene_ids):
        if gene in genes:
            dense[:, genes.index(gene)] = values[:, column]
    return dense


def test_inspect_shows_it(cifm: Callable[..., Any], run: Path, genes: list[str]) -> None:
    code, out, _ = cifm("inspect", run, "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["genes"] == len(genes)
    assert facts["recipe"]["model"]["message"] == "release"
    assert facts["recipe"]["data"]["radius_um"] == 20
    assert facts["provenance"]["command"] == "import-release"
    assert facts["provenance"]["release"]["unused_tensors"] == ["proj.weight"]
    assert len(facts["provenance"]["release"]["files"]) == 3


def test_json_of_the_import(cifm: Callable[..., Any], tmp_path: Path) -> None:
    genes = [f"ENSG{number:011d}" for number in range(4)]
    write_release(tmp_path / "download", genes, stand_in_tensors(4, 8, num_maps=3))
    code, out, err = cifm(
        "import-release", tmp_path / "download", "--out", tmp_path / "run", "--json", "--radius-um", 30
    )
    facts = json.loads(out)
    assert code == 0
    assert (facts["genes"], facts["width"], facts["mlp_layers"], facts["radius_um"]) == (4, 8, 3, 30)
    assert "--form gated" in err


def test_embed_equals_the_independent_implementation(
    cifm: Callable[..., Any], workspace: Path, run: Path, genes: list[str], tensors: dict[str, Any]
) -> None:
    code, _, err = cifm("embed", "--model", run)
    assert code == 0
    embedded, path = ad.read_h5ad(workspace / "embedded" / "tissue.h5ad"), workspace / "prepared" / "tissue.h5ad"
    own = open_slide(path).num_genes
    shared = len(genes) - NUM_EXTRA
    assert f"{shared} of its {own} genes are among the {len(genes)} of the model" in err
    origin = json.loads(embedded.uns["cifm"]["embedding"])
    assert origin["genes"] == {"slide": own, "model": len(genes), "shared": shared}
    slide, dense = open_slide(path), DenseRelease(tensors, 20.0)
    rows = np.argsort(np.asarray(ad.read_h5ad(path).obs["download_row"]))
    for key, edges in (("X_cifm", None), ("X_cifm_cell", np.eye(slide.num_cells, dtype=bool))):
        wanted = dense.embed(expression(path, genes), slide.xy_um, edges)[rows]
        assert np.abs(embedded.obsm[key] - wanted).max() < 1e-5 * np.abs(wanted).max(), key


def test_predict_gates_like_the_release(cifm: Callable[..., Any], workspace: Path, run: Path) -> None:
    results = {}
    for form in ("mean", "gated"):
        code, _, err = cifm("predict", "prepared/tissue.h5ad", "--model", run, "--form", form, "--out", f"{form}.h5ad")
        assert code == 0, err
        results[form] = ad.read_h5ad(f"{form}.h5ad")
    mean, gated = results["mean"].X, results["gated"].X
    passes = results["mean"].layers["expressed"] > 0.5
    assert 0 < passes.mean() < 1
    assert np.array_equal(gated, np.where(passes, mean, 0))
    assert "genes" in json.loads(results["gated"].uns["cifm"]["provenance"])


def test_the_median_of_a_release_is_refused(cifm: Callable[..., Any], workspace: Path, run: Path) -> None:
    code, _, err = cifm("predict", "prepared/tissue.h5ad", "--model", run, "--form", "median")
    assert code == 1
    assert "--form gated" in err


def test_evaluate(cifm: Callable[..., Any], workspace: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_few_baselines(monkeypatch)
    code, out, err = cifm("evaluate", "--model", run, "--geometry", "scattered", "--rounds", 1, "--json")
    assert code == 0, err
    metrics = json.loads(out)["slides"]["tissue"]
    assert np.isfinite(metrics["geometries"]["scattered"]["predictors"]["model"]["gated"]["mse"])
    assert metrics["genes"]["model"] > 2 * metrics["genes"]["shared"]


def test_simulate(cifm: Callable[..., Any], workspace: Path, run: Path) -> None:
    words = ["--inject", "tcell", "--count", 10, "--steps", 1, "--replicates", 2]
    code, out, err = cifm("simulate", "--model", run, *words, "--json")
    assert code == 0, err
    assert json.loads(out)["provenance"]["genes"]["shared"] > 0


def test_sensitivity(cifm: Callable[..., Any], workspace: Path, run: Path) -> None:
    words = ["--max-cells", 150, "--share", 0.5, "--search", 1, "--search-genes", "--json"]
    code, out, err = cifm("simulate", "--model", run, "--sensitivity", "KRT8", *words)
    assert code == 0, err
    content = json.loads(out)
    assert len(content["search"]["proposals"]) == 1
    assert content["provenance"]["genes"]["shared"] < content["provenance"]["genes"]["slide"]
