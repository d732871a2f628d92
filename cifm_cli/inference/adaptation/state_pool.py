"""Recalibration of the probabilities of cell states on a slide: a logarithmic pool with free weights.

log p = w_0 log p_network + sum_t w_t log f_t, up to a constant for each cell: f_t are the frequencies of the states around
the cell, for each term of the smoother. The weights need not sum to 1, so the pool can be sharper or flatter than each of
its parts. A multinomial regression with so few weights is convex and has one solution.

Letters: M cells, T terms of the smoother, K states.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float32]
    Floats = NDArray[np.float64]

PRIOR_CELLS = 20.0  # cells that the prior counts as: weight 1 of the network and 0 of the frequencies
SMALLEST = 1e-9
NUM_GROUPS = 5  # of cells, for cross-validation


def pool_inputs(states: Values, frequencies: Values) -> Values:
    """(M, 1 + T, K) logarithms of what is pooled."""
    both = np.concatenate([states[:, None], frequencies], axis=1)
    return np.asarray(np.log(np.maximum(both, np.float32(SMALLEST))))


def pool_states(inputs: Values, weights: Floats) -> Values:
    """(M, K) probabilities."""
    return np.asarray(softmax(np.einsum("mtk,t->mk", inputs, weights), axis=1), dtype=np.float32)


def fit_state_pool(inputs: Values, state: NDArray[np.int64]) -> Floats:
    """Fit the weights by maximum likelihood, shrunk towards the network alone.

    Args:
        inputs: (M, 1 + T, K) from `pool_inputs`.
        state: (M,) actual states.

    Returns:
        (1 + T,) weights.
    """
    prior = np.zeros(inputs.shape[1])
    prior[0] = 1.0
    logs, cells = inputs.astype(np.float64), np.arange(len(state))
    actual = logs[cells, :, state]  # (M, 1 + T)

    def loss(weights: Floats) -> tuple[float, Floats]:
        """Penalised cross-entropy and its gradient."""
        log_probability = log_softmax(np.einsum("mtk,t->mk", logs, weights), axis=1)
        expected = np.einsum("mk,mtk->mt", np.exp(log_probability), logs)
        shift = weights - prior
        value = -log_probability[cells, state].sum() + PRIOR_CELLS / 2 * shift @ shift
        return float(value), (expected - actual).sum(axis=0) + PRIOR_CELLS * shift

    return np.asarray(minimize(loss, prior, jac=True, method="L-BFGS-B").x)


def is_pool_better(inputs: Values, state: NDArray[np.int64]) -> bool:
    """Whether a fitted pool is better than the network as it is, by more than a standard error over groups of cells.

    Args:
        inputs: (M, 1 + T, K) from `pool_inputs`, of cells whose neighbours in the array are near each other.
        state: (M,) actual states.

    Returns:
        The comparison; the weights for each group are fitted to the others.
    """
    ends = np.arange(NUM_GROUPS + 1) * len(state) // NUM_GROUPS
    network = np.eye(inputs.shape[1])[0]
    changes = []
    for first, end in pairwise(ends.tolist()):
        if first == end:
            return False
        rest = np.r_[0:first, end : len(state)]
        own = fit_state_pool(inputs[rest], state[rest])
        group, actual = inputs[first:end], state[first:end, None]
        likelihoods = [np.take_along_axis(pool_states(group, each), actual, axis=1) for each in (own, network)]
        of_pool, of_network = (-np.log(np.maximum(each, SMALLEST)).sum(dtype=np.float64) for each in likelihoods)
        changes.append(of_pool - of_network)
    return bool(np.mean(changes) < -np.std(changes, ddof=1) / len(changes) ** 0.5)
