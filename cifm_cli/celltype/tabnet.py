"""TabNet as scTab uses it, for inference: from a state dict to logits (Arik and Pfister 2021; entmax: Peters et al. 2019).

Batch norm stands on its running statistics, so "ghost" batches don't matter. Letters: n cells, G genes, T types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch.nn import functional

_ROOT_HALF: Final = 0.5**0.5
_ENCODER = "encoder"


@dataclass(frozen=True)
class TabNet:
    """A trained network.

    Args:
        weights: Its state.
        gamma: How freely a gene is used again; the masks' relaxation.
        mask_type: `entmax` or `sparsemax`.
    """

    weights: dict[str, torch.Tensor]
    gamma: float
    mask_type: str

    @property
    def num_features(self) -> int:
        """Width of the part of each step that speaks of types; the rest guides the next step."""
        return self.weights["final_mapping.weight"].shape[1]

    @property
    def num_steps(self) -> int:
        """Steps of attention."""
        return 1 + max(int(name.split(".")[2]) for name in self.weights if name.startswith("encoder.att_transformers."))

    def logits(self, expression: torch.Tensor) -> torch.Tensor:
        """Say what cells are.

        Args:
            expression: (n, G) log-normalised.

        Returns:
            (n, T).
        """
        x = self._norm(expression, f"{_ENCODER}.initial_bn")
        prior = torch.ones_like(x)
        guide = self._transform(x, f"{_ENCODER}.initial_splitter")[:, self.num_features :]
        total = torch.zeros(len(x), self.num_features)
        select = entmax15 if self.mask_type == "entmax" else sparsemax
        for step in range(self.num_steps):
            attention = f"{_ENCODER}.att_transformers.{step}"
            asked = self._norm(guide @ self.weights[f"{attention}.fc.weight"].T, f"{attention}.bn.bn")
            mask = select(asked * prior)
            prior = prior * (self.gamma - mask)
            out = self._transform(mask * x, f"{_ENCODER}.feat_transformers.{step}")
            total = total + out[:, : self.num_features].relu()
            guide = out[:, self.num_features :]
        return total @ self.weights["final_mapping.weight"].T

    def _transform(self, x: torch.Tensor, name: str) -> torch.Tensor:
        """Shared gated layers, then the step's own; all but the very first are residual."""
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
    """The nearest point of the probability simplex, row by row: max(z - tau, 0) that sums to 1; shapes (n, G)."""
    falling = z.sort(dim=1, descending=True).values
    rank = torch.arange(1, z.shape[1] + 1, dtype=z.dtype)
    excess = falling.cumsum(dim=1) - 1
    size = (rank * falling > excess).sum(dim=1, keepdim=True)
    return (z - excess.gather(1, size - 1) / size).clamp(min=0)


def entmax15(z: torch.Tensor) -> torch.Tensor:
    """Between softmax and sparsemax, row by row: max(z / 2 - tau, 0)^2 that sums to 1; shapes (n, G).

    tau is the smaller root of sum over the k largest (z / 2 - tau)^2 = 1, for the largest k whose values all exceed it.
    """
    z = (z - z.max(dim=1, keepdim=True).values) / 2
    falling = z.sort(dim=1, descending=True).values
    rank = torch.arange(1, z.shape[1] + 1, dtype=z.dtype)
    mean = falling.cumsum(dim=1) / rank
    spread = rank * (falling.square().cumsum(dim=1) / rank - mean.square())
    root = mean - ((1 - spread) / rank).clamp(min=0).sqrt()
    size = (root <= falling).sum(dim=1, keepdim=True)
    return (z - root.gather(1, size - 1)).clamp(min=0).square()
