"""Gradients of a step: the same for any number of threads, and for tiles that run together or one after the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cifm_cli.model.objective import loss
from cifm_cli.processor_time import one_thread
from cifm_cli.recipe import parse
from cifm_cli.training import gradients, loop, threads
from cifm_cli.training.config import TrainConfig
from cifm_cli.training.distributed import Processes
from cifm_cli.training.session import Session, open_session


def open_at_start(slide: Path, folder: Path, members: int) -> Session:
    recipe = parse(
        {
            "data": {"tile_cells": 64},
            "model": {
                "width": 8,
                "heads": 2,
                "encoder_layers": 1,
                "decoder_layers": 1,
                "members": members,
                "dropout": 0.2,
                "gene_dropout": 0.2,
            },
            "mask": {"share": 0.1, "share_max": 0.3, "contiguous": 0.5, "thinning": 0.5},
            "objective": {"scales": [1.0, 2.0], "cutoff": 3.0},
            "train": {"steps": 6, "tiles_per_step": 3, "validation_tiles": 2},
        },
        "test",
    )
    session = open_session(TrainConfig(recipe=recipe, slides=[slide], folder=folder, backend="torch"), Processes())
    loop.initialise(session)
    session.network.train()
    return session


def differentiate(session: Session, num_threads: int) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and gradients of the first step."""
    session.network.zero_grad(set_to_none=True)
    before = torch.get_num_threads()
    # As in training, because the last digit of a logarithm depends on the number of threads
    with torch.no_grad(), one_thread():
        examples = [
            replace(example, surroundings=session.network.describe(example.tile))
            for example in (session.corpus.train_example(number) for number in range(3))
        ]
    torch.set_num_threads(num_threads)
    try:
        losses = [value.item() for value in gradients.add_gradients(session, examples)]
    finally:
        torch.set_num_threads(before)
    named = session.network.named_parameters()
    return losses, {name: weight.grad.clone() for name, weight in named if weight.grad is not None}


@pytest.mark.parametrize("members", [1, 2])
def test_gradients_do_not_depend_on_how_the_parts_of_a_step_run(
    prepared_few_genes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: int
) -> None:
    session = open_at_start(prepared_few_genes, tmp_path / "run", members)
    assert session.optimiser.shares_cores
    losses, expected = differentiate(session, 1)
    assert len(losses) == 3 * members
    assert any(gradient.any() for gradient in expected.values())
    for num_threads in (2, 4):
        again, found = differentiate(session, num_threads)
        assert again == losses
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            assert torch.equal(gradient, expected[name]), name
    monkeypatch.setattr(threads, "MAX_WEIGHTS", 0)  # as for a large network: one tile after the other
    again, found = differentiate(session, 1)
    assert again == losses
    for name, gradient in found.items():
        assert torch.equal(gradient, expected[name]), name
    assert not threads.is_small(session.network, torch.device("cpu"))


def test_the_loss_of_a_step_is_the_mean_over_its_parts(prepared_few_genes: Path, tmp_path: Path) -> None:
    session = open_at_start(prepared_few_genes, tmp_path / "run", 2)
    session.network.eval()  # no dropout: the same loss for any number of the tile
    examples = [session.corpus.train_example(number) for number in range(3)]
    found = sum(value.item() for value in gradients.add_gradients(session, examples))
    alone = [
        loss(
            member(session.backend, example.tile, session.network.describe(example.tile)),
            example.target,
            session.recipe.objective,
        ).item()
        for example in examples
        for member in session.network.members
    ]
    assert len(set(alone)) > 1
    assert found == pytest.approx(sum(alone) / len(alone), rel=1e-5)
