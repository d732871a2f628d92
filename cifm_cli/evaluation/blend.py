"""The blend: every gene weighs the means of five circles in its own way, as far as the training cells show one.

Letters: Q hidden cells, P genes, S radii.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.evaluation.context import Estimate
from cifm_cli.evaluation.surroundings import RADII, in_pieces, join, surroundings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from cifm_cli.evaluation.context import Context, Example, Profile, Settings

    Numbers = NDArray[np.float64]
    Values = NDArray[np.float32]

_EM_STEPS = 50
_SMALL = 1e-9


@dataclass(frozen=True)
class _Sums:
    """Sums over the examples of one regression for each gene, on distances from the training mean.

    Args:
        size: Number of cells.
        xx: (P, S, S) of products of the circles' means.
        xy: (P, S) of their products with the truth.
        yy: (P,) of the squared truth.
    """

    size: int
    xx: Numbers
    xy: Numbers
    yy: Numbers

    def weights(self, spread: float, shrink: float) -> Numbers:
        """Weights of the circles, shrunk towards those that all genes share, and these towards none.

        Args:
            spread: Standard deviation of the genes' weights around the shared ones; how far a gene follows its own
                cells grows with it and with how much they tell.
            shrink: How strongly the shared weights are shrunk, in units of the circles' mean variance.

        Returns:
            (S, P).
        """
        together = self.xx.sum(axis=0)
        prior = (shrink * np.trace(together) / len(together) + _SMALL) * np.eye(len(together))
        shared = np.linalg.solve(together + prior, self.xy.sum(axis=0))
        # The posterior mean of weights that lie normally around the shared ones: the noise is what the shared ones leave
        # unexplained in a cell, over the variance of the weights.
        left = self.yy - 2 * self.xy @ shared + np.einsum("s,pst,t->p", shared, self.xx, shared)
        noise = (np.maximum(left, _SMALL) / max(self.size, 1) / spread**2)[:, None]
        own = self.xx + noise[..., None] * np.eye(self.xx.shape[1])
        return np.asarray(np.linalg.solve(own, (self.xy + noise * shared)[..., None])[..., 0].T)


@dataclass(frozen=True)
class Learned:
    """What the training cells taught.

    Args:
        mean: Of the means.
        share: Of the shares of expressing cells.
        parts: (S + 1,) weights of the circles' compositions and of the training cells', sum 1.
    """

    mean: _Sums
    share: _Sums
    parts: Numbers


class Blend:
    """Per gene, a weighted sum of the means within five radii and of the training mean.

    The weights are shrunk towards those that all genes share (empirical Bayes). The composition is a mixture of the
    circles' compositions, with the weights that make the training cells' counts most likely.
    """

    name = "blend"

    def candidates(self) -> Sequence[Settings]:
        """How far the weights of a gene may lie from the shared ones, and how strongly these are shrunk.

        On large tissues the training cells tell the shared weights, and the first shrinks as good as nothing. On small
        ones the widest circles are alike all over the training region: it can't tell their weights, others need them.
        """
        return [
            {"spread": spread, "shrink": shrink}
            for shrink in (1e-4, 0.01, 0.1)
            for spread in (0.01, 0.03, 0.1, 0.3, 1.0)
        ]

    def predict(self, context: Context, query_um: NDArray[np.float64], settings: Settings, *_: object) -> Estimate:
        """See `Baseline`."""
        learned = learn_blend(context)
        return join(blend(means, learned, context.training, **settings) for means in in_pieces(context, query_um))


def learn_blend(context: Context) -> Learned:
    """What the training cells teach, learned once."""
    return context.practice.once(Blend.name, lambda examples: _learn(examples, context.training))


def blend(means: Sequence[Estimate], learned: Learned, training: Profile, spread: float, shrink: float) -> Estimate:
    """Blend the surroundings of some cells.

    Args:
        means: Of every circle.
        learned: From the training cells.
        training: Their profile.
        spread: How far the weights of a gene may lie from the shared ones.
        shrink: How strongly these are shrunk.

    Returns:
        The estimate.
    """
    of_mean, of_share = (part.weights(spread, shrink).astype(np.float32) for part in (learned.mean, learned.share))
    return Estimate(
        _blend([part.mean for part in means], of_mean, training.mean),
        np.minimum(_blend([part.share for part in means], of_share, training.share), 1),
        _mix(means, learned.parts, training),
    )


def _blend(means: Sequence[Values], weights: Values, usual: Numbers) -> Values:
    """(Q, P) the training mean plus the weighted distances from it."""
    usual = usual.astype(np.float32)
    found = np.tile(usual, (len(means[0]), 1))
    for mean, weight in zip(means, weights, strict=True):
        found += weight * (mean - usual)
    return np.asarray(np.maximum(found, 0))


def _mix(means: Sequence[Estimate], parts: Numbers, training: Profile) -> Values:
    """(Q, P) the mixture of compositions."""
    found = np.tile((parts[-1] * training.composition).astype(np.float32), (len(means[0].mean), 1))
    for estimate, part in zip(means, parts, strict=False):  # the last part, of the training cells, is in already
        if estimate.composition is not None:
            found += np.float32(part) * estimate.composition
    return found


def _learn(examples: Iterable[Example], training: Profile) -> Learned:
    num_radii, num_genes = len(RADII), len(training.mean)
    xx = np.zeros((2, num_genes, num_radii, num_radii))
    xy, yy = np.zeros((2, num_genes, num_radii)), np.zeros((2, num_genes))
    size, likely, counted = 0, [np.empty((num_radii + 1, 0))], [np.empty(0)]
    for example in examples:
        means = surroundings(example.context, example.query_um)
        known = example.context.training  # without the cells that this example infers
        usual = [part.astype(np.float32) for part in (known.mean, known.share)]
        truth = example.expression.toarray().astype(np.float32)
        for i, (seen, actual) in enumerate(
            zip(([part.mean for part in means], [part.share for part in means]), (truth, truth > 0), strict=True)
        ):
            # Products of one example in float32, for speed; their sum over examples in float64.
            x = np.stack(seen).transpose(2, 0, 1) - usual[i][:, None, None]
            y = (actual - usual[i]).T
            xx[i] += x @ x.transpose(0, 2, 1)
            xy[i] += np.einsum("psq,pq->ps", x, y)
            yy[i] += np.square(y).sum(axis=1, dtype=np.float64)
        size += len(truth)
        counts = example.counts.tocoo()
        of_circles = [part.composition[counts.row, counts.col] for part in means if part.composition is not None]
        likely.append(np.stack([*of_circles, known.composition[counts.col]]))
        counted.append(counts.data)
    parts = _mixture(np.concatenate(likely, axis=1), np.concatenate(counted))
    mean, share = (_Sums(size, xx[i], xy[i], yy[i]) for i in range(2))
    return Learned(mean, share, parts)


def _mixture(likely: Numbers, counted: Numbers) -> Numbers:
    """Weights of a mixture that make some counts most likely, by expectation-maximisation.

    Args:
        likely: (S + 1, n) probability of each counted gene under each part.
        counted: (n,) counts.

    Returns:
        (S + 1,), sum 1; equal weights where there is nothing to learn from.
    """
    parts = np.full(len(likely), 1 / len(likely))
    for _ in range(_EM_STEPS if counted.size else 0):
        joint = parts[:, None] * likely
        found = (joint / np.maximum(joint.sum(axis=0), _SMALL)) @ counted
        parts = found / found.sum()
    return parts
