"""Dropout whose draws follow from seed and step, on any device and in any thread."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator

_DRAWS: ContextVar[torch.Generator | None] = ContextVar("draws", default=None)  # a thread has its own


@contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """Let every dropout of a block, in this thread, draw from a generator; elsewhere it is torch's global one.

    Args:
        generator: On the CPU.

    Yields:
        Nothing.
    """
    token = _DRAWS.set(generator)
    try:
        yield
    finally:
        _DRAWS.reset(token)


class Dropout(nn.Module):
    """Dropout whose draws are made on the CPU.

    Args:
        share: Of the values that are zero in a training step.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Drop values of any shape; the identity outside training."""
        if not self.training or not self.share:
            return x
        kept = torch.rand(x.shape, generator=_DRAWS.get()) >= self.share
        return x * kept.to(x.device) / (1 - self.share)
