"""The smoother: sums computed by hand, and a regression that recovers known weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from cifm_cli.model.gene_profiles import GeneProfiles
from cifm_cli.model.slide_parameters import SlideParameters, start_parameters
from cifm_cli.model.smoother import (
    PRIOR_COUNTS,
    PRIOR_MASS,
    LeastSquares,
    reliability_of,
    shrink,
    smoother_terms,
    sum_neighbours,
)
from cifm_cli.recipe_sections import ObjectiveRecipe

RECIPE = ObjectiveRecipe(scales=(1.0, 2.0), cutoff=3.0)

#   q   a       b           c      one radius is one column; c is beyond the cutoff, v is void
#   0   1   2   3   4   5   6
#       v
XY = np.array([[1.0, 0.0], [3.0, 0.0], [6.0, 0.0], [1.0, 0.0]])
COUNTS = np.array([30.0, 10.0, 50.0, 0.0])
EXPRESSION = csr_matrix(np.array([[2.0, 0.0], [1.0, 4.0], [9.0, 9.0], [0.0, 0.0]]))
RAW = csr_matrix(np.array([[30.0, 0.0], [2.0, 8.0], [25.0, 25.0], [0.0, 0.0]]))


def test_sums_by_hand() -> None:
    neighbours = sum_neighbours(np.zeros((1, 2)), XY, EXPRESSION, RAW, reliability_of(COUNTS), RECIPE)
    for scale, column in ((1.0, 0), (2.0, 1)):
        a = np.exp(-0.5 / scale**2) * 30 / 40
        b = np.exp(-4.5 / scale**2) * 10 / 20
        assert neighbours.mass[0, column].item() == pytest.approx(a + b, rel=1e-12)
        assert neighbours.expression[0, column].tolist() == pytest.approx([2 * a + b, 4 * b], rel=1e-12)
        assert neighbours.expressed[0, column].tolist() == pytest.approx([a + b, b], rel=1e-12)
        assert neighbours.counts[0, column].tolist() == pytest.approx([30 * a + 2 * b, 8 * b], rel=1e-12)
        assert neighbours.weight[:2, column].tolist() == pytest.approx([a, b], rel=1e-12)
    assert neighbours.visible.tolist() == [0, 1, 3], "the cell beyond the cutoff is in no pair"
    assert neighbours.weight[2].tolist() == [0, 0], "the weight of the void cell is zero"


def test_means_are_the_same_where_they_are_differentiated() -> None:
    """Shrunk in place for a prediction, and by new tensors for a derivative."""
    generator = torch.Generator().manual_seed(0)
    sums, mass, profile = (torch.rand(shape, generator=generator).double() for shape in ((5, 3, 7), (5, 3), (7,)))
    plain = shrink(sums, mass, profile, 2.0)
    followed = shrink(sums.clone().requires_grad_(), mass, profile, 2.0)
    assert followed.requires_grad
    assert plain.shape == (5, 4, 7)
    assert torch.allclose(plain, followed, rtol=1e-14)
    assert torch.equal(plain[:, -1], profile.expand(5, -1))


def test_the_weight_at_distance_zero_is_the_reliability() -> None:
    neighbours = sum_neighbours(XY[:1], XY[:1], EXPRESSION[:1], RAW[:1], reliability_of(COUNTS[:1]), RECIPE)
    assert neighbours.mass.tolist() == [[0.75, 0.75]]


def slide_parameters(**profiles: torch.Tensor) -> SlideParameters:
    """Parameters of a slide with two genes and one state."""
    known = {"mean": torch.zeros(2), "expressed": torch.zeros(2), "composition": torch.full((2,), 0.5), **profiles}
    return start_parameters(GeneProfiles(**known), torch.zeros(1, 2), torch.ones(1), num_terms=3)


def test_a_query_without_neighbours_gets_the_mean_of_the_slide() -> None:
    slide = slide_parameters(mean=torch.tensor([0.5, 0.25]))
    neighbours = sum_neighbours(np.full((1, 2), 99.0), XY, EXPRESSION, RAW, reliability_of(COUNTS), RECIPE)
    assert neighbours.mass.abs().max() == 0
    means = smoother_terms(neighbours, slide).means
    assert means.tolist() == [[[0.5, 0.25]] * 3]


def test_each_mean_is_shrunk_towards_the_next_wider_one() -> None:
    slide = slide_parameters(mean=torch.tensor([1.0, 1.0]))
    neighbours = sum_neighbours(np.zeros((1, 2)), XY, EXPRESSION, RAW, reliability_of(COUNTS), RECIPE)
    means = smoother_terms(neighbours, slide).means
    (narrow_mass, wide_mass), (narrow, wide) = neighbours.mass[0].tolist(), neighbours.expression[0, :, 0].tolist()
    wide_mean = (wide + PRIOR_MASS * 1.0) / (wide_mass + PRIOR_MASS)
    narrow_mean = (narrow + PRIOR_MASS * wide_mean) / (narrow_mass + PRIOR_MASS)
    assert means[0, :, 0].tolist() == pytest.approx([narrow_mean, wide_mean, 1.0])


def test_each_composition_is_shrunk_towards_the_next_wider_one_by_counts() -> None:
    slide = slide_parameters(composition=torch.tensor([0.25, 0.75]))
    neighbours = sum_neighbours(np.zeros((1, 2)), XY, EXPRESSION, RAW, reliability_of(COUNTS), RECIPE)
    compositions = smoother_terms(neighbours, slide).compositions
    assert compositions.sum(-1).tolist() == [pytest.approx([1, 1, 1])]
    narrow, wide = neighbours.counts[0].tolist()
    wide_fraction = (wide[0] + PRIOR_COUNTS * 0.25) / (sum(wide) + PRIOR_COUNTS)
    narrow_fraction = (narrow[0] + PRIOR_COUNTS * wide_fraction) / (sum(narrow) + PRIOR_COUNTS)
    assert compositions[0, :, 0].tolist() == pytest.approx([narrow_fraction, wide_fraction, 0.25])


def test_conversion_of_the_precision_keeps_the_indices() -> None:
    neighbours = sum_neighbours(np.zeros((1, 2)), XY, EXPRESSION, RAW, reliability_of(COUNTS), RECIPE).to(torch.float32)
    assert {neighbours.expression.dtype, neighbours.mass.dtype, neighbours.weight.dtype} == {torch.float32}
    assert {neighbours.query.dtype, neighbours.visible.dtype} == {torch.int64}


def test_least_squares_recovers_the_weights_of_each_gene() -> None:
    generator = np.random.default_rng(0)
    true_weights = np.array([[0.2, 0.9], [0.7, 0.0], [0.1, 0.1]])  # terms x genes
    regression = LeastSquares(3, 4)
    genes = torch.tensor([1, 3])
    for _ in range(10):
        terms = generator.normal(size=(2_000, 3, 2))
        target = np.einsum("msp,sp->mp", terms, true_weights)
        regression.add(torch.from_numpy(terms), torch.from_numpy(target), genes)
    weights = regression.solve(20.0)
    assert weights[:, genes].numpy() == pytest.approx(true_weights, abs=0.005)
    shared = true_weights.mean(axis=1)
    assert weights[:, 0].numpy() == pytest.approx(shared, abs=0.05), "an unseen gene takes the shared weights"
