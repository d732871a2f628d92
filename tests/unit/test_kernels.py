"""The compiled weighted sums, compared with sums by hand and with dense products."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, random_array

from cifm_cli.data.pairs import pairs_within
from cifm_cli.model.kernels import PairWeights, pair_weights, weighted_sums
from cifm_cli.model.vector_sums import LANES
from cifm_cli.provenance import numpy_generator


def padded(weight: np.ndarray) -> PairWeights:
    """Weights in the form of `pair_weights`; the masses are not used by sums."""
    filled = np.zeros((len(weight), -(-weight.shape[1] // LANES) * LANES))
    filled[:, : weight.shape[1]] = weight
    return PairWeights(filled, weight, np.zeros((0, weight.shape[1])))


def test_sums_by_hand() -> None:
    """The neighbours of query 0 are cells 0 and 1, query 1 has none, and query 2 has cell 1."""
    expression = csr_matrix(np.array([[2.0, 0.0], [1.0, 4.0]]))
    counts = csr_matrix(np.array([[30, 0], [2, 8]]))
    weight = padded(np.array([[0.5, 1.0], [0.25, 1.0], [3.0, 0.0]]))
    values, expressed, raw = weighted_sums(np.array([0, 2, 2, 3]), np.array([0, 1, 1]), weight, expression, counts)
    assert values.tolist() == [[[1.25, 1.0], [3.0, 4.0]], [[0, 0], [0, 0]], [[3.0, 12.0], [0, 0]]]
    assert expressed.tolist() == [[[0.75, 0.25], [2.0, 1.0]], [[0, 0], [0, 0]], [[3.0, 3.0], [0, 0]]]
    assert raw.tolist() == [[[15.5, 2.0], [32.0, 8.0]], [[0, 0], [0, 0]], [[6.0, 24.0], [0, 0]]]


def test_sums_equal_dense_products() -> None:
    generator = numpy_generator(0, "sums")
    counts = csr_matrix(random_array((40, 30), density=0.2, rng=generator, dtype=np.float32))
    expression = csr_matrix((np.log1p(counts.data), counts.indices, counts.indptr), counts.shape)
    near = generator.random((25, 40)) < 0.3
    indptr = np.concatenate([[0], near.sum(axis=1).cumsum()])
    weight = generator.random((near.sum(), 3))
    computed = weighted_sums(indptr, np.nonzero(near)[1], padded(weight), expression, counts)
    for scale in range(3):
        dense = np.zeros(near.shape)
        dense[near] = weight[:, scale]
        for sums, matrix in zip(computed, (expression, counts > 0, counts), strict=True):
            assert np.allclose(sums[:, scale], dense @ matrix.toarray().astype(np.float64), rtol=1e-12, atol=1e-14)


def test_no_pairs_and_no_queries() -> None:
    void = csr_matrix((2, 5), dtype=np.float32)
    empty = weighted_sums(np.array([0]), np.zeros(0, dtype=np.int64), padded(np.zeros((0, 4))), void, void)
    assert [sums.shape for sums in empty] == [(0, 4, 5)] * 3


@given(
    num_scales=st.integers(1, 9), num_genes=st.integers(1, 20), num_queries=st.integers(0, 6), seed=st.integers(0, 1000)
)
def test_sums_in_single_precision_have_its_error(num_scales: int, num_genes: int, num_queries: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    counts = csr_matrix(random_array((30, num_genes), density=0.4, rng=generator, dtype=np.float32))
    near = generator.random((num_queries, 30)) < 0.5
    indptr = np.concatenate([[0], near.sum(axis=1).cumsum()])
    weight = padded(generator.random((near.sum(), num_scales)))
    single = PairWeights(*(array.astype(np.float32) for array in weight))
    arguments = indptr, np.nonzero(near)[1]
    exact, computed = (weighted_sums(*arguments, weights, counts, counts) for weights in (weight, single))
    for wide, narrow in zip(exact, computed, strict=True):
        assert narrow.dtype == np.float32
        assert narrow.shape == wide.shape == (num_queries, num_scales, num_genes)
        # All terms are positive, so the relative error of a sum of n is at most n + 2 roundings.
        assert np.allclose(narrow, wide, rtol=32 * np.finfo(np.float32).eps, atol=0), np.abs(narrow / wide - 1).max()


@given(
    scales=st.sampled_from([(1.0,), (0.4, 0.8, 1.6, 3.2), (0.5, 1.0, 1.5), (0.3, 0.6, 1.2, 2.4, 4.8), (2.0, 1.0)]),
    num_visible=st.integers(0, 30),
    seed=st.integers(0, 1000),
)
def test_pairs_are_weighed_by_gaussians_and_reliability(scales: tuple[float, ...], num_visible: int, seed: int) -> None:
    """Scales that double are computed by squares, others by exponentials."""
    generator = np.random.default_rng(seed)
    query, visible = generator.uniform(0, 8, (5, 2)), generator.uniform(0, 8, (num_visible, 2))
    reliability = generator.uniform(0, 2, num_visible)
    indptr, found, squared = pairs_within(query, visible, 6.0)
    computed = pair_weights(indptr, found, squared, reliability, scales)
    expected = np.exp(-squared[:, None] / (2 * np.square(scales))) * reliability[found][:, None]
    assert np.allclose(computed.weight, expected, rtol=1e-12, atol=1e-300)
    assert np.array_equal(computed.padded[:, : len(scales)], computed.weight)
    assert not computed.padded[:, len(scales) :].any()
    of_query = np.repeat(np.arange(5), np.diff(indptr))
    mass = np.stack([np.bincount(of_query, column, minlength=5) for column in expected.T], axis=1)
    assert np.allclose(computed.mass, mass, rtol=1e-12, atol=1e-300)
    rounded = pair_weights(indptr, found, squared, reliability, scales, np.float32)
    assert np.array_equal(rounded.weight, computed.weight.astype(np.float32))
    assert np.array_equal(rounded.mass, computed.mass.astype(np.float32))
