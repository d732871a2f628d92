"""Errors are found before any predictor is evaluated, and files of an earlier evaluation do not stay."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import pytest
from builders import forget_checksums, train_short_run

BRIEF = ("--geometry", "scattered", "--rounds", "1", "--adapt", "none", "--backend", "torch", "--json")


@pytest.fixture(scope="module")
def workspace(prepared_few_genes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a prepared slide, one without a test region, and a small run."""
    folder = tmp_path_factory.mktemp("early_errors")
    slide = ad.read_h5ad(prepared_few_genes)
    forget_checksums(slide[slide.obs["split"] != "test"]).write_h5ad(folder / "no_test.h5ad")
    (folder / "tissue.h5ad").symlink_to(prepared_few_genes)
    train_short_run(folder / "tissue.h5ad", folder / "runs" / "small", latest=folder / "runs" / "latest")
    return folder


@pytest.fixture(autouse=True)
def in_workspace(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tissue.h5ad", "--out", "file"], "cannot write file: a file is in the way"),
        (["tissue.h5ad", "--out", "file/below"], "cannot write file/below: a file is in the way"),
        (["tissue.h5ad", "no_test.h5ad"], "slide no_test: no cells in its test region"),
        (["tissue.h5ad", "damaged.h5ad"], "damaged.h5ad: not a prepared slide"),
        (["tissue.h5ad", "--geometry", "whole", "--region", "all"], "--region all leaves no visible cells"),
    ],
)
def test_errors_are_found_before_any_work(
    cifm: Callable, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    def work(*_: object) -> None:
        raise AssertionError("a predictor was evaluated")

    monkeypatch.setattr("cifm_cli.evaluation.evaluator.Evaluator.evaluate", work)
    Path("file").touch()
    Path("damaged.h5ad").write_bytes(b"nothing")
    code, _, err = cifm("evaluate", *words, *BRIEF)
    assert code == 1
    assert f"error: {message}" in err
    assert not Path("evaluation").exists()
    assert sorted(path.name for path in Path().iterdir() if path.name.startswith("tmp")) == []


@pytest.mark.usefixtures("few_baselines")
def test_predictions_of_an_earlier_evaluation_are_removed(cifm: Callable) -> None:
    folder = Path("again")
    folder.mkdir()
    for name in ("predictions-region_10.h5ad", "predictions-of-mine.h5ad", "notes.txt"):
        (folder / name).touch()
    assert cifm("evaluate", "tissue.h5ad", *BRIEF, "--save-predictions", "--out", folder).code == 0
    saved = {path.name for path in folder.glob("predictions*")}
    assert saved == {"predictions-scattered.h5ad", "predictions-of-mine.h5ad"}
    code, out, _ = cifm("evaluate", "tissue.h5ad", *BRIEF, "--region", "train", "--out", folder)
    assert code == 0
    assert {path.name for path in folder.glob("predictions*")} == {"predictions-of-mine.h5ad"}
    assert (folder / "notes.txt").exists()
    facts = json.loads(out)["slides"]["tissue"]
    num_cells = facts["geometries"]["scattered"]["num_cells"]
    assert facts["scenario"]["model"]["trained_cells_scored"] == num_cells > 0
