"""Weights of an adapted model: they recover those that generated the data, and are never worse than the ridge's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import check_grad
from scipy.sparse import csr_matrix

from cifm_cli.inference.adaptation.weights import (
    BOUNDS,
    COMPOSITION_FLOOR,
    PRIOR_CELLS,
    RIDGE_WEIGHTS,
    Weights,
    add_weighted,
    composition_loss,
    log_loss,
    minimise,
    shrink,
    split_differences,
    squared_error,
    sum_losses,
)
from cifm_cli.provenance import numpy_generator

FACTORS = (0.2, 0.7, 0.5, 1.5)
TRUE = Weights(*FACTORS, *FACTORS[1:])  # without a pattern of depth, the same for depth
NUM_VALUES = 40_000


def draw_differences(seed: int = 0, size: float = 0.04) -> tuple[np.ndarray, np.ndarray]:
    """Differences of predictions, and a profile from which they keep probabilities inside 0 and 1."""
    generator = numpy_generator(seed, "weights")
    differences = generator.uniform(-size, size, (len(FACTORS), NUM_VALUES)).astype(np.float32)
    return differences, generator.uniform(0.3, 0.7, NUM_VALUES).astype(np.float32)


def test_weights_of_a_mean_are_those_of_the_data() -> None:
    differences, _ = draw_differences()
    loss, found = minimise(squared_error(differences, np.asarray(FACTORS, np.float32) @ differences), len(FACTORS))
    assert found == pytest.approx(TRUE, abs=1e-3)
    assert loss == pytest.approx(0, abs=1e-3)


def test_weights_of_a_probability_are_those_of_the_data() -> None:
    differences, profile = draw_differences(size=0.15)
    probability = profile + np.asarray(FACTORS) @ differences
    draw = numpy_generator(1, "expressed").random(NUM_VALUES) < probability
    _, found = minimise(log_loss(differences, profile, draw), len(FACTORS))
    assert found == pytest.approx(TRUE, abs=0.15)


def test_weights_of_a_composition_are_those_of_the_data() -> None:
    """Cells of two genes: the second has the differences of the first with the other sign."""
    differences, _ = draw_differences(size=0.15)
    profile = np.array([0.45, 0.55], np.float32)
    both = np.stack([differences, -differences], axis=2)
    fraction = profile[0] + np.asarray(FACTORS) @ differences
    first = numpy_generator(1, "counts").binomial(20, np.clip(fraction, 0, 1)).astype(np.float32)
    counts = csr_matrix(np.stack([first, 20 - first], axis=1))
    _, found = minimise(composition_loss(both, np.tile(profile, (NUM_VALUES, 1)), profile, counts), len(FACTORS))
    # A part of the profile is in every expectation, so the differences need larger weights.
    assert np.asarray(found) * (1 - COMPOSITION_FLOOR) == pytest.approx(TRUE, abs=0.1)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), has_pattern=st.booleans())
def test_the_sum_of_split_differences_is_the_weighted_sum(seed: int, has_pattern: bool) -> None:
    generator = numpy_generator(seed, "split")
    differences = generator.normal(size=(4, 5, 7)).astype(np.float32)
    pattern = generator.random(7).astype(np.float32)
    pattern = pattern / np.linalg.norm(pattern) if has_pattern else None
    weights = Weights(*generator.uniform(0, 3, 7).tolist())
    used = weights if has_pattern else weights[:4]
    expected = np.tensordot(np.asarray(used, np.float32), split_differences(differences, pattern), 1)
    assert add_weighted(list(differences), weights, pattern) == pytest.approx(expected, abs=1e-4)
    differences[0] = 0  # the profile has no weight of its depth
    equal = Weights(*weights[:4], *weights[1:4])
    whole = add_weighted(list(differences), equal, pattern)
    assert whole == pytest.approx(np.tensordot(np.asarray(equal[:4], np.float32), differences, 1), abs=1e-4)
    assert add_weighted(list(differences[1:]), equal, pattern) == pytest.approx(whole, abs=1e-4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.floats(0.001, 0.5))
def test_weights_are_within_bounds_and_never_worse_than_the_ridge(seed: int, size: float) -> None:
    differences, profile = (values[..., :300] for values in draw_differences(seed, size))
    generator = numpy_generator(seed, "targets")
    expressed = generator.random(300) < profile
    counts = csr_matrix(generator.poisson(1.0, (30, 10)).astype(np.float32))

    def error(weights: Weights) -> float:
        return float(np.square(expressed - profile - np.asarray(weights[:4], np.float32) @ differences).sum())

    composition = profile[:10] / profile[:10].sum()
    loss, found = minimise(squared_error(differences, (expressed - profile).astype(np.float32)), 4)
    assert loss == pytest.approx(error(found), rel=1e-4)
    assert loss <= error(RIDGE_WEIGHTS) * (1 + 1e-6)
    for _, weights in (
        (loss, found),
        minimise(log_loss(differences, profile, expressed), 4),
        minimise(
            composition_loss(differences.reshape(4, 30, 10), np.tile(composition, (30, 1)), composition, counts), 4
        ),
    ):
        assert all(low <= weight <= high for weight, (low, high) in zip(weights, BOUNDS, strict=True))


@pytest.mark.parametrize("output", ["expressed", "composition"])
def test_gradients_are_those_of_the_losses(output: str) -> None:
    differences, profile = (values[..., :500].astype(np.float64) for values in draw_differences())
    generator = numpy_generator(2, "targets")
    if output == "expressed":
        loss = log_loss(differences, profile, generator.random(500) < profile)
    else:
        profile = profile[:10] / profile[:10].sum()
        counts = csr_matrix(generator.poisson(2.0, (50, 10)).astype(np.float32))
        multiples = np.linspace(1, 3, 10)
        profile /= profile @ multiples
        loss = composition_loss(
            differences.reshape(4, 50, 10) / 4, np.tile(profile, (50, 1)), profile, counts, multiples
        )
    at = np.array([0.1, 0.8, 0.3, 0.9])
    scale = np.abs(loss(at)[1]).max()
    error = check_grad(lambda w: loss(w)[0], lambda w: loss(w)[1], at, epsilon=1e-3) / scale
    assert error < 0.02, f"relative error of the gradient: {error:.1e}"


def test_a_gene_that_stands_for_several_counts_as_several() -> None:
    differences, profile = (values[..., :60] for values in draw_differences())
    counts = numpy_generator(4, "counts").poisson(2.0, (20, 3)).astype(np.float32)
    of_each = differences.reshape(4, 20, 3) / 4
    repeated = [0, 0, 1, 2, 2, 2]
    whole = composition_loss(
        of_each[:, :, repeated],
        np.tile(profile[:3], (20, 1))[:, repeated],
        (profile[:3] / profile[repeated].sum())[repeated],
        csr_matrix(counts[:, repeated]),
    )
    short = composition_loss(
        of_each,
        np.tile(profile[:3], (20, 1)),
        profile[:3] / profile[repeated].sum(),
        csr_matrix(counts),
        np.array([2, 1, 3], np.float32),
    )
    at = np.array([0.1, 0.8, 0.3, 0.9])
    for found, expected in zip(short(at), whole(at), strict=True):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_the_loss_of_groups_of_cells_is_that_of_all() -> None:
    differences = draw_differences()[0][:, :500]
    target = numpy_generator(3, "targets").normal(size=500).astype(np.float32)
    parts = [squared_error(differences[:, own], target[own]) for own in (slice(200), slice(200, None))]
    at = np.array([0.1, 0.8, 0.3, 0.9])
    for found, expected in zip(sum_losses(parts)(at), squared_error(differences, target)(at), strict=True):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_few_cells_leave_the_weights_of_the_ridge() -> None:
    """As many cells as the prior counts for move the weights half of the way."""
    assert shrink(TRUE, 0) == RIDGE_WEIGHTS
    half = [(own + ridge) / 2 for own, ridge in zip(TRUE, RIDGE_WEIGHTS, strict=True)]
    assert shrink(TRUE, round(PRIOR_CELLS)) == pytest.approx(half)
    assert shrink(TRUE, 10_000_000) == pytest.approx(TRUE, abs=1e-4)
