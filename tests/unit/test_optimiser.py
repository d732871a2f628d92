"""Frozen parts of a network, and learning rates that fall from the head to the input; on an imported release."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import read_tensors
from release_stand_in import stand_in_tensors, write_release

from cifm_cli.data.slide import open_slide
from cifm_cli.errors import CifmError
from cifm_cli.model.checkpoint import load_checkpoint
from cifm_cli.model.ensemble import Ensemble
from cifm_cli.provenance import seeded_torch
from cifm_cli.recipe import parse
from cifm_cli.recipe_sections import TrainRecipe
from cifm_cli.release.importing import import_release
from cifm_cli.training.optimiser import freeze, make_optimiser, set_learning_rate

SHORT = ["train.steps=2", "train.validate_every=2", "train.validation_tiles=1", "train.warmup_steps=0"]


def network(**model: Any) -> Ensemble:
    recipe = parse({"model": {"width": 8, "heads": 2, **model}, "objective": {"name": "balanced_mse"}}, "test")
    with seeded_torch(0, "network"):
        return Ensemble(5, recipe)


def rates(ensemble: Ensemble, **train: Any) -> dict[str, float]:
    """Learning rate of each weight, if that of the schedule is 1."""
    optimiser = make_optimiser(ensemble, TrainRecipe(**train))
    set_learning_rate(optimiser, 1.0)
    by_weight = {id(weight): group["lr"] for group in optimiser.param_groups for weight in group["params"]}
    return {name: by_weight.get(id(weight), 0.0) for name, weight in ensemble.named_parameters()}


@pytest.fixture(scope="module")
def release(prepared_synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    genes = open_slide(prepared_synthetic).gene_ids
    write_release(folder / "download", genes, stand_in_tensors(len(genes), 8))
    import_release(folder / "download", folder / "run")
    return folder / "run"


@pytest.fixture
def fine_tune(cifm: Callable[..., Any], release: Path, workspace: Path) -> Callable[..., Any]:
    """Run `cifm train` from the imported release; `settings` are those of `--set`."""

    def run(*settings: str, out: str = "tuned", words: tuple[str, ...] = ("--init",)) -> Any:
        options = [word for setting in (*SHORT, *settings) for word in ("--set", setting)]
        init = ["--init", release] if words == ("--init",) else list(words)
        return cifm("train", release / "recipe.toml", *init, "--out", out, *options)

    return run


def test_without_keys_all_rates_are_equal_and_matrices_decay() -> None:
    ensemble = network()
    optimiser = make_optimiser(ensemble, TrainRecipe(weight_decay=0.3))
    assert [group["weight_decay"] for group in optimiser.param_groups] == [0.3, 0.0]
    assert {weight.ndim > 1 for weight in optimiser.param_groups[0]["params"]} == {True}
    assert {weight.ndim > 1 for weight in optimiser.param_groups[1]["params"]} == {False}
    assert set(rates(ensemble).values()) == {1.0}


def test_rates_fall_from_the_head_to_the_input() -> None:
    found = rates(network(members=2), layer_decay=0.5)
    for member in ("members.0.", "members.1."):
        expected = {"head.magnitude.weight": 1, "decoder.1.radial": 1 / 2, "decoder.0.radial": 1 / 4, "padding": 1 / 4}
        expected |= {"encoder.1.radial": 1 / 8, "encoder.0.radial": 1 / 16, "genes.weight": 1 / 32}
        for name, rate in expected.items():
            assert found[member + name] == rate, name


def test_rates_of_the_parts_of_a_release() -> None:
    release = {"message": "release", "heads": 1, "residual": False, "self_loops": True, "output_maps": 2}
    found = rates(network(**release), layer_decay=0.5)
    assert found["members.0.gene_maps.last.weight"] == found["members.0.genes.weight"] == 1 / 32
    assert found["members.0.encoder_output.last.weight"] == found["members.0.encoder.1.bfmlp4.last.weight"] == 1 / 8
    assert found["members.0.decoder_output.last.weight"] == found["members.0.decoder.1.bfmlp4.last.weight"] == 1 / 2
    assert found["members.0.head.logit_trunk.first.weight"] == 1


def test_frozen_parts_are_in_no_group() -> None:
    found = rates(network(members=2), freeze=("encoder.0", "head.magnitude.bias", "padding"))
    frozen = {name for name, rate in found.items() if rate == 0}
    assert {name.removeprefix("members.0.").removeprefix("members.1.").split(".")[0] for name in frozen} == {
        "encoder", "head", "padding"
    }  # fmt: skip
    assert "members.1.encoder.0.radial" in frozen
    assert "members.0.encoder.1.radial" not in frozen
    assert "members.0.head.magnitude.weight" not in frozen


def test_names_of_nothing_and_of_everything_are_refused() -> None:
    with pytest.raises(CifmError, match=r"no part of the network is called encode$"):
        freeze(network(), ("encode",))
    with pytest.raises(CifmError, match="nothing is left"):
        freeze(network(), ("genes", "encoder", "decoder", "padding", "head"))


def test_fine_tuning_of_a_release_keeps_frozen_parts(fine_tune: Callable[..., Any], release: Path) -> None:
    code, _, err = fine_tune(
        'train.freeze=["genes", "gene_maps", "encoder"]', "train.layer_decay=0.8", "train.learning_rate=1e-5"
    )
    assert code == 0, err
    before = load_checkpoint(release).network.stored_weights()
    after, _ = read_tensors(Path("tuned", "train_state-00000002.safetensors"))  # the best weights may be the first ones
    changed = {
        name.split(".")[0] for name, weight in before.items() if not torch.equal(weight, after[f"weights.{name}"])
    }
    assert changed == {"decoder", "head", "padding"}


def test_resuming_with_other_frozen_parts_is_refused(fine_tune: Callable[..., Any]) -> None:
    assert fine_tune()[0] == 0
    code, _, err = fine_tune('train.freeze=["genes"]', "train.steps=4", words=("--resume",))
    assert code == 1
    assert "train.freeze" in err


def test_a_mistyped_part_is_one_error(fine_tune: Callable[..., Any]) -> None:
    code, _, err = fine_tune('train.freeze=["encodre"]')
    assert code == 1
    assert [line.split(":")[0] for line in err.splitlines() if line.startswith(("error", "hint"))] == ["error", "hint"]
    assert not Path("tuned", "model.safetensors").exists()
