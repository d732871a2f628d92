"""Inference with scTab's TabNet: from a state dict to logits (Arik and Pfister 2021; entmax: Peters et al. 2019).

Batch norm uses its running statistics, so the "ghost" batches of training do not matter here.

Letters: n cells, G genes, T types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch.nn import functional

_ROOT_HALF: Final = 0.5**0.5  # of a sum of two layers: keeps its variance near that of each
_ENCODER = "encoder"


@dataclass(frozen=True)
class TabNet:
    """A trained network."""

    weights: dict[str, torch.Tensor]  # state dict
    gamma: float  # relaxation of the masks: at 1 a gene is used in one step only, larger values allow reuse
    mask_type: str  # `entmax` or `sparsemax`

    @property
    def num_features(self) -> int:
        """Width of the classified part of a step's output; the rest is the input of the next step's attention."""
        return self.weights["final_mapping.weight"].shape[1]

    @property
    def num_steps(self) -> int:
        """Number of attention steps."""
        return 1 + max(int(name.split(".")[2]) for name in self.weights if name.startswith("encoder.att_transformers."))

    def logits(self, expression: torch.Tensor) -> torch.Tensor:
        """Compute the logits of every type.

        Args:
            expression: (n, G) log-normalised.

        Returns:
            (n, T) logits.
        """
        x = self._norm(expression, f"{_ENCODER}.initial_bn")
        prior = torch.ones_like(x)
        attention_input = self._transform(x, f"{_ENCODER}.initial_splitter")[:, self.num_features :]
        total = torch.zeros(len(x), self.num_features)
        select = entmax15 if self.mask_type == "entmax" else sparsemax
        for step in range(self.num_steps):
            attention = f"{_ENCODER}.att_transformers.{step}"
            scores = self._norm(attention_input @ self.weights[f"{attention}.fc.weight"].T, f"{attention}.bn.bn")
            mask = select(scores * prior)
            # A gene that a step has used gets less weight in later steps.
            prior = prior * (self.gamma - mask)
            out = self._transform(mask * x, f"{_ENCODER}.feat_transformers.{step}")
            total = total + out[:, : self.num_features].relu()
            attention_input = out[:, self.num_features :]
        return total @ self.weights["final_mapping.weight"].T

    def _transform(self, x: torch.Tensor, name: str) -> torch.Tensor:
        """Apply the shared gated layers, then the step's own; all but the first layer are residual."""
        is_first = True
        for block in ("shared", "specifics"):
            layer = 0
            while (gate := f"{name}.{block}.glu_layers.{layer}") + ".fc.weight" in self.weights:
                out = self._gate(x, gate)
                x = out if is_first else (x + out) * _ROOT_HALF
                is_first, layer = False, layer + 1
        return x

    def _gate(self, x: torch.Tensor, name: str) -> torch.Tensor:
        values, gates = self._norm(x @ self.weights[f"{name}.fc.weight"].T, f"{name}.bn.bn").chunk(2, dim=1)
        return values * gates.sigmoid()

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        mean, variance, weight, bias = (
            self.weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(x, mean, variance, weight, bias)


def sparsemax(z: torch.Tensor) -> torch.Tensor:
    """Project each row onto the probability simplex: max(z - tau, 0), where tau makes the sum 1.

    Args:
        z: (n, G) scores.

    Returns:
        (n, G) weights.
    """
    largest = z.sort(dim=1, descending=True).values
    rank = torch.arange(1, z.shape[1] + 1, dtype=z.dtype)
    excess = largest.cumsum(dim=1) - 1
    size = (rank * largest > excess).sum(dim=1, keepdim=True)
    return (z - excess.gather(1, size - 1) / size).clamp(min=0)


def entmax15(z: torch.Tensor) -> torch.Tensor:
    """Apply 1.5-entmax, between softmax and sparsemax: max(z / 2 - tau, 0)^2, where tau makes the sum of a row 1.

    tau is the smaller root of sum over the k largest (z / 2 - tau)^2 = 1, for the largest k whose values all exceed it.

    Args:
        z: (n, G) scores.

    Returns:
        (n, G) weights.
    """
    # Subtracting the largest value does not change the result, and keeps the squares small.
    z = (z - z.max(dim=1, keepdim=True).values) / 2
    largest = z.sort(dim=1, descending=True).values
    rank = torch.arange(1, z.shape[1] + 1, dtype=z.dtype)
    mean = largest.cumsum(dim=1) / rank
    spread = rank * (largest.square().cumsum(dim=1) / rank - mean.square())
    # Rounding can make the radicand slightly negative.
    root = mean - ((1 - spread) / rank).clamp(min=0).sqrt()
    size = (root <= largest).sum(dim=1, keepdim=True)
    return (z - root.gather(1, size - 1)).clamp(min=0).square()
