"""The prediction of an adapted model in torch, so that it can be differentiated; `SlideAdaptation.refine` is its form in NumPy.

Only the mean expression and the probabilities of the states are computed.

Letters: M cells, P genes, S radii, K states, T terms of the smoother, X added cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cifm_cli.inference.adaptation.slide_adaptation import FLOOR, profile_of
from cifm_cli.inference.adaptation.state_pool import SMALLEST
from cifm_cli.inference.adaptation.weights import NUM_DIFFERENCES, depth_patterns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from cifm_cli.inference.adaptation.slide_adaptation import SlideAdaptation
    from cifm_cli.model.output import Output


@dataclass(frozen=True)
class Inferred:
    """Prediction of M cells."""

    mean: Tensor  # (M, P) log-normalised expression, not negative
    states: Tensor | None  # (M, K) probability of each cell state


@dataclass(frozen=True)
class Refinement:
    """The tensors of an adaptation."""

    usual: Tensor  # (P,) mean expression of the slide
    blend: Tensor  # (S, P) weights of the neighbour means
    weights: Tensor  # (4,) weights of the differences between profile, wide mean, blend, smoother and network
    depth_weights: Tensor  # (4,) weights of the part that all genes have in common, minus `weights`
    pattern: Tensor  # (P,) of that part
    genes: Tensor  # genes whose neighbour means are features of the regression
    centre: Tensor  # (D,) of the network's features
    factor: Tensor  # (D,)
    coefficients: Tensor  # (F, P)
    intercept: Tensor  # (P,)
    state_weights: Tensor  # (1 + T,)

    @classmethod
    def of(cls, adaptation: SlideAdaptation, like: Tensor) -> Refinement | None:
        """Convert an adaptation to the precision and device of a tensor; None where nothing is refined."""
        fitted, stats = adaptation.refinement, adaptation.stats
        pattern = depth_patterns(stats)[0]
        if fitted is None or pattern is None:
            return None
        own, regression, num_genes = fitted.weights[0], fitted.regression, len(stats.mean)
        depth = (0.0, *own[NUM_DIFFERENCES:])  # the profile has no weight of its depth

        def to(values: object) -> Tensor:
            """Convert an array."""
            return torch.as_tensor(values).to(like)

        return cls(
            usual=to(profile_of(stats)[0]),
            blend=to(fitted.blend.mean_weights()),
            weights=to(list(own[:NUM_DIFFERENCES])),
            depth_weights=to([depth[i] - own[i] for i in range(NUM_DIFFERENCES)]),
            pattern=to(pattern),
            genes=torch.from_numpy(regression.genes).to(like.device),
            centre=to(regression.scale.mean),
            factor=to(regression.scale.factor),
            coefficients=to(regression.coefficients[:, :num_genes]),
            intercept=to(regression.intercept[:num_genes]),
            state_weights=to(fitted.state_weights),
        )

    def refine(self, output: Output, network: Inferred, circles: Sequence[Tensor]) -> Inferred:
        """Turn the network's prediction into that of the adapted model.

        Args:
            output: Output of the network.
            network: Its prediction.
            circles: Neighbour means, (M, P) for each of S radii.

        Returns:
            The prediction.
        """
        if output.smoothed_magnitude is None or output.features is None or output.frequencies is None:
            raise ValueError("the head of the paper cannot be adapted")
        base = self._mix(circles, output.smoothed_magnitude.clamp(min=0), network.mean)
        means = [circle[:, self.genes] - self.usual[self.genes] for circle in circles]
        features = torch.cat([*means, (output.features - self.centre) * self.factor], dim=1)
        error = features @ self.coefficients + self.intercept
        mean = torch.maximum(base + error, FLOOR * base.clamp(min=0))
        if network.states is None:
            return Inferred(mean, None)
        logs = torch.cat([network.states[:, None], output.frequencies], dim=1).clamp(min=SMALLEST).log()
        return Inferred(mean, torch.einsum("mtk,t->mk", logs, self.state_weights).softmax(1))

    def _mix(self, circles: Sequence[Tensor], smoothed: Tensor, predicted: Tensor) -> Tensor:
        """(M, P) base prediction: the wide mean, and weighted steps from it to profile, blend, smoother and network."""
        wide = circles[-1]
        terms = zip(self.blend, circles, strict=True)
        blend = (self.usual + sum(weight * (circle - self.usual) for weight, circle in terms)).clamp(min=0)
        steps = [self.usual - wide, blend - wide, smoothed - blend, predicted - smoothed]
        base = wide + sum(weight * step for weight, step in zip(self.weights, steps, strict=True))
        common = sum(weight * (step @ self.pattern) for weight, step in zip(self.depth_weights, steps, strict=True))
        mixed: Tensor = base + common[:, None] * self.pattern
        return mixed


def infer(output: Output) -> Inferred:
    """The prediction of a network without adaptation."""
    return Inferred(output.magnitude.clamp(min=0), None if output.state is None else output.state.softmax(1))
