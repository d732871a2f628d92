"""Baselines on a tissue of three cells a, b and c and a query q: one step of x is 10 um, the radius is 20 um.

cell        a . b . q . . . . c
x           0   2   4         9
expression  6   3   ?         0     of one gene; a second gene is never expressed
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cifm_cli.data.slide import slide_from_arrays
from cifm_cli.evaluation.examples import TrainingFolds
from cifm_cli.evaluation.predictors.base import Baseline
from cifm_cli.evaluation.predictors.registry import BASELINES
from cifm_cli.inference.neighbourhood.visible_cells import GeneStats, VisibleCells, gene_stats
from cifm_cli.inference.prediction import Prediction

TRAINING = GeneStats(mean=np.array([1.5, 0.0]), fraction=np.array([0.25, 0.0]), counts=np.array([10.0, 0.0]))
TISSUE = VisibleCells(
    xy_um=np.array([[0.0, 0.0], [20.0, 0.0], [90.0, 0.0]]),
    expression=csr_matrix(np.array([[6, 0], [3, 0], [0, 0]], dtype=np.float32)),
    counts=csr_matrix(np.array([[9, 0], [2, 0], [0, 4]], dtype=np.float32)),
    gene_stats=TRAINING,
    radius_um=20.0,
    reach_um=50.0,
)
QUERY = np.array([[40.0, 0.0]])
FAR = np.array([[5000.0, 0.0]])
BY_NAME = {baseline.name: baseline for baseline in BASELINES}
NO_EXAMPLES = TrainingFolds(tuple, TRAINING)


def infer(name: str, xy_um: np.ndarray = QUERY, **parameters: float) -> Prediction:
    return BY_NAME[name](**parameters).predict(TISSUE, xy_um)


def test_neighbourhood_average_includes_the_cell_at_the_radius() -> None:
    found = infer("neighbourhood_average")
    assert (found.mean[0].tolist(), found.expressed[0].tolist()) == ([3, 0], [1, 0])  # b alone, 20 um away


def test_radius_mean_includes_cells_up_to_the_reach_of_the_model() -> None:
    found = infer("radius_mean")
    assert found.mean[0].tolist() == pytest.approx([(6 + 3 + 0) / 3, 0])  # a at 40 um, b at 20, c at 50
    assert found.expressed[0].tolist() == pytest.approx([2 / 3, 0])


@pytest.mark.parametrize(("k", "mean", "expressed"), [(1, 3, 1), (2, 4.5, 1), (3, 3, 2 / 3), (100, 3, 2 / 3)])
def test_knn_is_the_mean_of_the_nearest(k: int, mean: float, expressed: float) -> None:
    found = infer("knn", k=k)
    assert (found.mean[0, 0], found.expressed[0, 0]) == pytest.approx((mean, expressed))


def test_weighted_knn_by_hand() -> None:
    found = infer("weighted_knn", k=2, width=1.0)
    weight = np.exp(-(40**2 - 20**2) / (2 * 20**2))  # of a, beside 1 of b
    assert found.mean[0, 0] == pytest.approx((3 + 6 * weight) / (1 + weight))
    assert found.expressed[0, 0] == pytest.approx(1)


def test_the_composition_is_that_of_the_summed_counts_of_the_neighbours() -> None:
    found = infer("radius_mean").composition  # 9 + 2 of the one gene, 4 of the other
    assert found is not None
    assert found[0].tolist() == pytest.approx([11 / 15, 4 / 15])
    alone = infer("radius_mean", FAR).composition
    assert alone is not None
    assert alone[0].tolist() == [1, 0]  # the composition of the training cells


def test_a_narrow_kernel_far_from_all_cells_takes_the_nearest() -> None:
    assert infer("weighted_knn", FAR, k=3, width=0.5).mean[0, 0] == pytest.approx(0)  # c


@pytest.mark.parametrize("name", ["neighbourhood_average", "radius_mean", "training_mean"])
def test_a_location_without_neighbours_gets_the_training_mean(name: str) -> None:
    found = infer(name, FAR)
    assert found.mean[0].tolist() == TRAINING.mean.tolist()
    assert found.expressed[0].tolist() == TRAINING.fraction.tolist()


def test_the_baseline_zeros_predicts_zeros() -> None:
    found = infer("zeros")
    assert not found.mean.any()
    assert not found.expressed.any()


def test_random_baselines_have_the_training_mean_on_average() -> None:
    xy_um = np.zeros((40_000, 2))
    uniform, bernoulli = infer("uniform", xy_um), infer("bernoulli", xy_um)
    for found in (uniform, bernoulli):
        assert found.mean.mean(axis=0) == pytest.approx(TRAINING.mean, abs=0.05)
        assert not found.mean[:, 1].any()
    assert uniform.mean.max() < 2 * 1.5
    assert set(np.unique(bernoulli.mean)) == {0.0, 1.5 / 0.25}
    assert bernoulli.expressed.mean(axis=0) == pytest.approx(TRAINING.fraction, abs=0.02)


@pytest.mark.parametrize("baseline", BASELINES, ids=lambda baseline: baseline.name)
def test_every_baseline_gives_complete_float32_matrices(baseline: type[Baseline]) -> None:
    """Baselines that are fitted give predictions without any example, too."""
    fitted = baseline().fit(NO_EXAMPLES)
    for parameters in (fitted.parameter_grid()[0], fitted.parameter_grid()[-1]):
        found = fitted.set_params(**parameters).predict(TISSUE, np.concatenate([QUERY, FAR]))
        for part in (found.mean, found.expressed):
            assert (part.shape, part.dtype) == ((2, 2), np.float32)
            assert np.isfinite(part).all()
            assert (part >= 0).all()
        assert (found.expressed <= 1).all()
        if found.composition is not None:
            assert (found.composition.shape, found.composition.dtype) == ((2, 2), np.float32)
            assert found.composition.sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize("baseline", BASELINES, ids=lambda baseline: baseline.name)
def test_hyper_parameters_are_arguments_of_the_constructor(baseline: type[Baseline]) -> None:
    for parameters in baseline().parameter_grid():
        changed = baseline().set_params(**parameters)
        assert vars(changed) == vars(baseline(**parameters))


def test_gene_statistics_by_hand() -> None:
    counts = np.array([[1, 0, 9], [0, 0, 5], [5, 5, 0]])
    slide = slide_from_arrays("toy", np.zeros((3, 2)), csr_matrix(counts), ("g1", "g2", "g3"), 20.0)
    found = gene_stats(slide, np.array([0, 1]), np.array([0, 2]), target_sum=100.0)
    assert found.mean == pytest.approx([np.log1p(10) / 2, (np.log1p(90) + np.log1p(100)) / 2])
    assert found.fraction.tolist() == [0.5, 1.0]
    assert found.counts.tolist() == [1, 14]
