"""Dropout with random numbers from a given generator, so that they do not depend on device or thread."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator

# A context variable is local to a thread: members of an ensemble that train in parallel do not share a generator.
_DRAWS: ContextVar[torch.Generator | None] = ContextVar("draws", default=None)


@contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """Make dropout within the block, in this thread, draw from a generator. Without it, torch's global one is used.

    Args:
        generator: A generator on the CPU.

    Yields:
        Nothing.
    """
    token = _DRAWS.set(generator)
    try:
        yield
    finally:
        _DRAWS.reset(token)


class Dropout(nn.Module):
    """Dropout with random numbers drawn on the CPU.

    Args:
        fraction: Fraction of the values set to zero in a training step.
    """

    def __init__(self, fraction: float) -> None:
        super().__init__()
        self.fraction = fraction

    def forward(self, x: Tensor) -> Tensor:
        """Set values of a tensor of any shape to zero and scale up the others; the identity outside training."""
        if not self.training or not self.fraction:
            return x
        # Drawn on the CPU: a GPU has another generator, which would give other numbers for the same seed.
        mask = torch.rand(x.shape, generator=_DRAWS.get()) >= self.fraction
        # Scaled up, so that the expected value is that of inference.
        return x * (mask.to(x.device, x.dtype) / (1 - self.fraction))
