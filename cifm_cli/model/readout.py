"""The readout of a model: how the features of the encoder and the expression around a cell become an embedding.

The code of a cell is its centred expression in a few principal components. An embedding joins the features of the encoder, the
code of the cell, and for several radii the mean code of the cells around it and the fractions of cell states among them. These
features are scaled, reduced to the width of the model by principal components, and rotated: a linear model that standardises
its features would otherwise give the last components, which are noise, as much weight as the first.

Letters: n cells, G genes of the vocabulary, P of a panel, C components of the code, Q clusterings of cells into K states each,
S = Q K states of all clusterings, R radii, D width of the model, F = D + C + R (C + S) features of a microenvironment, E = D + C
features of a cell.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from cifm_cli.tensor_files import Layout

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.model.coexpression import CoExpression

    Values = NDArray[np.float32]

_PREFIX = "readout."
# Largest sizes of a file, far above those of a fit
MAX_COMPONENTS, MAX_CLUSTERINGS, MAX_STATES, MAX_RADII = 512, 16, 512, 16
MAX_RADIUS = 100.0  # in radii of the graph


@dataclass(frozen=True, eq=False)
class Readout:
    """A fitted readout. All arrays are float32."""

    mean: Values  # (G,) mean expression of the training slides, for slides that the model is not adapted to
    loadings: Values  # (G, C) of the code
    states: Values  # (Q, K, C) codes of the cell states of each clustering
    radii: Values  # (R,) ascending, in radii of the graph
    centre: Values  # (F,) mean features of microenvironments
    projection: Values  # (F, D) from centred features to an embedding
    cell_centre: Values  # (E,) the same for the embedding of a cell
    cell_projection: Values  # (E, D)

    @property
    def num_components(self) -> int:
        """C."""
        return int(self.loadings.shape[1])

    @property
    def num_states(self) -> int:
        """S."""
        return int(self.states.shape[0] * self.states.shape[1])

    def encode(
        self, expression: csr_matrix, genes: NDArray[np.int64], mean: Values | None, has_counts: NDArray[np.bool_]
    ) -> Values:
        """Compute the code of cells.

        Args:
            expression: (n, P) log-normalised expression.
            genes: (P,) vocabulary rows of the panel.
            mean: (P,) mean expression of the slide; None for that of the training slides.
            has_counts: (n,) whether a cell has counts of the panel.

        Returns:
            (n, C); zero for cells without counts.
        """
        loadings = self.loadings[genes]
        centre = (self.mean[genes] if mean is None else mean).astype(np.float64) @ loadings.astype(np.float64)
        codes: Values = expression @ loadings
        codes -= centre.astype(np.float32)
        codes[~has_counts] = 0
        return codes

    def nearest_states(self, codes: Values) -> NDArray[np.int64]:
        """(n, Q) the state of each clustering that is nearest to each code, among the S states of all clusterings."""
        nearest = np.empty((len(codes), len(self.states)), dtype=np.int64)
        for number, centres in enumerate(self.states):
            distance = np.square(centres).sum(axis=1) - 2 * codes @ centres.T
            nearest[:, number] = distance.argmin(axis=1) + number * len(centres)
        return nearest

    def embed(self, features: Values) -> Values:
        """Turn (n, F) features of microenvironments into (n, D) embeddings."""
        return np.asarray((features - self.centre) @ self.projection)

    def embed_cell(self, features: Values) -> Values:
        """Turn (n, E) features of cells into (n, D) embeddings."""
        return np.asarray((features - self.cell_centre) @ self.cell_projection)

    def with_genes(self, vocabulary: Sequence[str], source: CoExpression) -> Readout:
        """Add loadings of new genes, derived as the other weights that read expression (`growth`).

        Args:
            vocabulary: The grown vocabulary, which starts with the genes of the readout.
            source: Co-expression on the slide of the new genes.

        Returns:
            A readout for the grown vocabulary, unchanged for the genes that it had.
        """
        num_known = len(self.mean)
        row_of = {gene: row for row, gene in enumerate(vocabulary)}
        rows = np.array([row_of[gene] for gene in source.new], dtype=np.int64)
        mean = np.zeros(len(vocabulary), np.float32)
        loadings = np.zeros((len(vocabulary), self.num_components), np.float32)
        mean[:num_known], loadings[:num_known] = self.mean, self.loadings
        # New genes stand in for the genes of the model that the slide lacks; the others are read already.
        gain = 1 - len(source.known) / num_known
        loadings[rows] = gain * source.inverse.transfer(self.loadings[source.known].astype(np.float64))
        mean[rows] = source.new_mean
        return replace(self, mean=mean, loadings=loadings)


def pack_readout(readout: Readout | None) -> dict[str, torch.Tensor]:
    """Turn a readout into tensors by name; none without a readout."""
    if readout is None:
        return {}
    # Copied, because safetensors refuses tensors that share memory.
    return {f"{_PREFIX}{each.name}": torch.tensor(getattr(readout, each.name)) for each in fields(Readout)}


def is_readout(name: str) -> bool:
    """Whether a tensor of a checkpoint belongs to its readout."""
    return name.startswith(_PREFIX)


def readout_layout(stored: Mapping[str, Layout], num_genes: int, width: int) -> dict[str, Layout]:
    """Find the tensors that the readout of a checkpoint needs.

    Args:
        stored: Types and shapes of its tensors.
        num_genes: G, size of its vocabulary.
        width: D.

    Returns:
        Name to type and shape; empty for a checkpoint of an earlier version, which has no readout.
    """
    if not any(map(is_readout, stored)):
        return {}
    num_components = _size(stored, "loadings", 1, MAX_COMPONENTS)
    num_clusterings = _size(stored, "states", 0, MAX_CLUSTERINGS)
    num_states = _size(stored, "states", 1, MAX_STATES)
    num_radii = _size(stored, "radii", 0, MAX_RADII)
    num_alone = width + num_components
    num_features = num_alone + num_radii * (num_components + num_clusterings * num_states)
    shapes = {
        "mean": (num_genes,),
        "loadings": (num_genes, num_components),
        "states": (num_clusterings, num_states, num_components),
        "radii": (num_radii,),
        "centre": (num_features,),
        "projection": (num_features, width),
        "cell_centre": (num_alone,),
        "cell_projection": (num_alone, width),
    }
    return {f"{_PREFIX}{name}": Layout("F32", shape) for name, shape in shapes.items()}


def _size(stored: Mapping[str, Layout], name: str, axis: int, largest: int) -> int:
    """Size of an axis of a tensor in a file, within what a readout may have."""
    layout = stored.get(f"{_PREFIX}{name}")
    size = layout.shape[axis] if layout and len(layout.shape) > axis else 1
    return min(max(size, 1), largest)


def unpack_readout(tensors: Mapping[str, torch.Tensor]) -> Readout | None:
    """Read the readout of a checkpoint from its tensors; None if it has none."""
    if not any(map(is_readout, tensors)):
        return None
    return Readout(**{each.name: tensors[f"{_PREFIX}{each.name}"].numpy() for each in fields(Readout)})


def readout_problem(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Describe radii in a file that no fit gives; None without any.

    Args:
        tensors: Tensors of the file by name.
    """
    radii = tensors.get(f"{_PREFIX}radii")
    if radii is None:
        return None
    ascending = bool((radii.diff() > 0).all()) and float(radii[0]) > 0 and float(radii[-1]) <= MAX_RADIUS
    return None if ascending else f"tensor {_PREFIX}radii is not ascending between 0 and {MAX_RADIUS:g}"
