"""A stopped and resumed run is the uninterrupted one, bit for bit; a sick run keeps its last good model."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from cifm_cli.errors import CifmError, StopRequested
from cifm_cli.model.checkpoint import load_checkpoint, load_tensors
from cifm_cli.recipe import ObjectiveRecipe, Recipe, parse
from cifm_cli.training import loop
from cifm_cli.training.run import Setup, open_run
from cifm_cli.training.state import STATE_FILE


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


def make_setup(slide: Path, folder: Path, **changes: Any) -> Setup:
    return Setup(recipe=make_recipe(), slides=[slide], folder=folder, backend="torch", device="cpu", **changes)


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int, number: signal.Signals) -> None:
    """Send ourselves a signal while a step is running."""
    step, taken = loop.step, []

    def stopped_step(*arguments: Any) -> float:
        taken.append(1)
        if len(taken) == steps:
            signal.raise_signal(number)
        return step(*arguments)

    monkeypatch.setattr(loop, "step", stopped_step)


@pytest.mark.parametrize(("steps", "number"), [(3, signal.SIGTERM), (8, signal.SIGINT), (11, signal.SIGTERM)])
def test_resumed_is_uninterrupted(prepared_synthetic: Path, tmp_path: Path, steps: int, number: signal.Signals) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    handlers = [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)]
    loop.train(make_setup(prepared_synthetic, whole))
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, steps, number)
        with pytest.raises((KeyboardInterrupt, StopRequested)):
            loop.train(make_setup(prepared_synthetic, parted))
    assert [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)] == handlers
    loop.train(make_setup(prepared_synthetic, parted, resume=True))
    for file in (STATE_FILE, "model.safetensors"):
        first, second = load_tensors(whole / file)[0], load_tensors(parted / file)[0]
        assert first.keys() == second.keys()
        different = [name for name in first if not torch.equal(first[name], second[name])]
        assert not different, f"{file}: {different}"
    assert losses(whole) == losses(parted)


def losses(folder: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line.get("loss", line.get("validation_loss"))) for line in lines]


def test_same_seed_same_run_other_seed_other_run(prepared_synthetic: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        loop.train(make_setup(prepared_synthetic, tmp_path / name, seed=seed))
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert losses(tmp_path / "a") != losses(tmp_path / "c")


@pytest.mark.parametrize("sick", [float("nan"), float("inf"), 1e9])
def test_a_sick_loss_stops_with_the_best_model_kept(
    prepared_synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sick: float
) -> None:
    objective, calls = loop.loss, []

    def sicken(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        value = objective(*arguments)
        return value * sick if len(calls) > 9 and value.requires_grad else value

    monkeypatch.setattr(loop, "loss", sicken)
    with pytest.raises(CifmError, match=r"the loss (is not finite|exploded).* at step \d+") as caught:
        loop.train(make_setup(prepared_synthetic, tmp_path / "run"))
    assert "is kept" in caught.value.hint
    kept = load_checkpoint(tmp_path / "run")
    assert all(torch.isfinite(weight).all() for weight in kept.network.state_dict().values())


def test_training_starts_at_the_smoother(prepared_synthetic: Path, tmp_path: Path) -> None:
    """Before the first step, the prediction is the blend of neighbour means and nothing else."""
    run = open_run(make_setup(prepared_synthetic, tmp_path / "run"))
    loop.fit_smoother(run)
    example = run.corpus.draw("train", 0, "test")
    smoother = run.network.head.smoother
    with torch.no_grad():
        output = run.network(run.backend, example.tile)
        mean, logit = smoother(*smoother.terms(example.tile.around, example.tile.genes), example.tile.genes)
    assert torch.equal(output.magnitude, mean)
    assert torch.equal(output.logit, logit)
    constant = smoother.mean_profile.expand_as(mean)
    assert (mean - example.target).square().mean() < (constant - example.target).square().mean()


def test_a_model_without_smoother_learns_from_nothing(prepared_synthetic: Path, tmp_path: Path) -> None:
    recipe = make_recipe(steps=60, validate_every=20, learning_rate=5e-3)
    recipe = recipe.model_copy(update={"objective": ObjectiveRecipe(name="balanced_mse")})
    setup = Setup(recipe=recipe, slides=[prepared_synthetic], folder=tmp_path / "run", backend="torch")
    result = loop.train(setup)
    assert result["best_loss"] < 0.8 * result["first_loss"]


def test_early_stopping(prepared_synthetic: Path, tmp_path: Path) -> None:
    recipe = make_recipe(learning_rate=1e-12, validate_every=1, patience=3, steps=50)
    setup = Setup(recipe=recipe, slides=[prepared_synthetic], folder=tmp_path / "run", backend="torch")
    assert loop.train(setup)["steps"] < 50


def test_resume_refuses_another_recipe(prepared_synthetic: Path, tmp_path: Path) -> None:
    loop.train(make_setup(prepared_synthetic, tmp_path / "run"))
    other = make_recipe().model_copy(update={"mask": make_recipe().mask.model_copy(update={"share": 0.2})})
    with pytest.raises(CifmError, match=r"resumed with another \[mask\]"):
        loop.train(Setup(recipe=other, slides=[prepared_synthetic], folder=tmp_path / "run", resume=True))
    with pytest.raises(CifmError, match="not empty"):
        loop.train(make_setup(prepared_synthetic, tmp_path / "run"))
    with pytest.raises(CifmError, match="no training to resume"):
        loop.train(make_setup(prepared_synthetic, tmp_path / "none", resume=True))


def test_a_run_stopped_before_its_first_look_starts_over(prepared_synthetic: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "fit_smoother", lambda _run: signal.raise_signal(signal.SIGINT))
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                loop.train(make_setup(prepared_synthetic, tmp_path / "run"))
        finally:
            signal.signal(signal.SIGINT, handler)
    assert loop.train(make_setup(prepared_synthetic, tmp_path / "run"))["steps"] == 12


def test_fine_tuning_starts_from_the_given_run(prepared_synthetic: Path, tmp_path: Path) -> None:
    first = loop.train(make_setup(prepared_synthetic, tmp_path / "first"))
    second = loop.train(make_setup(prepared_synthetic, tmp_path / "second", init=tmp_path / "first"))
    assert second["first_loss"] == pytest.approx(first["best_loss"], rel=1e-6)
