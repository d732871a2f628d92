"""Releases that cannot be imported: one error, one hint, nothing executed, nothing written. And those that are a little unlike."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from release_stand_in import stand_in_tensors, write_release
from safetensors.torch import load_file, save_file

from cifm_cli.model.checkpoint import load_checkpoint
from cifm_cli.release.files import read_arguments, read_channels
from cifm_cli.release.importing import import_release
from cifm_cli.release.names import ReleaseNames, TensorStore

GENES = tuple(f"ENSG{number:011d}" for number in range(6))
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return write_release(tmp_path / "release", GENES, stand_in_tensors(len(GENES), 8))


@pytest.fixture
def refused(cifm: Callable[..., Any], release: Path, tmp_path: Path) -> Callable[..., str]:
    """Import a release that is refused; returns error and hint."""

    def run(*words: object) -> str:
        before = sorted(path.name for path in tmp_path.iterdir())
        code, out, err = cifm("import-release", release, "--out", tmp_path / "run", *words)
        assert (code, out) == (1, ""), err
        assert [line.split(":")[0] for line in err.splitlines()] == ["error", "hint"], err
        assert sorted(path.name for path in tmp_path.iterdir()) == before
        return str(err)

    return run


def change_tensors(release: Path, change: Callable[[Tensors], None]) -> None:
    tensors = load_file(release / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, release / "model.safetensors")


class Calls:
    """An object whose pickle calls `os.mkdir`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        """Tell pickle what to call."""
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("name", ["args.pt", "channel2ensembl.pt"])
@pytest.mark.parametrize("plain", [True, False])
def test_a_pickle_that_calls_is_not_run(
    refused: Callable[..., str], release: Path, tmp_path: Path, name: str, plain: bool
) -> None:
    target, content = release / "models_cifm" / name, [Calls(tmp_path / "called")]
    target.write_bytes(pickle.dumps(content)) if plain else torch.save(content, target)
    assert "pickle" in refused()


@pytest.mark.parametrize("name", ["model.safetensors", "models_cifm/args.pt", "models_cifm/channel2ensembl.pt"])
def test_a_pointer_of_git_lfs_is_explained(refused: Callable[..., str], release: Path, name: str) -> None:
    (release / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 569000000\n")
    assert "git lfs pull" in refused()


@pytest.mark.parametrize("name", ["model.safetensors", "models_cifm/args.pt", "models_cifm/channel2ensembl.pt"])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "text"])
def test_files_that_are_missing_or_damaged(refused: Callable[..., str], release: Path, name: str, damage: str) -> None:
    path = release / name
    content = {"cut": path.read_bytes()[:200], "empty": b"", "text": b"hello"}.get(damage)
    path.unlink() if content is None else path.write_bytes(content)
    assert Path(name).stem in refused()


def without(name: str) -> Callable[[Tensors], None]:
    return lambda tensors: [tensors.pop(key) for key in list(tensors) if key.startswith(name)] and None  # type: ignore[func-returns-value]


def with_tensor(name: str, tensor: torch.Tensor) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: tensor})


LAYER = "model.convs.1"
CHANGES = {
    "not finite": (with_tensor("proj.weight", torch.tensor([[1.0, float("nan")]])), "not finite"),
    "integers": (with_tensor("mask_embedding.weight", torch.ones(1, 8, dtype=torch.int64)), "numbers are needed"),
    "unknown": (with_tensor("attention.weight", torch.ones(8, 8)), "unknown tensor attention.weight (8, 8)"),
    "bias": (with_tensor("gene_encoder.layers.0.bias", torch.ones(8)), "unknown tensor gene_encoder.layers.0.bias"),
    "no mask": (without("mask_embedding"), "mask_embedding.weight"),
    "two masks": (with_tensor("mask_embedding.weight", torch.ones(2, 8)), "one row is needed"),
    "narrow mask": (with_tensor("mask_embedding.weight", torch.ones(1, 7)), "8 are needed"),
    "no decoder": (without("mask_cell_decoder"), "no layers mask_cell_decoder.convs.0"),
    "a layer short": (without("model.convs.0"), "no layers model.convs.0"),
    "a map short": (without(f"{LAYER}.mlp_msg.layers.3"), f"maps of {LAYER}.mlp_msg"),
    "one map": (without("gene_encoder.layers.1"), "maps of"),
    "a vector": (with_tensor(f"{LAYER}.mlp_upd.layers.1.weight", torch.ones(8)), "a matrix is needed"),
    "maps apart": (with_tensor(f"{LAYER}.mlp_upd.layers.1.weight", torch.ones(8, 9)), "do not fit together"),
    "two steps": (with_tensor(f"{LAYER}.mlp_pos.layers.3.weight", torch.ones(2, 8)), f"maps of {LAYER}.mlp_pos"),
    "few outputs": (with_tensor("mask_cell_dropout.layers.3.weight", torch.ones(5, 8)), "maps of mask_cell_dropout"),
    "gates": (with_tensor("model.convs.0.innerprod_embedding.layers.3.weight", torch.ones(3, 8)), "1 or 24 are needed"),
    "one output": (with_tensor("model.pred.0.weight", torch.ones(8, 8)), "at least two maps"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_weights_unlike_the_release(refused: Callable[..., str], release: Path, change: str) -> None:
    apply, message = CHANGES[change]
    change_tensors(release, apply)
    assert message in refused()


def test_an_mlp_after_the_encoder_alone(refused: Callable[..., str], release: Path) -> None:
    change_tensors(
        release, lambda tensors: tensors.update({f"model.pred.{n}.weight": torch.ones(8, 8) for n in (0, 1)})
    )
    assert "mask_cell_decoder.pred" in refused()


ARGUMENTS: dict[str, tuple[Any, str]] = {
    "no radius": (argparse.Namespace(hidden_dim=8), "--radius-um"),
    "two radii": ({"radius_a": 20, "radius_b": 150}, "--radius-um"),
    "negative radius": ({"radius": -20.0}, "--radius-um"),
    "endless radius": ({"radius": float("inf")}, "--radius-um"),
    "another width": ({"radius": 20, "hidden_dim": 1024}, "hidden_dim is 1024"),
    "other genes": ({"radius": 20, "in_dim": 7}, "in_dim is 7"),
    "a list": ([20], "not a table"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments_unlike_the_release(refused: Callable[..., str], release: Path, case: str) -> None:
    content, message = ARGUMENTS[case]
    torch.save(content, release / "models_cifm" / "args.pt")
    assert message in refused()


CHANNELS: dict[str, tuple[Any, str]] = {
    "too few": (GENES[:5], "5 channels, but the weights have 6"),
    "symbols": (["EPCAM"] * 6, "not an Ensembl id"),
    "numbers": (list(range(6)), "not an Ensembl id"),
    "nothing": ([], "no genes"),
    "a word": ("ENSG00000000001", "not a list"),
    "gaps": ({0: "ENSG00000000001", 2: "ENSG00000000002"}, "numbered 0 to 1"),
}


@pytest.mark.parametrize("case", CHANNELS)
def test_channels_unlike_the_release(refused: Callable[..., str], release: Path, case: str) -> None:
    content, message = CHANNELS[case]
    torch.save(content, release / "models_cifm" / "channel2ensembl.pt")
    assert message in refused()


def test_names_that_are_no_names(refused: Callable[..., str], tmp_path: Path) -> None:
    names = tmp_path / "names.json"
    names.write_text('{"encodr": "model"}')
    assert "encodr" in refused("--names", names)
    names.write_text('{"encoder": "network"}')
    assert "no layers network.convs.0" in refused("--names", names)
    assert "no such file" in refused("--names", tmp_path / "absent.json").lower()


def test_a_folder_that_is_no_release(cifm: Callable[..., Any], tmp_path: Path) -> None:
    code, _, err = cifm("import-release", tmp_path / "absent", "--out", tmp_path / "run")
    assert code == 1
    assert "no such folder" in err


def test_an_existing_run_is_kept(cifm: Callable[..., Any], release: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    code, _, err = cifm("import-release", release, "--out", tmp_path / "run")
    assert code == 1
    assert "already exists" in err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_json_in_place_of_pickles(release: Path, tmp_path: Path) -> None:
    for path in (release / "models_cifm").iterdir():
        path.unlink()
    (release / "args.json").write_text(json.dumps({"radius_um": 25, "nested": {"left": "out"}}))
    (release / "channel2ensembl.json").write_text(json.dumps({str(n): [gene] for n, gene in enumerate(GENES)}))
    import_release(release, tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint.vocabulary == GENES
    assert checkpoint.recipe.data.radius_um == 25
    assert checkpoint.provenance["release"]["arguments"] == {"radius_um": 25}


def test_other_names_and_numbers_of_modules(release: Path, tmp_path: Path) -> None:
    def rename(tensors: Tensors) -> None:
        renamed = {name.replace("mlp_msg.layers.", "phi.net."): tensor for name, tensor in tensors.items()}
        # Maps between activations and norms in a `Sequential` are not numbered one by one.
        renamed = {name.replace("gene_encoder.layers.3", "gene_encoder.layers.12"): t for name, t in renamed.items()}
        tensors.clear()
        tensors.update(renamed)

    import_release(release, tmp_path / "one")
    change_tensors(release, rename)
    (tmp_path / "names.json").write_text('{"message": "phi"}')
    import_release(release, tmp_path / "two", names=tmp_path / "names.json")
    one, two = (load_checkpoint(tmp_path / name).network.state_dict() for name in ("one", "two"))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_weights_in_half_precision(release: Path, tmp_path: Path) -> None:
    change_tensors(release, lambda tensors: tensors.update({name: t.bfloat16() for name, t in tensors.items()}))
    import_release(release, tmp_path / "run")
    assert {weight.dtype for weight in load_checkpoint(tmp_path / "run").network.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "content",
    [
        ["ENSG00000000001.7", "ENSG00000000002"],
        [["ENSG00000000001"], ("ENSG00000000001", "ENSG00000000002.1")],
        {1: "ENSG00000000002", 0: "ENSG00000000001"},
        {"0": ["ENSG00000000001"], "1": ["ENSG00000000002"]},
        np.array(["ENSG00000000001", "ENSG00000000002"], dtype=object),
    ],
    ids=["versions", "lists", "numbers", "texts", "array"],
)
def test_forms_of_the_gene_list(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "channel2ensembl.pt")
    assert read_channels(tmp_path / "channel2ensembl.pt") == ["ENSG00000000001", "ENSG00000000002"]


def test_channels_without_a_gene_of_their_own_are_left_out(release: Path, tmp_path: Path) -> None:
    channels = [["ENSG00000000001"], [], ["ENSG00000000001.2"], ["ENSG00000000003"], ["ENSG00000000004"], []]
    torch.save(channels, release / "models_cifm" / "channel2ensembl.pt")
    result = import_release(release, tmp_path / "run")
    assert (result.num_channels, result.num_genes) == (6, 3)
    checkpoint, tensors = load_checkpoint(tmp_path / "run"), load_file(release / "model.safetensors")
    assert checkpoint.vocabulary == ("ENSG00000000001", "ENSG00000000003", "ENSG00000000004")
    rows = [0, 3, 4]
    assert torch.equal(checkpoint.network.first.genes.weight, tensors["gene_encoder.layers.0.weight"].T[rows])
    assert torch.equal(checkpoint.network.first.head.logit.weight, tensors["mask_cell_dropout.layers.3.weight"][rows])


def test_arguments_in_a_plain_pickle(tmp_path: Path) -> None:
    (tmp_path / "args.pt").write_bytes(pickle.dumps(argparse.Namespace(radius=20, tags=["a"], name="cifm", none=None)))
    assert read_arguments(tmp_path / "args.pt") == {"radius": 20, "name": "cifm", "none": None}


def test_large_pickles_are_not_read(
    refused: Callable[..., str], release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cifm_cli.release.files._MAX_BYTES", 100)
    assert "larger than" in refused()


def test_a_zip_that_is_no_file_of_torch(refused: Callable[..., str], release: Path) -> None:
    with zipfile.ZipFile(release / "models_cifm" / "args.pt", "w") as archive:
        archive.writestr("hello.txt", "hello")
    assert "not a readable checkpoint" in refused()


def test_maps_are_taken_in_the_order_of_their_numbers() -> None:
    tensors = {f"mlp.layers.{number}.weight": torch.full((4, 4), float(number)) for number in (10, 2, 0)}
    maps = TensorStore(Path("file"), tensors).take_maps("mlp")
    assert [float(weight[0, 0]) for weight in maps] == [0, 2, 10]


def test_known_names_are_those_of_the_documentation() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "release.md").read_text(encoding="utf8")
    for role, name in ReleaseNames().model_dump().items():
        assert f"| `{role}` | `{name}` |" in page, role
