"""The shuffled control: the regression of a label with the distances to the edited labels given to other residents.

Each draw moves the distances along a curve through the tissue, among residents whose other surroundings make them similarly
likely to have an edited label nearby. What is kept: how many residents are how far from the edited labels, how this depends
on all other labels, and that neighbours are at similar distances. What is lost: which residents these are. The changes of
the draws show what the regression finds where the edited labels have no effect on the genes.

The draws are fitted by one step of Newton's method from the regression without the edited labels, which is near enough for
changes around zero.

Letters: S draws, Q residents, F other predictors, K steps of the edited labels, G genes, B blocks, C changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from cifm_cli.data.prepare.order import hilbert_order
from cifm_cli.response.association import propensity_strata
from cifm_cli.response.label_regression import STEP_PRECISION
from cifm_cli.response.surroundings import NEAREST_REACH, STEPS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.response.label_regression import LabelRegression

    Numbers = NDArray[np.float64]

NUM_DRAWS: Final = 20
RANK_TOLERANCE: Final = 1e-6  # smallest singular value, relative to the largest
SMALLEST_SHIFT: Final = 0.1  # share of the residents of a stratum by which distances are moved at least


@dataclass(frozen=True)
class ShuffledChanges:
    """Changes that the regression finds after shuffling, in natural logarithms and relative to the median gene."""

    values: Numbers  # (S, C, G)
    errors: Numbers  # (S, C, G) standard errors, from the spatial blocks


def draw_shuffles(fitted: LabelRegression, generator: np.random.Generator) -> NDArray[np.int64]:
    """Draw which resident each resident gets its distances to the edited labels from.

    Args:
        fitted: The residents and their predictors.
        generator: Source of randomness.

    Returns:
        (S, Q) positions among the residents.
    """
    num_steps = fitted.design.num_steps
    nearest = STEPS.index(NEAREST_REACH) + len(STEPS) * np.arange(len(fitted.design.stepped))
    is_near: NDArray[np.bool_] = np.any(fitted.x[:, nearest] > 0, axis=1)
    is_mixed = is_near.any() and not is_near.all()
    strata = propensity_strata(is_near, fitted.x[:, num_steps:]) if is_mixed else np.zeros(len(is_near), dtype=np.int64)
    order = hilbert_order(fitted.xy_um)
    origin = np.tile(np.arange(len(is_near)), (NUM_DRAWS, 1))
    for stratum in range(strata.max() + 1):
        rows = order[strata[order] == stratum]
        shares = generator.uniform(SMALLEST_SHIFT, 1 - SMALLEST_SHIFT, NUM_DRAWS)
        for own, shift in zip(origin, np.rint(shares * len(rows)).astype(np.int64), strict=True):
            own[rows] = np.roll(rows, shift)
    return origin


def shuffled_changes(
    fitted: LabelRegression, origin: NDArray[np.int64], differences: Numbers, up_to: float
) -> ShuffledChanges:
    """Estimate changes after shuffling.

    Args:
        fitted: The residents and their regressions.
        origin: From `draw_shuffles`.
        differences: (C, F + K) differences of the predictors; those of the edited labels come first.
        up_to: Distance in radii beyond which an edited label is taken to change nothing.

    Returns:
        The changes of every draw.
    """
    num_steps = fitted.design.num_steps
    kept = np.flatnonzero(fitted.fit(up_to)[0][:num_steps])
    if not len(kept):  # the slide never shows the edited labels near these residents
        nothing = np.zeros((len(origin), len(differences), fitted.y.shape[1]))
        return ShuffledChanges(nothing, nothing)
    null = fitted.fit(0.0)[1]
    expected = null.expected(null.x) * fitted.exposure[:, None]
    residual = (fitted.y - expected).astype(np.float32)
    expected = expected.astype(np.float32)
    steps, weights = _residuals(fitted, null.x, origin, kept), differences[:, kept]
    values = np.empty((len(origin), len(differences), fitted.y.shape[1]))
    errors = np.empty_like(values)
    order = np.argsort(fitted.block, kind="stable")
    starts = np.searchsorted(fitted.block[order], np.arange(fitted.num_blocks))
    factor = fitted.num_blocks / max(fitted.num_blocks - 1, 1)
    for draw, own in enumerate(steps):
        products = (own[:, :, None] * own[:, None, :]).reshape(len(own), -1)
        information = (expected.T @ products).reshape(-1, len(kept), len(kept)) + STEP_PRECISION * np.eye(len(kept))
        # (G, C, K): what one unit of each score adds to the change
        gain = np.linalg.solve(information, np.broadcast_to(weights.T, (len(information), *weights.T.shape)))
        gain = gain.transpose(0, 2, 1)
        scores = np.stack(
            [own[rows].T @ residual[rows] for rows in np.split(order, starts[1:])]
        )  # (B, K, G), of each block
        by_block = np.einsum("gck,bkg->bcg", gain, scores, optimize=True)
        values[draw] = by_block.sum(axis=0)
        of_counts = np.einsum("gck,ck->cg", gain, weights)
        errors[draw] = np.sqrt(np.maximum(factor * np.square(by_block).sum(axis=0), of_counts))
    return ShuffledChanges(values - np.median(values, axis=2, keepdims=True), errors)


def _residuals(
    fitted: LabelRegression, others: Numbers, origin: NDArray[np.int64], kept: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(S, Q, K) shuffled steps, less what the other predictors explain of them at the depths of the residents."""
    root = np.sqrt(fitted.exposure)[:, None]
    # Functions of distances may be collinear, as where every resident is near a label.
    left, sizes, _ = np.linalg.svd(root * others, full_matrices=False)
    basis = left[:, sizes > RANK_TOLERANCE * sizes[0]]
    found = np.empty((len(origin), len(fitted.x), len(kept)), dtype=np.float32)
    for own, rows in zip(found, origin, strict=True):
        weighted = root * fitted.x[rows][:, kept]
        own[:] = (weighted - basis @ (basis.T @ weighted)) / root
    return found
