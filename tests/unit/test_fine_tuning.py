"""Fine-tuning keeps the trained weights; the parameters of slides are those of the new slides."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
from builders import forget_checksums

from cifm_cli.model.checkpoint import load_checkpoint
from cifm_cli.provenance import numpy_generator
from cifm_cli.recipe import Recipe, parse
from cifm_cli.training import loop
from cifm_cli.training.config import TrainConfig
from cifm_cli.training.distributed import Processes
from cifm_cli.training.session import Session, open_session
from cifm_cli.verification import verification_skipped

FITTED = ("mean", "expressed", "composition", "mean_weights", "expressed_weights")


def make_recipe(objective: str = "residual") -> Recipe:
    content = {
        "data": {"tile_cells": 128},
        "model": {"width": 8, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "members": 2},
        "objective": {"name": objective, "scales": [1.0, 2.0], "cutoff": 3.0},
        "train": {"steps": 4, "validate_every": 2, "validation_tiles": 2, "warmup_steps": 2},
    }
    return parse(content, "test")


@pytest.fixture(scope="module")
def given(prepared_few_genes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the synthetic tissue."""
    folder = tmp_path_factory.mktemp("fine_tuning") / "given"
    loop.train(TrainConfig(make_recipe(), [prepared_few_genes], folder, backend="torch"))
    return folder


@pytest.fixture(autouse=True)
def without_verification() -> Iterator[None]:
    """The slides of these tests are changed copies of a prepared one."""
    with verification_skipped():
        yield


def open_fine_tuning(slide: Path, given: Path) -> Session:
    """Open a session at step 0 with the weights of the run `given`."""
    return open_session(
        TrainConfig(make_recipe(), [slide], slide.parent / "run", backend="torch", init=given), Processes()
    )


def other_tissue(prepared: Path, folder: Path) -> Path:
    """The same cells in random order, with genes exchanged: neighbours are not informative here."""
    slide = ad.read_h5ad(prepared)
    order = numpy_generator(0, "other").permutation(slide.n_obs)
    slide.X = slide.X[order][:, np.roll(np.arange(slide.n_vars), 1)]
    slide.obs["total_counts"] = slide.obs["total_counts"].to_numpy()[order]
    forget_checksums(slide).write_h5ad(folder / "other.h5ad")
    return folder / "other.h5ad"


def test_another_tissue_gets_its_own_parameters(prepared_few_genes: Path, given: Path, tmp_path: Path) -> None:
    session = open_fine_tuning(other_tissue(prepared_few_genes, tmp_path), given)
    loop.initialise(session)
    (training_slide,) = session.corpus.slides
    slide = training_slide.slide
    rows = slide.region("train")
    rows = rows[slide.total_counts[rows] > 0]
    mean = slide.expression(rows, 10_000.0).toarray().mean(axis=0, dtype=np.float64)
    assert training_slide.parameters.mean.numpy() == pytest.approx(mean, rel=1e-6)
    before = load_checkpoint(given).network.pooled
    for name, buffer in session.network.pooled.named_buffers():
        assert not torch.equal(buffer, before.get_buffer(name)), name


def test_trained_weights_are_unchanged(prepared_few_genes: Path, given: Path, tmp_path: Path) -> None:
    session = open_fine_tuning(other_tissue(prepared_few_genes, tmp_path), given)
    loop.initialise(session)
    weights = dict(load_checkpoint(given).network.named_parameters())
    assert all(torch.equal(weights[name], value) for name, value in session.network.named_parameters())


def test_the_number_of_states_may_differ(prepared_few_genes: Path, given: Path) -> None:
    recipe = make_recipe()
    recipe = recipe.model_copy(update={"objective": recipe.objective.model_copy(update={"states": 5})})
    config = TrainConfig(recipe, [prepared_few_genes], given.parent / "states", backend="torch", init=given)
    session = open_session(config, Processes())
    loop.initialise(session)
    assert session.corpus.slides[0].parameters.num_states == 5
    assert loop.validate(session) < float("inf")


def test_genes_that_are_not_measured_keep_their_values(prepared_few_genes: Path, given: Path, tmp_path: Path) -> None:
    slide = ad.read_h5ad(other_tissue(prepared_few_genes, tmp_path))
    forget_checksums(slide[:, ::2]).write_h5ad(tmp_path / "half.h5ad")
    session = open_fine_tuning(tmp_path / "half.h5ad", given)
    unmeasured = torch.ones(len(session.corpus.vocabulary), dtype=torch.bool)
    unmeasured[session.corpus.measured_genes()] = False
    assert 0 < int(unmeasured.sum()) < len(unmeasured)
    before = {name: value.clone() for name, value in session.network.pooled.named_buffers()}
    loop.initialise(session)
    after = dict(session.network.pooled.named_buffers())
    for name in FITTED:
        assert torch.equal(after[name][..., unmeasured], before[name][..., unmeasured])
        assert not torch.equal(after[name][..., ~unmeasured], before[name][..., ~unmeasured])
    assert float(after["composition"].sum()) == pytest.approx(1, abs=1e-5)
    assert torch.equal(after["state_profiles"][0, unmeasured], after["mean"][unmeasured])


def test_the_head_of_the_paper_is_not_fitted(prepared_few_genes: Path, tmp_path: Path) -> None:
    slide, recipe = Path(shutil.copy(prepared_few_genes, tmp_path)), make_recipe("balanced_mse")
    first = loop.train(TrainConfig(recipe, [slide], tmp_path / "first", backend="torch"))
    second = loop.train(TrainConfig(recipe, [slide], tmp_path / "second", backend="torch", init=tmp_path / "first"))
    assert second.first_loss == pytest.approx(first.best_loss, rel=1e-6)
