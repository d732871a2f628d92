"""`cifm inspect` on all files that cifm writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
from builders import EMBEDDING_ORIGIN

from cifm_cli.data.prepare.describe_download import describe_download
from cifm_cli.data.writers.embedded import write_embedded
from cifm_cli.stored_results import KINDS


def facts(cifm, path: Path) -> dict:
    code, out, err = cifm("inspect", path, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_prepared_slide(cifm, prepared_synthetic: Path) -> None:
    result = facts(cifm, prepared_synthetic)
    assert result["kind"] == "prepared slide"
    assert result["platform"] == "xenium"
    assert sum(result["split"].values()) == result["cells"] == result["report"]["cells"]["kept"]
    assert result["provenance"]["command"] == "prepare"
    assert list(result)[:7] == ["kind", "cells", "genes", "extent_um", "platform", "sample", "tissue"]
    assert "cluster" in result["columns"]


def test_slides_are_inspected_without_torch(prepared_synthetic: Path) -> None:
    words = f"main(['inspect', '{prepared_synthetic}']), main(['inspect', '{prepared_synthetic.parent}'])"
    program = f"import sys; from cifm_cli.app import main; print({words}, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 0 False"


def test_folder_of_slides(cifm, prepared_synthetic: Path) -> None:
    corpus, slide = facts(cifm, prepared_synthetic.parent), facts(cifm, prepared_synthetic)
    shared = ("cells", "genes", "split", "platform", "radius_um", "condition", "tissue", "sample")
    assert corpus["slides"] == {"tissue": {key: slide[key] for key in shared}}
    assert (corpus["cells"], corpus["split"]) == (slide["cells"], slide["split"])
    assert corpus["genes"] == {"union": slide["genes"], "shared": slide["genes"]}


def test_table_shows_the_same_as_json(cifm, prepared_synthetic: Path) -> None:
    code, out, err = cifm("inspect", prepared_synthetic)
    rows = dict(line.split(maxsplit=1) for line in out.splitlines() if len(line.split(maxsplit=1)) == 2)
    assert (code, err) == (0, "")
    assert rows["cells"] == str(facts(cifm, prepared_synthetic)["cells"])
    assert rows["split.train"] == str(facts(cifm, prepared_synthetic)["split"]["train"])


def test_run_and_its_model(cifm, tmp_path: Path) -> None:
    from cifm_cli.model.checkpoint import save_checkpoint
    from cifm_cli.model.ensemble import Ensemble
    from cifm_cli.recipe import Recipe
    from cifm_cli.recipe_sections import ModelRecipe

    recipe = Recipe(model=ModelRecipe(width=8))
    genes = ("ENSG1", "ENSG2", "ENSG3")
    save_checkpoint(tmp_path / "model.safetensors", Ensemble(len(genes), recipe), recipe, genes, {"seed": 7})
    result = facts(cifm, tmp_path)
    assert result == facts(cifm, tmp_path / "model.safetensors")
    assert (result["kind"], result["genes"], result["recipe"]["model"]["width"]) == ("checkpoint", 3, 8)
    assert result["provenance"] == {"seed": 7}
    parts = dict(result["parameters"])
    assert parts.pop("total") == sum(parts.values())


def test_training_state(cifm, prepared_synthetic: Path, tmp_path: Path) -> None:
    from builders import train_short_run

    train_short_run(prepared_synthetic, tmp_path / "run")
    path = sorted((tmp_path / "run").glob("train_state-*"))[-1]
    result = facts(cifm, path)
    assert (result["kind"], result["step"], result["seed"], result["backend"]) == ("training state", 3, 0, "torch")
    content = bytearray(path.read_bytes())
    content[-4] ^= 1
    path.write_bytes(content)
    code, _, err = cifm("inspect", path)
    assert code == 1
    assert f"error: {path}: damaged, its checksum is wrong\nhint: " in err


@pytest.mark.parametrize("slots", [["X_cifm"], ["X_cifm_cell"], ["X_cifm", "X_cifm_cell"]])
def test_embedded_slide(cifm, prepared_synthetic: Path, tmp_path: Path, slots: list[str]) -> None:
    path = tmp_path / "e.h5ad"
    write_embedded(path, prepared_synthetic, {slot: np.zeros((784, 4), np.float32) for slot in slots}, EMBEDDING_ORIGIN)
    with h5py.File(path) as file:
        obs = sorted(set(file["obs"]) - {"_index"})
    assert facts(cifm, path) == {
        "kind": "embedded slide",
        "obs": obs,
        "obsm": {"spatial": [784, 2], **{slot: [784, 4] for slot in slots}},
        "embedding": EMBEDDING_ORIGIN,
    }


@pytest.mark.parametrize("command", ["predict", "simulate"])
def test_another_result(cifm, tmp_path: Path, command: str) -> None:
    path = tmp_path / "slide.h5ad"
    result = ad.AnnData(np.zeros((2, 3)), layers={"expressed": np.zeros((2, 3))}, obsm={"spatial": np.zeros((2, 2))})
    result.uns["cifm"] = {"provenance": json.dumps({"command": command})}
    result.write_h5ad(path)
    expected = {
        "kind": f"result of cifm {command}",
        "obs": [],
        "layers": ["expressed"],
        "obsm": {"spatial": [2, 2]},
        "provenance": {"command": command},
    }
    assert facts(cifm, path) == expected
    assert facts(cifm, tmp_path) == {"slide.h5ad": expected}


def test_the_extent_of_a_slide_can_be_typed(cifm, prepared_synthetic: Path) -> None:
    xy_um = ad.read_h5ad(prepared_synthetic).obsm["spatial"]
    extent = facts(cifm, prepared_synthetic)["extent_um"]
    assert extent["x"] == pytest.approx([xy_um[:, 0].min(), xy_um[:, 0].max()], abs=0.051)
    assert extent["y"] == pytest.approx([xy_um[:, 1].min(), xy_um[:, 1].max()], abs=0.051)


def test_a_download(cifm, tmp_path: Path) -> None:
    matrix = ad.AnnData(np.ones((3, 2), np.float32), obsm={"spatial": np.array([[0.0, 5.0], [30.0, 7.0], [10.0, 6.0]])})
    matrix.var_names = ["ENSG00000000003", "ENSG00000000005"]
    matrix.write_h5ad(tmp_path / "slide.h5ad")
    found = describe_download(tmp_path / "slide.h5ad")
    assert (found["cells"], found["features"]) == (3, {"Gene Expression": 2})
    assert found["extent_um"] == {"x": [0.0, 30.0], "y": [5.0, 7.0]}
    assert found["next"] == f"cifm prepare {tmp_path / 'slide.h5ad'}"


def test_something_else_is_no_download(cifm, tmp_path: Path) -> None:
    code, out, err = cifm("inspect", tmp_path)
    assert (code, out) == (1, "")
    assert [line.split(":")[0] for line in err.splitlines()] == ["error", "hint"]


@pytest.mark.parametrize(
    ("name", "command", "content", "sentence"),
    [
        (
            "metrics.json",
            "evaluate",
            {"slides": {"a": {}}, "verdict": {"sentence": "Better.", "remarks": ["r"]}},
            "Better.",
        ),
        ("own.json", "probe", {"label": "c", "evidence": {"answer": "Good.", "remarks": ["r"]}}, "Good."),
        (
            "sharing.json",
            "share",
            {"samples": {"a": 3}, "answer": {"sentence": "Shared.", "remarks": ["r"]}},
            "Shared.",
        ),
    ],
)
def test_the_result_of_a_command(cifm, tmp_path: Path, name: str, command: str, content: dict, sentence: str) -> None:
    (tmp_path / name).write_text(json.dumps(content | {"provenance": {"command": command, "seed": 0}}), encoding="utf8")
    found = facts(cifm, tmp_path / name)
    assert (found["kind"], found["sentence"], found["remarks"]) == (KINDS[command], sentence, ["r"])
    assert found["provenance"] == {"command": command, "seed": 0}
    if name != "own.json":
        assert facts(cifm, tmp_path) == found


def test_a_json_file_that_is_no_result(cifm, tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text('{"a": 1}', encoding="utf8")
    code, out, err = cifm("inspect", tmp_path / "own.json")
    assert (code, out) == (1, "")
    assert "own.json: not a result of cifm, or damaged" in err
