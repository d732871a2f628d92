"""The remark about GPUs without bfloat16, and the choice of the faster precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cifm_cli.model import precision as precision_module
from cifm_cli.model.precision import faster_precision, precision_note
from cifm_cli.recipe import load, parse
from cifm_cli.training import loop
from cifm_cli.training import session as session_module
from cifm_cli.training.config import TrainConfig
from cifm_cli.training.distributed import join_processes
from cifm_cli.training.session import open_session


@pytest.mark.parametrize(
    ("precision", "device", "capability", "noted"),
    [
        ("bfloat16", "cuda", (7, 5), True),
        ("bfloat16", "cuda", (8, 0), False),
        ("bfloat16", "cuda", (12, 0), False),
        ("float32", "cuda", (7, 5), False),
        ("bfloat16", "cpu", (0, 0), False),
    ],
)
def test_a_gpu_without_bfloat16_is_noted(
    monkeypatch: pytest.MonkeyPatch, precision: str, device: str, capability: tuple[int, int], noted: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    note = precision_note(precision, torch.device(device))
    assert note == ("Tesla T4 has no bfloat16 in hardware: --precision float32 may be faster" if noted else None)


@pytest.mark.parametrize(
    ("single_s", "half_s", "expected"),
    [(2.0, 1.0, ("bfloat16", 2.0)), (1.0, 1.0, ("float32", 1.0)), (1.0, 4.0, ("float32", 0.25))],
)
def test_bfloat16_is_used_where_its_products_are_faster(
    monkeypatch: pytest.MonkeyPatch, single_s: float, half_s: float, expected: tuple[str, float]
) -> None:
    seconds = {"float32": single_s, "bfloat16": half_s}
    monkeypatch.setattr(precision_module, "_median_time", seconds.__getitem__)
    assert faster_precision(torch.device("cpu")) == expected


def test_the_measurement_takes_a_moment_and_keeps_the_threads() -> None:
    threads = torch.get_num_threads()
    precision, speed_up = faster_precision(torch.device("cpu"))
    assert (precision == "bfloat16") == (speed_up >= precision_module.MIN_SPEED_UP)
    assert speed_up > 0
    assert torch.get_num_threads() == threads


def test_devices_that_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert faster_precision(torch.device("meta")) == ("float32", 0.0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "GPU")
    for capability, expected in (((7, 5), ("float32", 0.0)), ((9, 0), ("bfloat16", float("inf")))):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert faster_precision(torch.device("cuda")) == expected


@pytest.mark.parametrize("chosen", ["bfloat16", "float32"])
def test_the_choice_is_stored_with_the_run_and_kept(
    monkeypatch: pytest.MonkeyPatch, prepared_few_genes: Path, tmp_path: Path, chosen: str
) -> None:
    monkeypatch.setattr(session_module, "faster_precision", lambda _: (chosen, 2.0))
    train = {"steps": 1, "validate_every": 1, "validation_tiles": 1, "precision": "auto", "optimiser": "muon"}
    model = {"width": 8, "heads": 2, "encoder_layers": 1, "decoder_layers": 1}
    recipe = parse(
        {"data": {"tile_cells": 128}, "model": model, "objective": {"linear_rank": 0}, "train": train}, "test"
    )
    config = TrainConfig(
        recipe=recipe, slides=[prepared_few_genes], folder=tmp_path / "run", backend="torch", device="cpu"
    )
    loop.train(config)
    assert load(tmp_path / "run" / "recipe.toml").train.precision == chosen
    other = "float32" if chosen == "bfloat16" else "bfloat16"
    monkeypatch.setattr(session_module, "faster_precision", lambda _: (other, 2.0))
    with join_processes(alone=True) as processes:
        assert open_session(replace(config, resume=True), processes).precision == chosen
