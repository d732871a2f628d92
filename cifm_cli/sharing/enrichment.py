"""Enrichment of cell types in clusters, against types that are shifted over the tissue.

Types and clusters both vary smoothly over a tissue, so that some overlap by chance; if types were permuted over single cells,
almost any two smooth patterns would differ from it. The null therefore keeps the pattern of the types and moves it: by a random
shift that wraps around the tissue, and by reflections (a toroidal shift).

Letters: n cells, K clusters, T types, R permutations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from cifm_cli import provenance
from cifm_cli.sharing.exact import num_threads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Rows = NDArray[np.int64]

_TESTED_CELLS = 2_000  # of a slide; more cells of the same tissue hardly change what its pattern can show


@dataclass(frozen=True)
class TypedCells:
    """Clusters and types of the cells of one slide."""

    xy_um: NDArray[np.float64]  # (n, 2) micrometres
    clusters: Rows  # (n,) from 0 to K - 1
    types: Rows  # (n,) from 0 to T - 1; -1 for a cell without a type


@dataclass(frozen=True)
class Enrichment:
    """Types by cluster."""

    counts: NDArray[np.int64]  # (K, T) cells
    log2_enrichment: NDArray[np.float64]  # (K, T) log2 of the frequency in the cluster over that in all clusters
    p_values: NDArray[np.float64]  # (K, T) two-sided


def measure_enrichment(
    slides: Sequence[TypedCells], num_clusters: int, num_types: int, num_permutations: int, seed: int
) -> Enrichment:
    """Compare the types of each cluster with those of all clusters.

    Args:
        slides: The slides of one sample.
        num_clusters: K.
        num_types: T.
        num_permutations: R; the smallest possible p-value is 2 / (R + 1).
        seed: Seed of the shifts.

    Returns:
        Counts of all cells, enrichment, and p-values.
    """
    shape = (num_clusters, num_types)
    counts = np.sum([_cross_table(slide.clusters, slide.types, shape) for slide in slides], axis=0)
    observed = np.zeros(shape, dtype=np.int64)
    shifted = np.zeros((num_permutations, *shape), dtype=np.int64)
    for number, slide in enumerate(slides):
        generator = provenance.numpy_generator(seed, "sharing enrichment", number)
        drawn = np.sort(generator.permutation(len(slide.xy_um))[:_TESTED_CELLS])
        observed += _cross_table(slide.clusters[drawn], slide.types[drawn], shape)
        for repetition, types in enumerate(_shifted_types(slide, drawn, num_permutations, generator)):
            shifted[repetition] += _cross_table(slide.clusters[drawn], types, shape)
    return Enrichment(counts, _log2_enrichment(counts), _two_sided_p(_frequencies(observed), _frequencies(shifted)))


def _shifted_types(slide: TypedCells, drawn: Rows, number: int, generator: np.random.Generator) -> Sequence[Rows]:
    """Types that the drawn cells get when the types are moved over the tissue."""
    low_um = slide.xy_um.min(axis=0)
    # The torus is wider than the tissue by the spacing of the cells, so that its two edges do not coincide.
    size_um = np.maximum(slide.xy_um.max(axis=0) - low_um, 1e-9) * (1 + 1 / np.sqrt(len(slide.xy_um)))
    tree, places = cKDTree(slide.xy_um), slide.xy_um[drawn] - low_um
    moved = []
    for _ in range(number):
        signs, shift = generator.choice([-1.0, 1.0], 2), generator.random(2) * size_um
        _, nearest = tree.query((places * signs + shift) % size_um + low_um, workers=num_threads())
        moved.append(slide.types[nearest])
    return moved


def _cross_table(clusters: Rows, types: Rows, shape: tuple[int, int]) -> NDArray[np.int64]:
    """(K, T) number of cells; cells without a type are not counted."""
    typed = types >= 0
    flat = clusters[typed] * shape[1] + types[typed]
    return np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)


def _frequencies(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(..., K, T) frequency of each type in a cluster, minus its frequency in all clusters of the same table."""
    within = counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1)
    overall = counts.sum(axis=-2, keepdims=True) / np.maximum(counts.sum(axis=(-2, -1), keepdims=True), 1)
    return np.asarray(within - overall)


def _log2_enrichment(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(K, T); one cell with the overall frequencies is added to each cluster, so that absent types have finite values."""
    overall = counts.sum(axis=0) / max(counts.sum(), 1)
    within = (counts + overall) / (counts.sum(axis=1, keepdims=True) + 1)
    present = overall > 0
    enrichment = np.zeros(counts.shape)
    enrichment[:, present] = np.log2(within[:, present] / overall[present])
    return enrichment


def _two_sided_p(observed: NDArray[np.float64], null: NDArray[np.float64]) -> NDArray[np.float64]:
    tolerance = 1e-12
    above = (1 + (null >= observed - tolerance).sum(axis=0)) / (1 + len(null))
    below = (1 + (null <= observed + tolerance).sum(axis=0)) / (1 + len(null))
    return np.asarray(np.minimum(1.0, 2 * np.minimum(above, below)))
