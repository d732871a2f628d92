"""Laws of damaged models, states and classifiers: loading raises an error with a hint, or returns what was saved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import add_noise, read_tensors
from hostile.tensor_damage import DAMAGES, FORGERIES, change_header, finish, put, read_parts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cifm_cli import keys
from cifm_cli.celltype.reference import ReferenceClassifier, load_classifier, save_classifier
from cifm_cli.errors import CifmError
from cifm_cli.model.checkpoint import MODEL_FILE, load_checkpoint, save_checkpoint
from cifm_cli.model.ensemble import Ensemble
from cifm_cli.recipe import parse
from cifm_cli.training.run_spec import RunSpec
from cifm_cli.training.state import TrainState, list_states, load_run_spec, load_state, save_state
from cifm_cli.verification import verification_skipped

GENES = ("ENSG00000000003", "ENSG00000000005", "ENSG00000000419")
RECIPE = parse({"model": {"width": 8, "heads": 2, "encoder_layers": 1}, "objective": {"states": 3}}, "test")
PROVENANCE = {"seed": 3, "inputs": {"a.h5ad": "0" * 64}, "platforms": ["xenium"], "init": None, "backend": "torch"}

SLIDES = {"0.mean": torch.arange(3.0)}  # parameters of a slide; whether they fit it is checked later


def build() -> tuple[Ensemble, torch.optim.AdamW]:
    """A network that took one step, and its optimiser."""
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251 - weights of a test
        network = Ensemble(len(GENES), RECIPE)
        add_noise(network, 0.1)
    optimiser = torch.optim.AdamW([weight for weight in network.parameters() if weight.requires_grad])
    for weight in network.parameters():
        weight.grad = torch.ones_like(weight)
    optimiser.step()
    return network, optimiser


@pytest.fixture(scope="session")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, two training states and a classifier."""
    folder = tmp_path_factory.mktemp("intact")
    network, optimiser = build()
    save_checkpoint(folder / MODEL_FILE, network, RECIPE, GENES, PROVENANCE)
    spec = RunSpec.from_provenance(GENES, PROVENANCE)
    for step in (1, 2):
        save_state(folder, {"weights": network}, optimiser, TrainState(step=step, first_loss=2.5), spec, 2, SLIDES)
    wave = np.sin(np.arange(6, dtype=np.float32)).reshape(3, 2)
    ones = np.ones(3, dtype=np.float32)
    classifier = ReferenceClassifier(
        ("a", "b"), GENES, wave, wave[0], ones, ones, 1.5, 0.5, {"accuracy": 0.5}, PROVENANCE
    )
    save_classifier(folder / "types.safetensors", classifier)
    return folder


def load_model(folder: Path) -> Any:
    loaded = load_checkpoint(folder)
    return loaded.recipe, loaded.vocabulary, loaded.provenance, weights(loaded.network)


def load_newest(folder: Path) -> Any:
    network, optimiser = build()
    for weight in network.parameters():
        weight.data.zero_()
    spec = load_run_spec(folder)
    state, slides = load_state(folder, {"weights": network}, optimiser)
    moments = {
        f"{n}.{key}": value.tolist()
        for n, part in optimiser.state_dict()["state"].items()
        for key, value in part.items()
    }
    # The two states differ by their step alone.
    stored = {name: tensor.tolist() for name, tensor in slides.items()}
    return spec, state.first_loss, state.step in {1, 2}, weights(network), moments, stored


def load_types(folder: Path) -> Any:
    loaded = load_classifier(folder / "types.safetensors")
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(loaded).items()}


def weights(network: Ensemble) -> dict[str, list[Any]]:
    return {name: tensor.tolist() for name, tensor in network.state_dict().items()}


def content_or_error(load: Callable[[Path], Any], folder: Path) -> Any:
    try:
        return load(folder)
    except CifmError as error:
        return error


KINDS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "model": (MODEL_FILE, load_model),
    "state": ("train_state-00000002.safetensors", load_newest),
    "classifier": ("types.safetensors", load_types),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*DAMAGES, *FORGERIES])
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_a_damaged_file_is_an_error_or_unchanged(intact: Path, tmp_path: Path, kind: str, name: str, seed: int) -> None:
    target = tmp_path / "target"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(intact, target)
    file, load = KINDS[kind]
    (DAMAGES | FORGERIES)[name](np.random.default_rng(seed), target / file)
    loaded = content_or_error(load, target)
    if isinstance(loaded, CifmError):
        assert str(target) in loaded.message
        assert loaded.hint
    else:
        # A forged file may be another valid one. A damaged state is passed over for the one before it.
        assert name in FORGERIES or loaded == load(intact)


@pytest.mark.parametrize(("kind", "file"), [("model", MODEL_FILE), ("classifier", "types.safetensors")])
def test_a_changed_weight_is_noticed_unless_verification_is_skipped(
    intact: Path, tmp_path: Path, kind: str, file: str
) -> None:
    shutil.copy(intact / file, tmp_path / file)
    content = bytearray((tmp_path / file).read_bytes())
    content[-4] ^= 1  # the lowest bit of the last value
    (tmp_path / file).write_bytes(content)
    load = KINDS[kind][1]
    with pytest.raises(CifmError, match="damaged, its checksum is wrong") as caught:
        load(tmp_path)
    assert "--no-verify" in caught.value.hint
    with verification_skipped():
        assert load(tmp_path) != load(intact)


@pytest.mark.parametrize(("kind", "file"), [("model", MODEL_FILE), ("classifier", "types.safetensors")])
def test_files_of_earlier_versions_have_no_checksum(intact: Path, tmp_path: Path, kind: str, file: str) -> None:
    shutil.copy(intact / file, tmp_path / file)
    layout, values = read_parts(tmp_path / file)
    header = json.loads(layout["__metadata__"]["cifm"])
    assert len(header["sha256"]) == 64
    finish(tmp_path / file, layout, values, header, "removed")
    assert "sha256" not in read_tensors(tmp_path / file)[1]
    assert KINDS[kind][1](tmp_path) == KINDS[kind][1](intact)


FIELDS = {
    ("recipe", "model", "width"): (65_536, "do not fit the recipe stored beside them: tensor"),
    ("recipe", "model", "members"): (500, "do not fit the recipe stored beside them: the recipe needs more than"),
    ("recipe", "model", "encoder_layers"): (10**15, "model.encoder_layers = 1000000000000000: input should be less"),
    ("recipe", "model", "norm"): ("what", "model.norm = 'what': input should be a valid boolean"),
    ("recipe",): ([], "header: recipe: input should be a valid dictionary"),
    ("vocabulary",): (None, "header: vocabulary: input should be a valid list"),
    ("vocabulary", 1): (GENES[0], "header: vocabulary: a name occurs twice"),
    ("provenance", "inputs"): (["a.h5ad"], "header: provenance.inputs: input should be a valid dictionary"),
    ("provenance", "init"): ({"inputs": 3}, "header: provenance.init.inputs: input should be a valid dictionary"),
    ("format",): (
        str(keys.CHECKPOINT_FORMAT),
        f"checkpoint format {keys.CHECKPOINT_FORMAT}, this cifm reads {keys.CHECKPOINT_FORMAT}",
    ),
}


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: ".".join(map(str, field)))
def test_messages_name_the_field(intact: Path, tmp_path: Path, field: tuple[Any, ...]) -> None:
    value, message = FIELDS[field]
    shutil.copy(intact / MODEL_FILE, tmp_path / MODEL_FILE)
    layout, values = read_parts(tmp_path / MODEL_FILE)
    header = put(json.loads(layout["__metadata__"]["cifm"]), field, value)
    finish(tmp_path / MODEL_FILE, layout, values, header, "removed")
    with pytest.raises(CifmError) as caught:
        load_checkpoint(tmp_path)
    assert message in caught.value.message


def test_a_state_whose_header_is_damaged_is_passed_over(
    intact: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(intact, tmp_path / "run")
    newest = list_states(tmp_path / "run")[0]
    layout, values = read_parts(newest)
    header = put(json.loads(layout["__metadata__"]["cifm"]), ("position", "step"), "2")
    finish(newest, layout, values, header, "forged")
    network, optimiser = build()
    assert load_state(tmp_path / "run", {"weights": network}, optimiser)[0].step == 1
    assert "header: position.step: input should be a valid integer" in caplog.text


def test_moments_that_do_not_fit_are_an_error(intact: Path) -> None:
    network, _ = build()
    other = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2, 2))])
    with pytest.raises(CifmError, match="its optimiser does not fit the network of its recipe"):
        load_state(intact, {"weights": network}, other)


@pytest.mark.parametrize("name", ["optimiser.0.step", "optimiser.3.exp_avg_sq"])
def test_negative_steps_and_squares_are_an_error(intact: Path, tmp_path: Path, name: str) -> None:
    network, optimiser = build()
    key, moment = int(name.split(".")[1]), name.split(".")[2]
    optimiser.state[optimiser.param_groups[0]["params"][key]][moment].fill_(-1)
    save_state(
        tmp_path, {"weights": network}, optimiser, TrainState(step=1), RunSpec.from_provenance(GENES, PROVENANCE), 1
    )
    with pytest.raises(CifmError, match="a number of steps or a mean square is negative"):
        load_state(tmp_path, {"weights": network}, optimiser)


def test_every_damage_changes_the_file(intact: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for damage in (*DAMAGES.values(), *FORGERIES.values(), change_header):
        path = Path(shutil.copy(intact / MODEL_FILE, tmp_path))
        damage(generator, path)
        assert path.read_bytes() != (intact / MODEL_FILE).read_bytes()
