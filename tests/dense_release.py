"""The network of the public release in NumPy on all pairs of cells, independent of the package: for comparison in tests.

It follows the description of the release in docs/release.md, on the tensors by the names of the release. Every cell is in the
graph: hidden ones have an expression of zero.
"""

from __future__ import annotations

import numpy as np

EPSILON = 1e-5


def normalise(x: np.ndarray) -> np.ndarray:
    """Layer norm without learned scale or bias."""
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + EPSILON)


class DenseRelease:
    """The release on dense arrays in double precision; `tensors` are those of its file."""

    def __init__(self, tensors: dict, radius_um: float) -> None:
        self.tensors = {name: np.asarray(tensor, dtype=np.float64) for name, tensor in tensors.items()}
        self.radius_um = radius_um

    def mlp(self, module: str, x: np.ndarray) -> np.ndarray:
        """Run an MLP over the last axis."""
        maps = []
        while (name := f"{module}.layers.{len(maps)}.weight") in self.tensors:
            maps.append(self.tensors[name])
        x = normalise(np.maximum(x @ maps[0].T, 0))
        for weight in maps[1:-1]:
            x = normalise(x + np.maximum(x @ weight.T, 0))
        return x @ maps[-1].T

    def graph_network(self, module: str, h: np.ndarray, xy_um: np.ndarray, edges: np.ndarray | None = None):
        """Run encoder or decoder; returns features and coordinates. `edges` (N, N) replaces the graph of the radius."""
        position = np.concatenate([xy_um, np.zeros((len(xy_um), 1))], axis=1)
        apart = np.linalg.norm(position[:, None] - position[None], axis=-1)
        edges = apart <= self.radius_um if edges is None else edges  # every cell is its own neighbour
        layer = 0
        while f"{module}.convs.{layer}.mlp_msg.layers.0.weight" in self.tensors:
            prefix = f"{module}.convs.{layer}"
            inner = (h[:, None] * h[None]).mean(axis=-1, keepdims=True)
            vector = position[:, None] - position[None]
            distance = self.mlp(f"{prefix}.dist_embedding", np.linalg.norm(vector, axis=-1, keepdims=True))
            pair = (
                np.broadcast_to(h[:, None], (*edges.shape, h.shape[1])),
                np.broadcast_to(h, (*edges.shape, h.shape[1])),
            )
            gate = self.mlp(f"{prefix}.innerprod_embedding", inner)
            message = self.mlp(f"{prefix}.mlp_msg", np.concatenate([*pair, distance], axis=-1) * gate)
            step = (vector * self.mlp(f"{prefix}.mlp_pos", message) * edges[..., None]).sum(axis=1)
            number = (edges & (inner[..., 0] != 0)).sum(axis=1)
            position = position + step / np.maximum(number, 1)[:, None]
            h = self.mlp(f"{prefix}.mlp_upd", (message * edges[..., None]).sum(axis=1))
            layer += 1
        if f"{module}.pred.layers.0.weight" in self.tensors:
            h = self.mlp(f"{module}.pred", h)
        return h, position

    def embed(self, expression: np.ndarray, xy_um: np.ndarray, edges: np.ndarray | None = None) -> np.ndarray:
        """(N, D) embeddings of cells with (N, G) log-normalised expression."""
        return self.graph_network("model", self.mlp("gene_encoder", expression), xy_um, edges)[0]

    def predict(self, expression: np.ndarray, xy_um: np.ndarray, masked: np.ndarray):
        """(K, G) magnitude, which is not negative, and P(expressed), of hidden cells."""
        visible = expression.copy()
        visible[masked] = 0
        h = self.embed(visible, xy_um)
        h[masked] = self.tensors["mask_embedding.weight"][0]
        decoded = self.graph_network("mask_cell_decoder", h, xy_um)[0][masked]
        logit = self.mlp("mask_cell_dropout", decoded)
        return np.maximum(self.mlp("mask_cell_expression", decoded), 0), 1 / (1 + np.exp(-logit))
