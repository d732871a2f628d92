"""Muon for the matrices of a network, and AdamW for its other weights, as one optimiser.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) replaces the momentum of a matrix by the nearest
matrix with orthogonal rows or columns: every direction of its input is then changed by the same amount, also those with
small gradients. The scale of a step is that of AdamW (Liu et al. 2025, arXiv:2502.16982), so that both share a learning
rate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from cifm_cli.training.threads import between_parts, map_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

ORTHOGONAL = "orthogonal"  # key of a parameter group: whether its steps are orthogonal
MOMENTUM = 0.95
ITERATIONS = 3  # five cost two thirds more; after 500 steps the MSE was 1.1524 with five and 1.1527 with three
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Jordan et al.: singular values come near 1 in few iterations
INTERVAL = 2  # gradients for each step: the momentum changes slowly, and to make it orthogonal is a tenth of the work
RMS = 0.2  # root mean square of the steps of AdamW, in learning rates (Liu et al. 2025)
EPSILON = 1e-7  # keeps the gradient zero a step of zero


class Muon(torch.optim.AdamW):
    """AdamW, except for parameter groups whose key `orthogonal` is set: their weights, all matrices, take steps of Muon.

    The momentum of a matrix is in `exp_avg`, as that of AdamW; it has no `exp_avg_sq`.

    Args:
        groups: Parameter groups with the key `orthogonal`.
        half: Whether to orthogonalise in bfloat16; in float32 otherwise.
        shares_cores: Whether the parts of a step leave cores to others, see `between_parts`.
        options: Options of AdamW.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        *,
        half: bool = False,
        shares_cores: bool = False,
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(groups, **options)
        self.shares_cores = shares_cores
        self.dtype = torch.bfloat16 if half else torch.float32

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step with the gradients of the weights; those without a gradient stay."""
        groups = self.param_groups
        # The step of AdamW is that of torch, over its own groups.
        self.param_groups = [group for group in groups if not group[ORTHOGONAL]]
        try:
            with between_parts(shares_cores=self.shares_cores):
                loss: float | None = super().step(closure)
        finally:
            self.param_groups = groups
        batches: dict[tuple[int, torch.Size], list[Tensor]] = {}
        for number, group in enumerate(groups):
            for weight in group["params"] if group[ORTHOGONAL] else ():
                if weight.grad is not None:
                    batches.setdefault((number, weight.shape), []).append(weight)
        # Matrices of one shape are orthogonalised together, those of another shape on another core.
        tasks = [(groups[number], weights) for (number, _), weights in batches.items()]
        if tasks:
            map_threads(self._step_orthogonal, tasks, tasks[0][1][0].device)
        return loss

    @torch.no_grad()  # gradients are switched off by thread
    def _step_orthogonal(self, task: tuple[dict[str, Any], list[Tensor]]) -> None:
        """Take the step of weights of one shape and group."""
        group, weights = task
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        averages = [self._momentum(weight) for weight in weights]
        torch._foreach_lerp_(averages, gradients, 1 - MOMENTUM)
        # A step after the first gradient, then after every `INTERVAL`-th; weights of a shape have had equally many.
        if (int(self.state[weights[0]]["step"]) - 1) % INTERVAL:
            return
        # Nesterov: the momentum after one more step with this gradient.
        ahead = torch.stack(torch._foreach_lerp(gradients, averages, MOMENTUM))
        steps = orthogonalise(as_blocks(ahead).to(self.dtype)).to(ahead.dtype).view_as(ahead)
        rate = INTERVAL * group["lr"]
        scale = RMS * max(as_blocks(ahead).shape[-2:]) ** 0.5
        torch._foreach_mul_(weights, 1 - rate * group["weight_decay"])
        torch._foreach_add_(weights, list(steps), alpha=-rate * scale)

    def _momentum(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if not state:
            state["step"], state["exp_avg"] = torch.zeros(()), torch.zeros_like(weight)
        state["step"] += 1
        average: Tensor = state["exp_avg"]
        return average


def as_blocks(matrices: Tensor) -> Tensor:
    """Divide (n, r, c) matrices whose rows are several maps one below the other into (m, c, c) blocks.

    The projections Q, K, A and B of a layer are one weight, but four maps. A map to twice as many features is divided too:
    its shape does not tell it from two maps.
    """
    _, rows, columns = matrices.shape
    return matrices.reshape(-1, columns, columns) if rows > columns and rows % columns == 0 else matrices


def orthogonalise(matrices: Tensor) -> Tensor:
    """Replace the singular values of matrices by numbers near one, by a Newton-Schulz iteration.

    Args:
        matrices: (n, r, c), in float32, float64 or bfloat16.

    Returns:
        (n, r, c) matrices with the same singular vectors and, unless they were below 0.016 of the Frobenius norm,
        singular values between 0.6 and 1.3; zero matrices stay zero.
    """
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = matrices.mT if is_tall else matrices  # the smaller product X X^T
    # The Frobenius norm bounds the largest singular value, which must not exceed one.
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + EPSILON)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if is_tall else x
