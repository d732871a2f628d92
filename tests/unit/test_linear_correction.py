"""The linear correction: its regression, its approximation of low rank, and its part in a network."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
from builders import forget_checksums
from scipy.sparse import csr_matrix

from cifm_cli.model.ensemble import Ensemble
from cifm_cli.model.linear_correction import Corrections
from cifm_cli.provenance import numpy_generator
from cifm_cli.recipe import parse
from cifm_cli.statistics.reduced_ridge import ReducedRidge
from cifm_cli.training.config import TrainConfig
from cifm_cli.training.distributed import Processes
from cifm_cli.training.fit_linear import choose, draw_practice, fit_linear_correction, join_slides
from cifm_cli.training.initialise import fit_slides
from cifm_cli.training.loop import validate
from cifm_cli.training.session import Session, open_session
from cifm_cli.verification import verification_skipped

PENALTY = 0.02


def draw_regression(
    num_rows: int, num_features: int, num_targets: int = 12
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features, targets, features of other rows, and the coefficients of NumPy's solution."""
    generator = numpy_generator(0, "ridge", num_rows, num_features)
    features = generator.normal(size=(num_rows, num_features)) * np.linspace(0.2, 3, num_features)
    targets = features @ generator.normal(size=(num_features, num_targets)) + generator.normal(
        size=(num_rows, num_targets)
    )
    gram = features.T @ features
    penalised = gram + PENALTY * np.trace(gram) * np.eye(num_features)
    coefficients = np.linalg.solve(penalised, features.T @ targets)
    others = generator.normal(size=(7, num_features))
    return features.astype(np.float32), targets.astype(np.float32), others.astype(np.float32), coefficients


@pytest.mark.parametrize("dual", [True, False])
@pytest.mark.parametrize(("num_rows", "num_features"), [(15, 40), (60, 10)])
def test_both_forms_equal_the_ridge_of_numpy(num_rows: int, num_features: int, *, dual: bool) -> None:
    features, targets, others, coefficients = draw_regression(num_rows, num_features)
    ridge = ReducedRidge(features, targets, dual=dual)
    assert ridge.predict(PENALTY, others) == pytest.approx(others @ coefficients, rel=1e-3, abs=1e-3)
    columns = np.array([3, 7])
    assert ridge.predict(PENALTY, others, columns) == pytest.approx(
        others @ coefficients[:, columns], rel=1e-3, abs=1e-3
    )


@pytest.mark.parametrize("dual", [True, False])
def test_the_full_rank_equals_the_ridge(*, dual: bool) -> None:
    """With two groups of targets of the same penalty, and in any units."""
    features, targets, others, coefficients = draw_regression(60, 30)
    scale = np.linspace(0.5, 2, targets.shape[1]).astype(np.float32)
    groups = [(slice(5), PENALTY), (slice(5, None), PENALTY)]
    ridge = ReducedRidge(features, targets, dual=dual)
    reduced, weights = ridge.reduce(groups, scale, targets.shape[1], numpy_generator(0, "start"))
    assert others @ reduced @ weights == pytest.approx(others @ coefficients, rel=1e-3, abs=2e-3)


@pytest.mark.parametrize("dual", [True, False])
def test_a_low_rank_is_the_best_approximation_of_the_fitted_values(*, dual: bool) -> None:
    features, targets, _, coefficients = draw_regression(60, 30)
    fitted = features @ coefficients
    left, values, right = np.linalg.svd(fitted, full_matrices=False)
    best = (left[:, :3] * values[:3]) @ right[:3]
    ridge = ReducedRidge(features, targets, dual=dual)
    ones = np.ones(targets.shape[1], np.float32)
    reduced, weights = ridge.reduce([(slice(None), PENALTY)], ones, 3, numpy_generator(0, "start"))
    assert features @ reduced @ weights == pytest.approx(best, abs=0.01 * np.abs(best).max())


@pytest.fixture(scope="module")
def planted_slides(prepared_synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two tissues in which a rare gene follows a frequent one, whose neighbours therefore tell more of it than its own."""
    folder = tmp_path_factory.mktemp("planted")
    for number in range(2):
        generator = numpy_generator(number, "planted")
        tissue = forget_checksums(ad.read_h5ad(prepared_synthetic))
        wave = np.sin(tissue.obsm["spatial"] / 40 + number).sum(axis=1)
        counts = generator.poisson(1.0, tissue.shape)
        counts[:, :5] = generator.poisson(20 * np.exp(wave)[:, None], (len(counts), 5))
        counts[:, 5:10] = generator.poisson(0.3 * np.exp(wave)[:, None], (len(counts), 5))
        tissue.X = csr_matrix(counts.astype(np.float32))
        tissue.write_h5ad(folder / f"slide{number}.h5ad")
    return sorted(folder.iterdir())


def fitted_session(slides: list[Path], folder: Path, rank: int) -> Session:
    content = {
        "data": {"tile_cells": 128},
        "model": {"width": 8, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "members": 2},
        "objective": {"scales": [1.0, 2.0], "cutoff": 3.0, "states": 6, "linear_rank": rank},
    }
    session = open_session(TrainConfig(parse(content, "test"), slides, folder, backend="torch"), Processes())
    with verification_skipped():
        fit_slides(session)
        fit_linear_correction(session)
    return session


@pytest.fixture(scope="module")
def with_correction(planted_slides: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Session:
    return fitted_session(planted_slides, tmp_path_factory.mktemp("fitted") / "run", 8)


def test_the_correction_lowers_the_loss_before_the_first_step(
    planted_slides: list[Path], with_correction: Session, tmp_path: Path
) -> None:
    with verification_skipped():
        without = fitted_session(planted_slides, tmp_path / "without", 0)
        assert without.network.linear is None
        assert validate(with_correction) < validate(without)
        practice = draw_practice(with_correction, with_correction.corpus.slides[0], "validation", 200)
    assert with_correction.network.linear is not None
    planted = torch.arange(5, 10)  # vocabulary rows of the rare genes
    before, after = np.zeros(3), np.zeros(3)
    for each in practice:
        every = with_correction.network.linear(each.differences, each.genes)
        changes = Corrections(*(part[:, torch.isin(each.genes, planted)] for part in every))
        before += each.take_genes(planted).losses(Corrections(*(0 * part for part in changes)))
        after += each.take_genes(planted).losses(changes)
    assert (after < before).all(), (before, after)
    again = fitted_session(planted_slides, tmp_path / "again", 8).network.stored_weights()
    assert all(torch.equal(again[name], tensor) for name, tensor in with_correction.network.stored_weights().items())


def test_a_correction_that_does_not_help_is_left_out(with_correction: Session) -> None:
    """The errors of one slide are those that the other predicts, or the opposite."""
    session = with_correction
    with verification_skipped():
        slides = [draw_practice(session, each, "train", 200) for each in session.corpus.slides]
    genes, num_scales = session.corpus.measured_genes(), len(session.recipe.objective.scales)
    features, targets = join_slides(slides, genes, num_scales)
    group = np.repeat([0, 1], [sum(map(len, tiles)) for tiles in slides])
    validation = [(number, tile) for number, tiles in enumerate(slides) for tile in tiles]
    _, gains = choose(ReducedRidge(features, targets), group, validation, genes)
    assert max(gains) > 0
    _, gains = choose(ReducedRidge(features, -targets), group, validation, genes)
    assert gains == [0.0, 0.0, 0.0]


def test_members_share_the_correction_also_in_a_copy() -> None:
    network = deepcopy(Ensemble(4, parse({"model": {"members": 2}}, "test"))).double()
    assert network.linear is not None
    assert not [name for member in network.members for name in member.state_dict() if "linear.reduce" in name]
    assert network.linear.reduce.dtype == torch.float64
