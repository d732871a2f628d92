"""The output of a head for masked cells, as tensors.

Letters: M masked cells, P genes of the panel, K states, D features, T terms of the smoother.
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
    # (M, D) features that the maps to the genes read, those of all members side by side; None for the head of the paper
    features: Tensor | None = None
    # (M, T, K) frequency of each cell state around a cell, for each term of the smoother; None for the head of the paper
    frequencies: Tensor | None = None
    # magnitude, logit and composition of the smoother alone, before all corrections; None for the head of the paper
    smoothed_magnitude: Tensor | None = None
    smoothed_logit: Tensor | None = None
    smoothed_composition: Tensor | None = None


def mean_output(outputs: Sequence[Output]) -> Output:
    """Average the outputs of the members of an ensemble.

    Probabilities are averaged as logits, so the result is their geometric mean.

    Args:
        outputs: Outputs for the same cells, genes and states; at least one.

    Returns:
        The mean of each field, and the features of all members.
    """
    if len(outputs) == 1:
        return outputs[0]  # bit for bit, and without a copy
    fields = {
        name: [getattr(output, name) for output in outputs]
        for name, values in outputs[0]._asdict().items()
        if values is not None
    }
    # Features of different members have different meanings, so they are not averaged.
    features = torch.cat(fields.pop("features"), dim=1) if "features" in fields else None
    return outputs[0]._replace(
        **{name: torch.stack(values).mean(0) for name, values in fields.items()}, features=features
    )
