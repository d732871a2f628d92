"""`--backend` and `--precision` on the command line, from training to embeddings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import cifm_backends
from cifm_cli import keys
from cifm_cli.model.checkpoint import load_checkpoint

SMALL = ["--set=train.steps=2", "--set=train.validation_tiles=1", "--set=model.width=8", "--set=data.tile_cells=400"]
SMALL += ["--set=objective.linear_rank=0", "--set=objective.states=6"]
ONE_ROUND = ("--rounds", "1", "--geometry", "scattered")


pytestmark = pytest.mark.usefixtures("few_baselines", "workspace")


@pytest.fixture(scope="session")
def prepared_synthetic(prepared_few_genes: Path) -> Path:
    """The slide of these tests."""
    return prepared_few_genes


@pytest.mark.dgl
@pytest.mark.parametrize("form", ["factored", "mlp"])
def test_dgl_trains_evaluates_and_embeds(cifm: Callable, form: str) -> None:
    if problem := cifm_backends.available()["dgl"].problem:
        pytest.skip(problem)
    for words in (
        ["train", "demo", *SMALL, f"--set=model.message={form}"],
        ["evaluate", *ONE_ROUND, "--adapt", "none"],
        ["embed"],
    ):
        outcome = cifm(*words, "--backend", "dgl")
        assert outcome.code == 0, outcome.err
    metrics = json.loads(Path("evaluation/metrics.json").read_text())
    assert metrics["provenance"]["backend"] == "dgl"
    assert np.isfinite(metrics["slides"]["tissue"]["geometries"]["scattered"]["predictors"]["model"]["mean"]["mse"])
    assert np.isfinite(ad.read_h5ad("embedded/tissue.h5ad").obsm[keys.MICROENVIRONMENT]).all()


def test_half_precision_trains_evaluates_embeds_and_predicts(cifm: Callable) -> None:
    assert cifm("train", "demo", *SMALL, "--precision", "bfloat16").code == 0
    checkpoint = load_checkpoint(Path("runs/latest"))
    assert checkpoint.recipe.train.precision == "bfloat16"
    assert {str(weight.dtype) for weight in checkpoint.network.parameters()} == {"torch.float32"}
    embeddings = {}
    for precision in ("float32", "bfloat16"):
        outcome = cifm("embed", "--out", precision, "--precision", precision)
        assert outcome.code == 0, outcome.err
        embeddings[precision] = ad.read_h5ad(f"{precision}/tissue.h5ad").obsm[keys.MICROENVIRONMENT]
    difference = np.abs(embeddings["bfloat16"] - embeddings["float32"]).max() / np.abs(embeddings["float32"]).max()
    assert 0 < difference < 0.05
    assert cifm("predict", "prepared/tissue.h5ad", "--precision", "bfloat16").code == 0
    outcome = cifm("evaluate", *ONE_ROUND, "--adapt", "none", "--precision", "bfloat16", "--json")
    assert json.loads(outcome.out)["provenance"]["precision"] == "bfloat16"


def test_an_unknown_precision_is_a_usage_error(cifm: Callable) -> None:
    outcome = cifm("embed", "--precision", "float8")
    assert outcome.code == 2
    assert "bfloat16" in outcome.err
