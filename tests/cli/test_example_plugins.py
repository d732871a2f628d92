"""The package of docs/plugins.md, installed by pip: its backend, annotator and baseline work like those of cifm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

import cifm_backends

EXAMPLE = Path(__file__).resolve().parents[1] / "example_plugins"
SMALL = ["--set=train.steps=2", "--set=train.validation_tiles=1", "--set=model.width=8", "--set=data.tile_cells=400"]
SMALL += ["--set=objective.linear_rank=0", "--set=objective.states=6"]


def forget_backends() -> None:
    for cached in ("_entry_points", "_names_by_priority", "_backend_class", "_status"):
        getattr(cifm_backends, cached).cache_clear()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the example."""
    folder = tmp_path_factory.mktemp("plugins")
    # A copy, because setuptools builds in the folder of the source.
    shutil.copytree(EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    words = [*pip, "--disable-pip-version-check", "--target", str(folder / "site"), str(folder / "source")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process with the example installed."""
    monkeypatch.syspath_prepend(str(site))
    forget_backends()
    yield
    monkeypatch.undo()
    forget_backends()
    for name in [name for name in sys.modules if name.startswith("cifm_example_plugins")]:
        del sys.modules[name]


def test_the_conformance_command_passes_the_backend(site: Path) -> None:
    paths = os.pathsep.join([str(site), *sys.path])
    words = [sys.executable, "-m", "cifm_backends.conformance", "--backend", "segments", "--dtype", "float32"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": paths})
    assert (done.returncode, done.stderr) == (0, "")
    assert f"segments (torch {torch.__version__})" in done.stdout
    assert "FAILED" not in done.stdout


@pytest.mark.usefixtures("installed")
def test_the_backend_is_listed_and_is_not_the_default(cifm: Callable) -> None:
    outcome = cifm("backends", "--json")
    rows = {row["name"]: row for row in json.loads(outcome.out)}
    assert rows["segments"]["devices"] == ["cpu"]
    assert rows["segments"]["auto"] == []


@pytest.mark.usefixtures("installed", "few_baselines", "workspace")
def test_the_backend_trains_and_the_baseline_is_scored(cifm: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    from cifm_cli.evaluation import setup
    from cifm_cli.evaluation.predictors.registry import all_baselines

    # The fixture `few_baselines` keeps three of cifm; a few seconds less than with all.
    few = [*setup.all_baselines(), *(each for each in all_baselines() if each.name == "few_nearest")]
    monkeypatch.setattr(setup, "all_baselines", lambda: few)
    outcome = cifm("train", "demo", *SMALL, "--backend", "segments")
    assert outcome.code == 0, outcome.err
    outcome = cifm("evaluate", "--rounds", "1", "--geometry", "scattered", "--adapt", "none", "--backend", "segments")
    assert outcome.code == 0, outcome.err
    metrics = json.loads(Path("evaluation/metrics.json").read_text())
    assert metrics["provenance"]["backend"] == "segments"
    predictors = metrics["slides"]["tissue"]["geometries"]["scattered"]["predictors"]
    # A mean of nearest cells predicts better than nothing at all, and worse than many cells.
    assert predictors["weighted_knn"]["mean"]["mse"] < predictors["few_nearest"]["mean"]["mse"]


@pytest.mark.usefixtures("installed", "workspace")
def test_the_annotator_annotates(cifm: Callable) -> None:
    outcome = cifm("annotate", "apply", "--annotator", "onegene")
    assert outcome.code == 0, outcome.err
    assert set(pd.read_csv("annotated/tissue.csv")["cell_type"]) == {"T cell", "unassigned"}
    outcome = cifm("annotate", "apply", "--annotator", "onegene:NOGENE", "--out", "other")
    assert outcome.code == 1
    assert "error: tissue lacks the gene NOGENE" in outcome.err
    assert "hint: name a gene of the slide" in outcome.err
    assert not Path("other").exists()
