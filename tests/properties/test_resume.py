"""A stopped and resumed run equals an uninterrupted one bit for bit; a run that diverges keeps its best model."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from builders import interrupt_training, read_tensors
from safetensors import SafetensorError

from cifm_cli.errors import STOP_SIGNALS, CifmError, StopRequested
from cifm_cli.model.checkpoint import load_checkpoint
from cifm_cli.model.surroundings import describe_surroundings
from cifm_cli.recipe import Recipe, parse
from cifm_cli.recipe_sections import ObjectiveRecipe
from cifm_cli.training import gradients, loop
from cifm_cli.training.config import TrainConfig
from cifm_cli.training.distributed import Processes
from cifm_cli.training.initialise import fit_slides
from cifm_cli.training.session import open_session
from cifm_cli.training.state import list_states, load_run_spec

if TYPE_CHECKING:
    from conftest import BuildOnce


def make_recipe(**train: Any) -> Recipe:
    return parse(
        {
            "data": {"tile_cells": 128},
            "model": {"width": 8, "heads": 2, "encoder_layers": 1, "decoder_layers": 1},
            "mask": {"share": 0.1, "share_max": 0.3},
            "objective": {"scales": [1.0, 2.0], "cutoff": 3.0},
            "train": {"steps": 12, "validate_every": 4, "validation_tiles": 2, "warmup_steps": 2, **train},
        },
        "test",
    )


def make_config(slide: Path, folder: Path, recipe: Recipe | None = None, **changes: Any) -> TrainConfig:
    return TrainConfig(
        recipe=recipe or make_recipe(), slides=[slide], folder=folder, backend="torch", device="cpu", **changes
    )


def train_until(step: int, number: signal.Signals, config: TrainConfig) -> None:
    with pytest.MonkeyPatch.context() as patch:
        interrupt_training(patch, step, number)
        with pytest.raises((KeyboardInterrupt, StopRequested)):
            loop.train(config)


@pytest.fixture(scope="module")
def whole(build_once: BuildOnce, prepared_small: Path) -> Path:
    """An uninterrupted run of the recipe `make_recipe()`."""
    return build_once("resume-whole", lambda folder: loop.train(make_config(prepared_small, folder)))


@pytest.fixture
def interrupted(build_once: BuildOnce, prepared_small: Path, tmp_path: Path) -> Path:
    """A copy of the same run, stopped by a signal in step 10."""

    def stop(folder: Path) -> None:
        train_until(10, signal.SIGTERM, make_config(prepared_small, folder))

    return shutil.copytree(build_once("resume-interrupted", stop), tmp_path / "interrupted")


@pytest.mark.parametrize(
    ("steps", "number", "changes"),
    [
        (3, signal.SIGTERM, {}),
        (8, signal.SIGINT, {"average": 0.9}),
        (11, signal.SIGUSR1, {"save_minutes": 1e-9, "optimiser": "muon"}),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    prepared_small: Path, whole: Path, tmp_path: Path, steps: int, number: signal.Signals, changes: dict[str, Any]
) -> None:
    recipe, interrupted = make_recipe(**changes), tmp_path / "interrupted"
    handlers = [signal.getsignal(kind) for kind in (signal.SIGINT, *STOP_SIGNALS)]
    if changes:
        whole = tmp_path / "whole"
        loop.train(make_config(prepared_small, whole, recipe))
    train_until(steps, number, make_config(prepared_small, interrupted, recipe))
    assert [signal.getsignal(kind) for kind in (signal.SIGINT, *STOP_SIGNALS)] == handlers
    loop.train(make_config(prepared_small, interrupted, recipe, resume=True))
    assert_same_run(whole, interrupted)


def assert_same_run(first: Path, second: Path) -> None:
    """Compare the best and the last weights, the moments and the metrics of two runs."""
    assert list_states(first)[0].name == list_states(second)[0].name
    for file in (list_states(first)[0].name, "model.safetensors"):
        one, other = read_tensors(first / file)[0], read_tensors(second / file)[0]
        assert one.keys() == other.keys()
        different = [name for name in one if not torch.equal(one[name], other[name])]
        assert not different, f"{file}: {different}"
    assert losses(first) == losses(second)


def losses(folder: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line.get("loss", line.get("validation_loss"))) for line in lines]


def test_the_seed_decides_the_run(prepared_small: Path, tmp_path: Path, whole: Path) -> None:
    for name, seed in (("same", 0), ("other", 1)):
        loop.train(make_config(prepared_small, tmp_path / name, seed=seed))
    assert losses(whole) == losses(tmp_path / "same")
    assert losses(whole) != losses(tmp_path / "other")


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e9])
def test_a_diverging_loss_ends_the_run_and_keeps_the_best_model(
    prepared_small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    objective, calls = gradients.loss, []

    def spoil(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        value = objective(*arguments)
        return value * factor if len(calls) > 9 and value.requires_grad else value

    monkeypatch.setattr(gradients, "loss", spoil)
    with pytest.raises(CifmError, match=r"the loss (is not finite|exploded).* at step \d+") as caught:
        loop.train(make_config(prepared_small, tmp_path / "run"))
    assert "is kept" in caught.value.hint
    kept = load_checkpoint(tmp_path / "run")
    assert all(torch.isfinite(weight).all() for weight in kept.network.state_dict().values())


@pytest.mark.parametrize("members", [1, 2])
def test_training_starts_at_the_prediction_of_the_smoother(prepared_small: Path, tmp_path: Path, members: int) -> None:
    """Before the first step, the prediction is a weighted sum of means over neighbours."""
    recipe = make_recipe()
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"members": members})})
    session = open_session(make_config(prepared_small, tmp_path / "run", recipe), Processes())
    fit_slides(session)
    example = session.corpus.train_example(0)
    smoother, tile = session.network.first.head.smoother, example.tile
    with torch.no_grad():
        output = session.network(session.backend, tile)
        surroundings = describe_surroundings(tile, linear=None)
        mean, logit, composition, state = smoother(surroundings.terms, surroundings.logarithms, tile.slide, tile.genes)
    assert torch.equal(output.magnitude, mean)
    assert torch.equal(output.logit, logit)
    assert torch.equal(output.composition, composition)
    assert torch.equal(output.state, state)
    constant = tile.slide.mean.expand_as(mean)
    assert (mean - example.target.values).square().mean() < (constant - example.target.values).square().mean()


def test_training_reduces_the_loss_of_a_model_without_smoother(prepared_small: Path, tmp_path: Path) -> None:
    recipe = make_recipe(steps=60, validate_every=20, learning_rate=5e-3)
    recipe = recipe.model_copy(update={"objective": ObjectiveRecipe(name="balanced_mse")})
    config = TrainConfig(recipe=recipe, slides=[prepared_small], folder=tmp_path / "run", backend="torch")
    result = loop.train(config)
    assert result.best_loss < 0.8 * result.first_loss


def test_the_moving_average_is_saved(prepared_small: Path, tmp_path: Path) -> None:
    session = open_session(
        make_config(prepared_small, tmp_path / "run", make_recipe(average=0.5, learning_rate=5e-2)), Processes()
    )
    loop.initialise(session)
    expected = session.network.first.padding.detach().clone()
    for number, weight in ((1, 1 - 2 / 11), (2, 1 - 3 / 12), (30, 0.5)):  # a faster average in the first steps
        loop.train_step(session, [session.corpus.train_example(number)], 5e-2)
        session.ema.update(session.network, number)
        expected += weight * (session.network.first.padding.detach() - expected)
    assert torch.allclose(session.ema.network.first.padding, expected, atol=1e-6)
    assert not torch.allclose(session.network.first.padding, expected, atol=1e-4)
    session.save_model()
    assert torch.equal(load_checkpoint(tmp_path / "run").network.first.padding, session.ema.network.first.padding)


def test_early_stopping(prepared_small: Path, tmp_path: Path) -> None:
    recipe = make_recipe(learning_rate=1e-12, validate_every=1, patience=3, steps=50)
    config = TrainConfig(recipe=recipe, slides=[prepared_small], folder=tmp_path / "run", backend="torch")
    assert loop.train(config).steps < 50


def test_resuming_with_another_recipe_is_an_error(prepared_small: Path, tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    other = make_recipe().model_copy(update={"mask": make_recipe().mask.model_copy(update={"share": 0.2})})
    with pytest.raises(CifmError, match=r"resumed with another \[mask\]"):
        loop.train(TrainConfig(recipe=other, slides=[prepared_small], folder=tmp_path / "run", resume=True))
    with pytest.raises(CifmError, match="not empty"):
        loop.train(make_config(prepared_small, tmp_path / "run"))
    with pytest.raises(CifmError, match="no training to resume"):
        loop.train(make_config(prepared_small, tmp_path / "none", resume=True))


def test_the_newest_states_are_kept(prepared_small: Path, tmp_path: Path) -> None:
    often = make_recipe(save_minutes=1e-9, keep=3)
    train_until(7, signal.SIGTERM, make_config(prepared_small, tmp_path / "run", often))
    assert [int(path.stem.partition("-")[2]) for path in list_states(tmp_path / "run")] == [7, 6, 5]


def flip_a_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage", [flip_a_bit, lambda content: content[: len(content) // 2], lambda _: b"", lambda _: b"\xff" * 99]
)
def test_a_run_continues_from_the_state_before_a_damaged_one(
    prepared_small: Path,
    whole: Path,
    interrupted: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[bytes], bytes],
) -> None:
    newest = list_states(interrupted)[0]
    newest.write_bytes(damage(newest.read_bytes()))
    loop.train(make_config(prepared_small, interrupted, resume=True))
    assert str(newest) in caplog.text
    assert_same_run(whole, interrupted)


def test_a_full_disk_keeps_the_last_state(
    prepared_small: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted = tmp_path / "interrupted"

    def fill_up(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"incomplete")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    step, taken = loop.train_step, []

    def step_and_fill(*arguments: Any) -> float:
        taken.append(1)
        if len(taken) == 6:
            monkeypatch.setattr("safetensors.torch.save_file", fill_up)
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", step_and_fill)
        with pytest.raises(CifmError, match="no space left on the disk"):
            loop.train(make_config(prepared_small, interrupted))
    monkeypatch.undo()
    assert not list(interrupted.glob(".*"))
    loop.train(make_config(prepared_small, interrupted, resume=True))
    assert_same_run(whole, interrupted)


def test_partial_files_of_a_killed_run_are_removed(prepared_small: Path, whole: Path, interrupted: Path) -> None:
    (interrupted / ".12345678.partial.model.safetensors").write_bytes(b"half")
    with (interrupted / "metrics.jsonl").open("a") as file:
        file.write('{"step": 11, "loss": 1.0}\n{"step": 12, "lo')
    loop.train(make_config(prepared_small, interrupted, resume=True))
    assert not list(interrupted.glob(".*"))
    assert_same_run(whole, interrupted)


def test_damaged_lines_of_the_metrics_are_left_out(
    prepared_small: Path, whole: Path, interrupted: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = [b"\xff\x00", b"[" * 10_000, b"3", b'{"loss": 1.0}', b'{"step": "4"}', b'{"step": ' + b"9" * 5_000 + b"}"]
    with (interrupted / "metrics.jsonl").open("ab") as file:
        file.write(b"\n".join(damaged) + b"\n")
    loop.train(make_config(prepared_small, interrupted, resume=True))
    assert f"{len(damaged)} damaged line(s) left out" in caplog.text
    assert_same_run(whole, interrupted)


def test_a_state_of_another_network_is_an_error(prepared_small: Path, tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    spec = load_run_spec(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "cifm_cli.training.session.load_run_spec", lambda _: replace(spec, vocabulary=spec.vocabulary[:50])
        )
        with pytest.raises(CifmError, match="does not fit the network"):
            loop.train(make_config(prepared_small, tmp_path / "run", resume=True))


def test_a_run_stopped_before_its_first_state_starts_over(prepared_small: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "fit_slides", lambda _session: signal.raise_signal(signal.SIGINT))
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                loop.train(make_config(prepared_small, tmp_path / "run"))
        finally:
            signal.signal(signal.SIGINT, handler)
    (tmp_path / "run" / ".12345678.partial.recipe.toml").touch()
    assert loop.train(make_config(prepared_small, tmp_path / "run")).steps == 12
