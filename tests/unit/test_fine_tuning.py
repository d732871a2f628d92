"""Fine-tuning starts with the head of the given run, or with a head fitted to the new slides if its validation loss is lower."""

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
from cifm_cli.model.heads import ResidualHead
from cifm_cli.provenance import numpy_generator
from cifm_cli.recipe import Recipe, parse
from cifm_cli.training import loop
from cifm_cli.training.config import TrainConfig
from cifm_cli.training.distributed import Processes
from cifm_cli.training.session import Session, open_session
from cifm_cli.verification import verification_skipped

FITTED = ("mean_profile", "share_profile", "composition_profile", "mean_weights", "share_weights")


def make_recipe(objective: str = "residual") -> Recipe:
    content = {
        "data": {"tile_cells": 128},
        "model": {"width": 8, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "members": 2},
        "objective": {"name": objective, "scales": [1.0, 2.0], "cutoff": 3.0},
        "train": {"steps": 4, "validate_every": 2, "validation_tiles": 2, "warmup_steps": 2},
    }
    return parse(content, "test")


@pytest.fixture(scope="module")
def given(prepared_synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the synthetic tissue."""
    folder = tmp_path_factory.mktemp("fine_tuning") / "given"
    loop.train(TrainConfig(make_recipe(), [prepared_synthetic], folder, backend="torch"))
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


def test_another_tissue_gets_its_own_profiles(prepared_synthetic: Path, given: Path, tmp_path: Path) -> None:
    session = open_fine_tuning(other_tissue(prepared_synthetic, tmp_path), given)
    before = loop.validate(session)
    loop.initialise(session, new_weights=False)
    assert loop.validate(session) < before
    mean, expressed, composition = session.corpus.gene_profiles()
    for member in session.network.members:
        assert isinstance(member.head, ResidualHead)
        assert torch.equal(member.head.smoother.mean_profile, mean)
        assert torch.equal(member.head.smoother.share_profile, expressed)
        assert member.head.smoother.composition_profile.numpy() == pytest.approx(composition.numpy(), rel=1e-5)


def test_trained_weights_and_cell_states_are_unchanged(prepared_synthetic: Path, given: Path, tmp_path: Path) -> None:
    session = open_fine_tuning(other_tissue(prepared_synthetic, tmp_path), given)
    loop.initialise(session, new_weights=False)
    weights, ours = load_checkpoint(given).network.state_dict(), session.network.state_dict()
    same = {name for name in weights if torch.equal(weights[name], ours[name])}
    assert {name for name in weights if ".smoother." not in f".{name}"} <= same
    assert not {f"head.smoother.{name}" for name in FITTED} & same


def test_a_fit_with_a_higher_validation_loss_is_undone(prepared_synthetic: Path, given: Path, tmp_path: Path) -> None:
    def spoil(session: Session, *, new_weights: bool) -> None:
        assert not new_weights
        assert isinstance(session.network.first.head, ResidualHead)
        with torch.no_grad():
            session.network.first.head.smoother.mean_weights.fill_(100.0)

    session = open_fine_tuning(Path(shutil.copy(prepared_synthetic, tmp_path)), given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "fit_head", spoil)
        loop.initialise(session, new_weights=False)
    weights = load_checkpoint(given).network.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in session.network.state_dict().items())


def test_genes_that_are_not_measured_keep_their_values(prepared_synthetic: Path, given: Path, tmp_path: Path) -> None:
    slide = ad.read_h5ad(other_tissue(prepared_synthetic, tmp_path))
    forget_checksums(slide[:, ::2]).write_h5ad(tmp_path / "half.h5ad")
    session = open_fine_tuning(tmp_path / "half.h5ad", given)
    unmeasured = torch.ones(len(session.corpus.vocabulary), dtype=torch.bool)
    unmeasured[session.corpus.measured_genes()] = False
    assert 0 < int(unmeasured.sum()) < len(unmeasured)
    before = {name: value.clone() for name, value in session.network.first.head.smoother.state_dict().items()}
    loop.initialise(session, new_weights=False)
    after = session.network.first.head.smoother.state_dict()
    for name in FITTED:
        assert torch.equal(after[name][..., unmeasured], before[name][..., unmeasured])
        assert not torch.equal(after[name][..., ~unmeasured], before[name][..., ~unmeasured])
    assert float(after["composition_profile"].sum()) == pytest.approx(1, abs=1e-5)


def test_the_head_of_the_paper_is_not_fitted(prepared_synthetic: Path, tmp_path: Path) -> None:
    slide, recipe = Path(shutil.copy(prepared_synthetic, tmp_path)), make_recipe("balanced_mse")
    first = loop.train(TrainConfig(recipe, [slide], tmp_path / "first", backend="torch"))
    second = loop.train(TrainConfig(recipe, [slide], tmp_path / "second", backend="torch", init=tmp_path / "first"))
    assert second.first_loss == pytest.approx(first.best_loss, rel=1e-6)
