"""What the probe reads: the embeddings, and the trivial features every embedding has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix, hstack, vstack
from scipy.spatial import cKDTree

from cifm_cli import keys
from cifm_cli.data.slide import log_normalise
from cifm_cli.errors import CifmError
from cifm_cli.report.terminal import warn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.writers.embedded import EmbeddedSlide

    Rows = NDArray[np.int64]

EXPRESSION = "expression"
NEIGHBOURHOOD = "neighbourhood_average"
BOTH = "expression_and_neighbourhood"
_WHAT = {
    keys.MICROENVIRONMENT: "encoder output among the neighbours",
    keys.CELL: "encoder output of the cell alone",
}


@dataclass(frozen=True)
class Features:
    """One description of the probed cells.

    Args:
        name: As in `probe.json`.
        what: In words.
        values: (n, F), dense embeddings or sparse expression.
    """

    name: str
    what: str
    values: NDArray[np.float32] | csr_matrix


def gather(slides: Sequence[EmbeddedSlide], rows: Sequence[Rows]) -> list[Features]:
    """Describe the probed cells in every way that is compared.

    Args:
        slides: Embedded slides.
        rows: Probed cells of each slide.

    Returns:
        The embeddings that all slides have, then the baselines; cells of one slide after the other.

    Raises:
        CifmError: The slides were embedded by different models, or share no gene or no embedding.
    """
    first = slides[0]
    for slide in slides:
        if slide.origin["model"]["sha256"] != first.origin["model"]["sha256"]:
            message = f"{first.name} and {slide.name} were embedded by different models"
            raise CifmError(message, "embed them with the same model: `cifm embed SLIDE... --model RUN`")
    slots = [slot for slot in _WHAT if all(slot in slide.embeddings for slide in slides)]
    genes = [gene for gene in first.gene_ids if all(gene in slide.gene_ids for slide in slides)]
    if not genes or not slots:
        what = "embedding" if genes else "gene"
        raise CifmError(f"the slides share no {what}", "probe slides that were prepared and embedded alike")
    own, around = zip(*(_expression(*pair, genes) for pair in zip(slides, rows, strict=True)), strict=True)
    own, around = csr_matrix(vstack(own)), csr_matrix(vstack(around))
    if not around.nnz:
        warn(f"no probed cell has a neighbour within the model's radius, {first.origin['radius_um']:g} um")
    baselines = {
        EXPRESSION: ("the cell's own log-normalised expression", own),
        NEIGHBOURHOOD: (
            "mean log-normalised expression of the cells within the radius, the cell itself excluded",
            around,
        ),
        BOTH: ("the two before it, side by side", csr_matrix(hstack([own, around]))),
    }
    embeddings = [
        Features(
            slot,
            _WHAT[slot],
            np.concatenate([slide.embeddings[slot][r] for slide, r in zip(slides, rows, strict=True)]),
        )
        for slot in slots
    ]
    return embeddings + [Features(name, *content) for name, content in baselines.items()]


def _expression(slide: EmbeddedSlide, rows: Rows, genes: list[str]) -> tuple[csr_matrix, csr_matrix]:
    """Log-normalised expression of some cells, and of their neighbours on average."""
    column = {gene: position for position, gene in enumerate(slide.gene_ids)}
    depth = np.asarray(slide.counts.sum(axis=1), dtype=np.float64).ravel()
    target_sum = float(slide.origin["recipe"]["data"]["target_sum"])
    expression = log_normalise(slide.counts, depth, target_sum)[:, [column[gene] for gene in genes]]
    return expression[rows], neighbour_weights(slide.xy_um, rows, float(slide.origin["radius_um"])) @ expression


def neighbour_weights(xy_um: NDArray[np.float64], rows: Rows, radius_um: float) -> csr_matrix:
    """Weights of a mean over neighbours.

    Args:
        xy_um: (N, 2) micrometres.
        rows: (n,) cells whose neighbours are averaged.
        radius_um: Radius in micrometres, inclusive.

    Returns:
        (n, N) float32: equal weights on the other cells within the radius; a row of zeros where there are none.
    """
    tree = cKDTree(xy_um)
    near: list[list[int]] = list(tree.query_ball_point(xy_um[rows], radius_um))
    lengths = np.array([len(found) for found in near], dtype=np.int64)
    owners, cells = np.repeat(np.arange(len(rows)), lengths), np.concatenate([*near, []]).astype(np.int64)
    others = cells != rows[owners]
    weights = 1.0 / np.maximum(lengths - 1, 1)
    owners, cells = owners[others], cells[others]
    return csr_matrix((weights[owners].astype(np.float32), (owners, cells)), shape=(len(rows), len(xy_um)))
