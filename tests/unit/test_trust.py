"""The trust line: what an evaluation in the workspace found about a model, recognised by its content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cifm_cli.evaluation.trust import find_trust
from cifm_cli.provenance import hash_file

SENTENCE = "tissue, scattered: the model predicts hidden cells worse than ridge."


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of a workspace, which is the working folder."""
    monkeypatch.chdir(tmp_path)
    run = Path("runs/a")
    run.mkdir(parents=True)
    (run / "model.safetensors").write_bytes(b"weights")
    return run


def store(run: Path, decisions: dict[str, str], name: str = "model", **changes: Any) -> Path:
    """Write `evaluation/metrics.json` with a decision for each geometry."""
    content = {
        "verdict": {
            "sentences": {name: SENTENCE},
            "models": {name: {geometry: {"decision": decision} for geometry, decision in decisions.items()}},
        },
        "provenance": {
            "models": {name: run.as_posix()},
            "inputs": {f"{run.as_posix()}/model.safetensors": hash_file(run / "model.safetensors")},
        },
        "slides": {"tissue": {}},
    }
    path = Path("evaluation/metrics.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**content, **changes}), encoding="utf8")
    return path


def test_a_model_that_was_not_evaluated(run: Path) -> None:
    trust = find_trust(run, [Path("tissue.h5ad")])
    assert (trust["status"], trust["evaluation"]) == ("not evaluated", None)
    assert trust["sentence"].endswith("cifm evaluate --model runs/a tells.")


@pytest.mark.parametrize(
    ("decisions", "status"),
    [
        ({"scattered": "better", "region": "better"}, "better"),
        ({"scattered": "better", "region": "no difference shown"}, "no difference shown"),
        ({"scattered": "no difference shown", "region": "worse"}, "worse"),
    ],
)
def test_the_worst_geometry_decides(run: Path, decisions: dict[str, str], status: str) -> None:
    path = store(run, decisions)
    trust = find_trust(run, [Path("prepared/tissue.h5ad")])
    assert (trust["status"], trust["evaluation"]) == (status, path.as_posix())
    assert trust["sentence"].startswith(f"Evaluation of this model: {SENTENCE}")
    assert ("no more trust than what a simple baseline" in trust["sentence"]) == (status != "better")


def test_a_model_of_another_name_and_another_slide(run: Path) -> None:
    store(run, {"scattered": "better"}, name="model:other")
    trust = find_trust(run, [Path("tissue.h5ad"), Path("second.h5ad")])
    assert trust["status"] == "better"
    assert trust["sentence"].endswith("It was not evaluated on second.")


def test_it_is_found_from_another_working_folder(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(run, {"scattered": "better"})
    monkeypatch.chdir(tmp_path / "runs")
    assert find_trust(Path("a"), [])["status"] == "better"


def test_another_model_in_the_same_folder_is_not_the_one_that_was_evaluated(run: Path) -> None:
    store(run, {"scattered": "better"})
    (run / "model.safetensors").write_bytes(b"other weights")
    assert find_trust(run, [])["status"] == "not evaluated"


@pytest.mark.parametrize("content", ["", "[1]", '{"verdict": 1}', '{"slides": {}}'])
def test_damaged_files_and_those_of_earlier_versions_say_nothing(run: Path, content: str) -> None:
    store(run, {"scattered": "better"}).write_text(content, encoding="utf8")
    assert find_trust(run, [])["status"] == "not evaluated"
