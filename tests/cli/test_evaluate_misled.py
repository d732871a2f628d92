"""`cifm evaluate` and `cifm train` on slides whose scores would mislead: warnings in the table, the page and `metrics.json`."""

from __future__ import annotations

import json
from collections.abc import Callable
from html import unescape
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from builders import train_short_run

from cifm_cli.data.slide import open_slide
from cifm_cli.evaluation import setup
from cifm_cli.evaluation.predictors.registry import all_baselines
from cifm_cli.model.checkpoint import load_checkpoint

BRIEF = ("--geometry", "scattered", "--rounds", "20", "--adapt", "none", "--backend", "torch", "--json")
Change = Callable[[ad.AnnData, np.random.Generator], ad.AnnData]


def raw(path: Path) -> ad.AnnData:
    """The counts and places of a prepared slide, without anything that cifm stored with them."""
    slide = ad.read_h5ad(path)
    copy = ad.AnnData(slide.X, obs=slide.obs[[]], var=slide.var[["symbol"]])
    copy.obsm["spatial"] = slide.obsm["spatial"]
    return copy


def exchange_axes(slide: ad.AnnData, _: np.random.Generator) -> ad.AnnData:
    slide.obsm["spatial"] = slide.obsm["spatial"][:, ::-1].copy()
    return slide


def permute_genes(slide: ad.AnnData, generator: np.random.Generator) -> ad.AnnData:
    slide.X = slide.X[:, generator.permutation(slide.n_vars)]
    return slide


def permute_places(slide: ad.AnnData, generator: np.random.Generator) -> ad.AnnData:
    slide.obsm["spatial"] = generator.permutation(slide.obsm["spatial"])
    return slide


def duplicate_cells(slide: ad.AnnData, generator: np.random.Generator) -> ad.AnnData:
    copies = slide[generator.permutation(slide.n_obs)[:150]].copy()
    copies.obs_names = [f"copy-{number}" for number in range(copies.n_obs)]
    copies.obsm["spatial"] = generator.permutation(slide.obsm["spatial"])[:150] + 3.3
    return ad.concat([slide, copies], merge="same")


def double_cells(slide: ad.AnnData, generator: np.random.Generator) -> ad.AnnData:
    """Cells of which a second segmentation found nine tenths, at nearly the same place."""
    copies = slide[::4].copy()
    copies.obs_names = [f"copy-{number}" for number in range(copies.n_obs)]
    copies.X.data = np.maximum(generator.binomial(copies.X.data.astype(np.int64), 0.9), 1).astype(np.float32)
    copies.obsm["spatial"] += 0.01
    return ad.concat([slide, copies], merge="same")


def select_genes(slide: ad.AnnData, _: np.random.Generator) -> ad.AnnData:
    """Half of the genes, and mirrored, so that the split differs."""
    slide.obsm["spatial"] = slide.obsm["spatial"] * [-1, 1]
    return slide[:, ::2].copy()


@pytest.fixture(scope="module")
def workspace(prepared_synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a run on the synthetic slide."""
    folder = tmp_path_factory.mktemp("misled")
    train_short_run(prepared_synthetic, folder / "runs" / "first")
    return folder


@pytest.fixture(autouse=True)
def one_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Score a single baseline: warnings do not depend on scores, and most of the time goes into the other baselines."""
    few = [baseline for baseline in all_baselines() if baseline.name == "training_mean"]
    monkeypatch.setattr(setup, "all_baselines", lambda: few)


@pytest.fixture
def variant(prepared_synthetic: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch, cifm: Callable) -> Callable:
    """Prepares a changed copy of the synthetic slide; returns its path."""
    monkeypatch.chdir(workspace)

    def prepare(name: str, change: Change, *options: str) -> Path:
        changed = change(raw(prepared_synthetic), np.random.default_rng(0))
        changed.write_h5ad(workspace / f"{name}.h5ad")
        assert cifm("prepare", f"{name}.h5ad", *options)[0] == 0
        return workspace / "prepared" / f"{name}.h5ad"

    return prepare


@pytest.fixture
def evaluate(cifm: Callable) -> Callable:
    """Evaluates a slide; returns what `metrics.json` contains about it, after comparing table and page with it."""

    def run(path: Path, *options: str) -> dict:
        model = () if "--model" in options else ("--model", "runs/first")
        code, out, err = cifm("evaluate", path, *model, *BRIEF, *options)
        assert code == 0, err
        found = json.loads(out)["slides"][path.stem]
        page = Path("evaluation/report.html").read_text()
        stored = json.loads(Path("evaluation/metrics.json").read_text())["slides"][path.stem]
        assert stored["warnings"] == found["warnings"]
        top = unescape(page.partition("<section")[0]).replace(" µm", " um")
        assert all(f"{path.stem}: {warning}." in top for warning in found["warnings"])
        assert all(f"- {path.stem}: {warning}." in err for warning in found["warnings"])
        lines = " ".join(err.split())
        for warning in found["warnings"]:
            assert f"warning: {warning}" in lines
        return found

    return run


def only_warning(found: dict, *words: str) -> str:
    """The warning that has all of these words; there must be one."""
    matching = [warning for warning in found["warnings"] if all(word in warning for word in words)]
    assert len(matching) == 1, found["warnings"]
    return matching[0]


def test_the_test_region_of_the_training_slide_gives_no_warning(
    workspace: Path, prepared_synthetic: Path, monkeypatch: pytest.MonkeyPatch, evaluate: Callable
) -> None:
    monkeypatch.chdir(workspace)
    found = evaluate(prepared_synthetic)
    assert found["warnings"] == []
    checks = found["checks"]
    assert checks["scored_cells_recognisable"] > 100
    assert checks["neighbour_similarity"]["score"] > 8
    assert checks["models"]["model"]["seen"] == []
    assert checks["models"]["model"]["trained_cells"] == 0
    assert checks["models"]["model"]["gene_order"]["spearman"] > 0.9


def test_training_cells_under_another_name_and_in_another_region(variant: Callable, evaluate: Callable) -> None:
    found = evaluate(variant("turned", exchange_axes))
    trained = found["scenario"]["model"]["trained_cells_scored"]
    num_cells = found["geometries"]["scattered"]["num_cells"]
    slide, original = open_slide(Path("prepared/turned.h5ad")), load_checkpoint(Path("runs/first")).sketches[0]
    assert original.use == "train"
    share = trained / num_cells
    only_warning(found, f"{share:.1%} of the scored cells were train cells", "its slide tissue (with the same counts)")
    assert share > 0.3
    assert found["checks"]["models"]["model"]["trained_cells"] == trained
    assert len(slide.region("test")) >= num_cells


def test_a_model_that_was_trained_on_all_regions(
    workspace: Path, prepared_synthetic: Path, monkeypatch: pytest.MonkeyPatch, evaluate: Callable
) -> None:
    """Its test region was trained on, also where the model was fine-tuned on the training region since."""
    monkeypatch.chdir(workspace)
    train_short_run(prepared_synthetic, Path("runs/all"), ["data.train_regions=all"])
    train_short_run(prepared_synthetic, Path("runs/tuned"), init=Path("runs/all"))
    found = evaluate(prepared_synthetic, "--model", "runs/tuned")
    warning = only_warning(found, "the model was trained on", "scored cells (region test of this very file)")
    num_cells = found["geometries"]["scattered"]["num_cells"]
    assert f"on {num_cells:,} of the {num_cells:,} scored" in warning
    assert found["scenario"]["model"]["trained_cells_scored"] == num_cells


def test_fewer_genes_of_the_same_cells_are_recognised_by_their_places(variant: Callable, evaluate: Callable) -> None:
    found = evaluate(variant("half", select_genes), "--region", "all")
    only_warning(found, "were train cells of the model", "at the same places, with other counts or genes")


def test_cells_that_occur_twice(variant: Callable, evaluate: Callable) -> None:
    found = evaluate(variant("twice", duplicate_cells), "--region", "all")
    warning = only_warning(found, "have exactly the counts of another cell")
    assert found["checks"]["scored_cells_repeated"] >= 200
    assert " in train" in warning
    assert " in test" in warning


def test_the_same_cell_twice_at_one_place(variant: Callable, evaluate: Callable) -> None:
    found = evaluate(variant("double", double_cells, "--radius-um", "20", "--keep", "overlap"), "--region", "all")
    only_warning(found, "um of another cell: the same cell twice")
    assert found["checks"]["scored_cells_at_one_place"] > 300


def test_genes_that_changed_their_names(variant: Callable, evaluate: Callable) -> None:
    found = evaluate(variant("genes", permute_genes))
    only_warning(found, "the genes that are expressed here are not those", "185 genes")


def test_places_of_other_cells(variant: Callable, evaluate: Callable) -> None:
    found = evaluate(variant("places", permute_places))
    only_warning(found, "is not similar to that of their neighbours")


def test_a_run_that_started_from_one_that_saw_the_slide(variant: Callable, evaluate: Callable, cifm: Callable) -> None:
    def other_cells(slide: ad.AnnData, generator: np.random.Generator) -> ad.AnnData:
        slide.X.data += generator.integers(0, 3, slide.X.nnz)
        slide.obsm["spatial"] = slide.obsm["spatial"] + 0.777
        return slide

    other, turned = variant("other", other_cells), variant("again", exchange_axes)
    train_short_run(other, Path("runs/second"), init=Path("runs/first"))
    sketches = load_checkpoint(Path("runs/second")).sketches
    assert [(each.slide, each.use, each.run) for each in sketches] == [
        ("other", "train", ""),
        ("other", "validation", ""),
        ("tissue", "train", "first"),
        ("tissue", "validation", "first"),
    ]
    train_short_run(other, Path("runs/second"), resume=True)
    assert [each.run for each in load_checkpoint(Path("runs/second")).sketches] == ["", "", "first", "first"]
    code, out, err = cifm("evaluate", turned, "--model", "runs/second", *BRIEF)
    assert code == 0, err
    only_warning(json.loads(out)["slides"]["again"], "were train cells", "its slide tissue of run first")
    assert evaluate(other)["warnings"] == []


def test_training_warns_about_cells_that_are_validated_or_trained_on_twice(
    variant: Callable, prepared_synthetic: Path, cifm: Callable
) -> None:
    turned = variant("mirror", exchange_axes)
    recipe = ("demo", "--set", "train.steps=1", "--set", "train.validation_tiles=1", "--set", "model.width=8")
    words = ("train", *recipe, "--backend", "torch", "--data", prepared_synthetic, "--data", turned)
    code, _, err = cifm(*words, "--out", "runs/both")
    assert code == 0, err
    lines = " ".join(err.split())
    assert "slides tissue and mirror: " in lines
    assert "train cells of mirror are also train cells of tissue (with the same counts); they count twice" in lines
    assert (
        "validation cells of mirror are also train cells of tissue (with the same counts); the validation loss" in lines
    )
    held_out = 'data.validation_slides=["mirror"]'
    code, _, err = cifm(*words, "--set", held_out, "--out", "runs/held_out")
    assert code == 0, err
    assert "100.0% of the validation cells of mirror are also train cells" not in " ".join(err.split())
    assert "of the validation cells of mirror are also train cells of tissue" in " ".join(err.split())


def test_training_on_different_cells_gives_no_warning(
    prepared_synthetic: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train_short_run(prepared_synthetic, tmp_path / "run")
    assert not [record for record in caplog.records if "are also" in record.getMessage()]
