"""Checkpoints: round trips, names of weights in files, and messages for unusable files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from builders import read_tensors
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from cifm_cli import keys
from cifm_cli.errors import CifmError
from cifm_cli.model.checkpoint import describe, load_checkpoint, save_checkpoint
from cifm_cli.model.ensemble import Ensemble
from cifm_cli.recipe import Recipe, parse
from cifm_cli.tensor_files import save_tensors

GENES = ("ENSG00000000003", "ENSG00000000005", "ENSG00000000419")


def make_recipe(members: int = 1) -> Recipe:
    return parse({"model": {"width": 8, "heads": 2, "encoder_layers": 1, "members": members}}, "test")


def save(folder: Path) -> Ensemble:
    network = Ensemble(len(GENES), make_recipe())
    save_checkpoint(folder / "model.safetensors", network, make_recipe(), GENES, {"seed": 3})
    return network


def test_round_trip(tmp_path: Path) -> None:
    network = save(tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert loaded.recipe == make_recipe()
    assert loaded.vocabulary == GENES
    assert loaded.provenance == {"seed": 3}
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in loaded.network.state_dict().items())


def test_members_after_the_first_have_a_prefix_in_files(tmp_path: Path) -> None:
    path, recipe = tmp_path / "model.safetensors", make_recipe(members=3)
    ensemble = Ensemble(len(GENES), recipe)
    save_checkpoint(path, ensemble, recipe, GENES, {})
    stored, single = read_tensors(path)[0], set(Ensemble(len(GENES), make_recipe()).stored_weights())
    prefixes = ("", "others.0.", "others.1.")
    shared = {name for name in single if name.startswith(("pooled.", "linear."))}
    assert set(stored) == shared | {prefix + name for prefix in prefixes for name in single - shared}
    loaded = load_checkpoint(tmp_path).network
    for prefix, saved, read in zip(prefixes, ensemble.members, loaded.members, strict=True):
        assert torch.equal(stored[f"{prefix}genes.weight"], saved.genes.weight)
        assert torch.equal(read.genes.weight, saved.genes.weight)


def test_another_number_of_members_does_not_fit(tmp_path: Path) -> None:
    ensemble = Ensemble(len(GENES), make_recipe(members=2))
    save_checkpoint(tmp_path / "model.safetensors", ensemble, make_recipe(members=3), GENES, {})
    with pytest.raises(CifmError, match="do not fit"):
        load_checkpoint(tmp_path)


@given(
    st.dictionaries(
        st.text("abc.", min_size=1), st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False)), max_size=4
    )
)
def test_tensors_round_trip(tmp_path_factory: pytest.TempPathFactory, content: dict[str, list[float]]) -> None:
    path = tmp_path_factory.mktemp("tensors") / "some.safetensors"
    save_tensors(
        path, {name: torch.tensor(values) for name, values in content.items()}, {"format": keys.CHECKPOINT_FORMAT}
    )
    assert {name: tensor.tolist() for name, tensor in read_tensors(path)[0].items()} == content


@pytest.mark.parametrize("size", [0, 1])
def test_tensors_of_at_most_one_value_are_stored_with_any_stride(tmp_path: Path, size: int) -> None:
    path = tmp_path / "some.safetensors"
    repeated = torch.tensor(7).expand(size)
    assert repeated.stride() == (0,)
    save_tensors(path, {"repeated": repeated}, {"format": keys.CHECKPOINT_FORMAT}, checksum=True)
    assert read_tensors(path)[0]["repeated"].tolist() == [7] * size


def test_describe(tmp_path: Path) -> None:
    network = save(tmp_path)
    about = describe(tmp_path / "model.safetensors")
    assert about["genes"] == 3
    assert about["parameters"]["total"] == sum(tensor.numel() for tensor in network.state_dict().values())


def test_opens_in_plain_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    save(tmp_path)
    assert load_file(tmp_path / "model.safetensors")["genes.weight"].shape == (3, 8)


def test_another_format_is_refused(tmp_path: Path) -> None:
    save_tensors(tmp_path / "model.safetensors", {}, {"format": 99})
    with pytest.raises(CifmError, match="format 99"):
        load_checkpoint(tmp_path)


def test_a_model_of_the_earlier_format_is_refused(tmp_path: Path) -> None:
    save_tensors(tmp_path / "model.safetensors", {}, {"format": keys.CHECKPOINT_FORMAT - 1})
    with pytest.raises(CifmError, match="trained by an earlier version") as caught:
        load_checkpoint(tmp_path)
    assert "train again" in caught.value.hint


@pytest.mark.parametrize(("name", "value"), [("state_frequency", 0.0), ("state_frequency", -1.0), ("composition", 0.0)])
def test_pooled_parameters_that_no_fit_gives_are_refused(tmp_path: Path, name: str, value: float) -> None:
    network = Ensemble(len(GENES), make_recipe())
    network.pooled.get_buffer(name).fill_(value)
    save_checkpoint(tmp_path / "model.safetensors", network, make_recipe(), GENES, {})
    with pytest.raises(CifmError, match=f"tensor pooled.{name}"):
        load_checkpoint(tmp_path)


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(CifmError, match="not a checkpoint of cifm"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("length", [0, 7, 100, 2000])
def test_a_truncated_file_is_refused(tmp_path: Path, length: int) -> None:
    save(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CifmError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    network = Ensemble(2, make_recipe())
    save_checkpoint(tmp_path / "model.safetensors", network, make_recipe(), GENES, {})
    with pytest.raises(CifmError, match="do not fit"):
        load_checkpoint(tmp_path)
