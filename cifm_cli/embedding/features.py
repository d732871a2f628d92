"""Features that are probed: the embeddings, and baselines computed from expression alone."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix, hstack, vstack
from scipy.spatial import cKDTree

from cifm_cli import keys
from cifm_cli.data.slide import log_normalise
from cifm_cli.data.writers.one_model import require_one_model
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.writers.embedded import EmbeddedSlide

    Rows = NDArray[np.int64]

logger = logging.getLogger(__name__)

EXPRESSION = "expression"
NEIGHBOURHOOD = "neighbourhood_average"
NEIGHBOURHOOD_PCA = "neighbourhood_pca"
BOTH = "expression_and_neighbourhood"
BASELINES = (EXPRESSION, NEIGHBOURHOOD, NEIGHBOURHOOD_PCA, BOTH)
_EMBEDDINGS = {
    keys.MICROENVIRONMENT: "embedding of the cell and the cells around it",
    keys.CELL: "embedding of the cell alone",
}


@dataclass(frozen=True)
class Features:
    """One set of features of the probed cells."""

    name: str  # name in `probe.json`
    description: str  # description for the report
    values: NDArray[np.float32] | csr_matrix  # (n, F), dense embeddings or sparse expression
    num_components: int | None = None  # principal components that replace the features; None to use them as they are


def collect_features(slides: Sequence[EmbeddedSlide], rows: Sequence[Rows]) -> list[Features]:
    """Collect the embeddings and the baselines of the probed cells.

    Args:
        slides: Embedded slides.
        rows: Probed cells of each slide.

    Returns:
        The embeddings that all slides have, then the baselines; cells of one slide after the other.

    Raises:
        CifmError: The slides were embedded by different models, or share no gene or no embedding.
    """
    require_one_model(slides)
    # Only features that all slides have can be compared between cells of different slides.
    slots = [slot for slot in _EMBEDDINGS if all(slot in slide.embeddings for slide in slides)]
    genes = [gene for gene in slides[0].gene_ids if all(gene in slide.gene_ids for slide in slides)]
    if not genes or not slots:
        missing = "embedding" if genes else "gene"
        raise CifmError(f"the slides share no {missing}", "probe slides that were prepared and embedded alike")
    embeddings = [
        Features(
            slot,
            _EMBEDDINGS[slot],
            np.concatenate([slide.embeddings[slot][probed] for slide, probed in zip(slides, rows, strict=True)]),
        )
        for slot in slots
    ]
    return embeddings + _baselines(slides, rows, genes, embeddings[0].values.shape[1])


def _baselines(slides: Sequence[EmbeddedSlide], rows: Sequence[Rows], genes: list[str], width: int) -> list[Features]:
    """Expression of the cell, of its neighbours as it is and in as many dimensions as the embedding, and of both."""
    by_slide = [_expression(slide, probed, genes) for slide, probed in zip(slides, rows, strict=True)]
    own, around = (csr_matrix(vstack(matrices)) for matrices in zip(*by_slide, strict=True))
    if not around.nnz:
        radius_um = slides[0].origin["radius_um"]
        logger.warning("no probed cell has a neighbour within the model's radius, %g um", radius_um)
    return [
        Features(EXPRESSION, "the cell's own log-normalised expression", own),
        Features(
            NEIGHBOURHOOD,
            "mean log-normalised expression of the cells within the radius, the cell itself excluded",
            around,
        ),
        Features(
            NEIGHBOURHOOD_PCA,
            "principal components of neighbourhood_average, as many as the embedding has dimensions",
            around,
            width,
        ),
        Features(BOTH, "expression and neighbourhood_average, side by side", csr_matrix(hstack([own, around]))),
    ]


def _expression(slide: EmbeddedSlide, rows: Rows, genes: list[str]) -> tuple[csr_matrix, csr_matrix]:
    """(n, G) log-normalised expression of some cells, and the mean over their neighbours."""
    column = {gene: position for position, gene in enumerate(slide.gene_ids)}
    depth = np.asarray(slide.counts.sum(axis=1), dtype=np.float64).ravel()
    target_sum = float(slide.origin["recipe"]["data"]["target_sum"])
    # Over the whole panel, and then restricted to the shared genes, as the model does.
    expression = log_normalise(slide.counts, depth, target_sum)[:, [column[gene] for gene in genes]]
    return expression[rows], neighbour_weights(slide.xy_um, rows, float(slide.origin["radius_um"])) @ expression


def neighbour_weights(xy_um: NDArray[np.float64], rows: Rows, radius_um: float) -> csr_matrix:
    """Compute the weights of a mean over neighbours.

    Args:
        xy_um: (N, 2) positions in micrometres.
        rows: (n,) cells whose neighbours are averaged.
        radius_um: Radius in micrometres, inclusive.

    Returns:
        (n, N) float32: equal weights for the other cells within the radius; zeros for a cell without neighbours.
    """
    tree = cKDTree(xy_um)
    near: list[list[int]] = list(tree.query_ball_point(xy_um[rows], radius_um))
    lengths = np.array([len(cells) for cells in near], dtype=np.int64)
    owners, cells = np.repeat(np.arange(len(rows)), lengths), np.concatenate([*near, []]).astype(np.int64)
    # By row, not by distance: other cells at the same place are neighbours.
    is_other = cells != rows[owners]
    weights = 1.0 / np.maximum(lengths - 1, 1)  # each list contains the cell itself
    owners, cells = owners[is_other], cells[is_other]
    return csr_matrix((weights[owners].astype(np.float32), (owners, cells)), shape=(len(rows), len(xy_um)))
