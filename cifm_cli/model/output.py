"""The output of a head for masked cells, as tensors.

Letters: M masked cells, P genes of the panel, K states.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Output(NamedTuple):
    """Prediction for M masked cells and P genes. `inference.prediction.Prediction` is its form in NumPy."""

    magnitude: Tensor  # (M, P) log-normalised expression; negative values mean zero
    logit: Tensor  # (M, P) logit of P(expressed)
    # (M, P) logit of the fraction of the cell's counts in each gene; None for the head of the paper
    composition: Tensor | None = None
    state: Tensor | None = None  # (M, K) logit of the probability of each cell state; None for the head of the paper
    # (K, P) mean expression of each state. The loss assigns the true cells to states by them.
    profiles: Tensor | None = None


def mean_output(outputs: Sequence[Output]) -> Output:
    """Average the outputs of the members of an ensemble.

    Probabilities are averaged as logits, so the result is their geometric mean.

    Args:
        outputs: Outputs for the same cells, genes and states; at least one.

    Returns:
        The mean of each field.
    """
    if len(outputs) == 1:
        return outputs[0]  # bit for bit, and without a copy
    first = outputs[0]
    return first._replace(
        **{
            name: torch.stack([getattr(output, name) for output in outputs]).mean(0)
            for name, values in first._asdict().items()
            if values is not None
        }
    )
