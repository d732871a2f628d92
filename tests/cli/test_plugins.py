"""Plugins of an installed package: `tests/example_plugins`, with a backend, an annotator and a baseline."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

import cifm_backends
from cifm_backends.base import Messages
from cifm_backends.conformance.__main__ import main as check_backend
from cifm_cli.evaluation.predictors import registry
from cifm_cli.evaluation.predictors.local_averages import TrainingMean, WeightedNeighbours

PACKAGE = Path(__file__).resolve().parents[1] / "example_plugins"
NAMES = {"backends": "chunked", "annotators": "onegene", "baselines": "few_nearest"}
CACHES = ("_entry_points", "_names_by_priority", "_backend_class", "_status")


@pytest.fixture
def plugins(
    build_once: Callable[[str, Callable[[Path], object]], Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Install the package into a folder and put that onto the path."""
    pytest.importorskip("hatchling", reason="hatchling builds the example package")

    def install(folder: Path) -> None:
        # Without isolation and dependencies, pip needs no network. A copy, as the build writes into the source.
        options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", folder, PACKAGE], check=True)

    folder = build_once("example-plugins", install)
    before = set(sys.modules)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(folder))
        clear_caches()
        yield folder
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "cifm_example":
            del sys.modules[name]
    clear_caches()


def clear_caches() -> None:
    for name in CACHES:
        getattr(cifm_backends, name).cache_clear()


def test_the_installed_package_has_an_entry_point_of_each_kind(plugins: Path) -> None:
    (text,) = plugins.glob("cifm_example-1.0.dist-info/entry_points.txt")
    for group, name in NAMES.items():
        assert f"[cifm.{group}]\n{name} = cifm_example." in text.read_text()


def test_plugins_are_listed(plugins: Path, cifm: Callable) -> None:
    backends = {line["name"]: line for line in json.loads(cifm("backends", "--json").out)}
    assert (backends["chunked"]["version"], backends["chunked"]["problem"]) == ("cifm-example 1.0", None)
    assert "cpu" in backends["chunked"]["devices"]
    assert backends["chunked"]["auto"] == []
    assert "onegene" in cifm("annotate", "list", "--json").out
    assert sys.modules["cifm_example"].__file__.startswith(str(plugins))


def test_the_backend_passes_the_conformance_checks(plugins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_backend(["--backend", "chunked", "--case", "self loops", "--case", "no cells"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "backend chunked (cifm-example 1.0) on cpu"
    assert len(lines) == 1 + 2 * 3 + 1
    assert all(line.startswith("passed: ") for line in lines[1:-1])
    assert lines[-1].endswith(" checks passed")


def test_the_last_chunk_need_not_be_full(
    plugins: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cifm_backends.available()
    monkeypatch.setattr(sys.modules["cifm_example.backend"], "CHUNK", 4)
    words = ["--backend", "chunked", "--dtype", "float64", "--case", "isolated cells", "--case", "void cells"]
    assert check_backend(words) == 0, capsys.readouterr().out


def test_a_wrong_backend_fails(
    plugins: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = type(cifm_backends.select("chunked", "cpu"))
    right = backend.messages

    def double(*inputs: object) -> Messages:
        return Messages(*(2 * value for value in right(*inputs)))

    words = ["--backend", "chunked", "--dtype", "float32", "--case", "self loops"]
    monkeypatch.setattr(backend, "messages", double)
    assert check_backend(words) == 1
    out = capsys.readouterr().out
    assert "FAILED: pooled; self loops; float32: error" in out
    assert "passed" not in out
    assert " checks failed" in out.splitlines()[-1]

    def fail(*_: object) -> Messages:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(backend, "messages", fail)
    assert check_backend(words) == 1
    assert "FAILED: self loops; float32: RuntimeError: no such kernel\n1 of 1 checks failed" in capsys.readouterr().out


def test_a_backend_that_is_not_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_backend(["--backend", "chunkde"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown backend chunkde; installed: ")
    with pytest.raises(SystemExit) as caught:
        check_backend(["--backend", "torch", "--case", "no such case"])
    assert caught.value.code == 2


@pytest.mark.usefixtures("blank_figures", "workspace", "plugins")
def test_plugins_train_evaluate_and_annotate(cifm: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BASELINES", (TrainingMean, WeightedNeighbours))  # the others take most of the time
    small = [
        "--set=train.steps=2",
        "--set=train.validation_tiles=1",
        "--set=model.width=8",
        "--set=data.tile_cells=400",
    ]
    small += ["--set=objective.linear_rank=0", "--set=objective.states=6"]
    trained = cifm("train", "demo", *small, "--backend", "chunked")
    assert trained.code == 0, trained.err
    assert "backend chunked (cifm-example 1.0)" in trained.err
    evaluated = cifm("evaluate", "--rounds", "1", "--geometry", "scattered", "--adapt", "none", "--json")
    assert evaluated.code == 0, evaluated.err
    predictors = json.loads(evaluated.out)["slides"]["tissue"]["geometries"]["scattered"]["predictors"]
    assert predictors["few_nearest"]["mean"]["mse"] > 0
    without_gene = cifm("annotate", "apply", "--annotator", "onegene")
    assert without_gene.code == 1
    hint = next(line for line in without_gene.err.splitlines() if line.startswith("hint: "))
    annotator = hint.rpartition(" ")[2]
    annotated = cifm("annotate", "apply", "--annotator", annotator)
    assert annotated.code == 0, annotated.err
    (table,) = Path("annotated").glob("*.csv")
    types = pd.read_csv(table)["cell_type"]
    assert set(types) == {f"{annotator.partition(':')[2]}+ cell", "unassigned"}
