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

from cifm_cli.data.writers.embedded import write_embedded


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
