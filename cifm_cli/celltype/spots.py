"""Lineages of spots: measurements of several cells each, such as those of Visium, by whole transcriptomes.

A spot has no type. It is named after the lineage, among epithelial, stromal and immune cells, whose genes are most above their
mean over the slide, because nearly every spot contains all three. Clusters of spots with similar expression vote.

Letters: N spots, G genes, L lineages, K clusters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.special import softmax

from cifm_cli.celltype.alignment import aligned_blocks, match_genes
from cifm_cli.celltype.base import UNASSIGNED, Annotation
from cifm_cli.celltype.expression_clusters import ExpressionClusters, fit_clusters
from cifm_cli.celltype.markers import load_markers
from cifm_cli.celltype.panel_types import FLOOR
from cifm_cli.celltype.profiles import load_profiles
from cifm_cli.celltype.recovered_counts import recover_counts
from cifm_cli.celltype.taxonomy import load_taxonomy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    Numbers = NDArray[np.float64]

GROUPS: Final = {
    "epithelial cell": ("epithelial cell",),
    "stromal cell": ("stromal cell", "endothelial cell"),
    "immune cell": ("lymphoid cell", "myeloid cell", "immune cell"),
}
WHOLE_TRANSCRIPTOME: Final = 3_000  # genes; spots of small panels are rare, and their cells are named like others
MIN_SHARE: Final = (
    0.1  # level of the genes of each lineage, relative to its profile, that shows several cells in a spot
)
MIN_RATIO: Final = 1.5  # of a gene in a lineage to its largest value in types of the others
MIN_CPM: Final = 30.0
NUM_GENES: Final = 400  # of a lineage, the most expressed ones
NUM_CLUSTERS: Final = 16
NUM_CLUSTERED_GENES: Final = 1_000
CLUSTER_WEIGHT: Final = 0.8
ABUNDANCE_WEIGHT: Final = 0.1  # of the logarithm of a lineage's level on the whole slide
MAX_DEVIATION: Final = 3.0
SHARPNESS: Final = 6.0  # factor of the scores, before they are turned into probabilities


@dataclass(frozen=True)
class SpotAnnotator:
    """A fitted annotator of spots."""

    names: tuple[str, ...]  # L lineages, then `unassigned`
    genes: tuple[str, ...]  # G symbols
    mean: Numbers  # (G,) mean log-normalised expression
    deviation: Numbers  # (G,)
    weights: Numbers  # (G, L) weights of the genes; columns sum to 1
    offset: Numbers  # (L,) added to the scores
    clusters: ExpressionClusters
    clustered: NDArray[np.int64]  # positions of the genes that the clusters use
    cluster_scores: Numbers  # (K, L) mean scores

    def annotate(self, expression: csr_matrix, symbols: Sequence[str]) -> Annotation:
        """Assign lineages to spots; see `Annotator`."""
        columns = match_genes(self.genes, symbols)
        counts = recover_counts(expression)
        selected = columns[self.clustered]
        counts = counts[:, np.maximum(selected, 0)].multiply(selected >= 0).tocsr()
        clusters = self.clusters.assign(counts)
        own = self.own_scores(expression, symbols)
        scores = CLUSTER_WEIGHT * self.cluster_scores[clusters] + (1 - CLUSTER_WEIGHT) * own + self.offset
        probabilities = softmax(SHARPNESS * scores, axis=1)
        is_void = np.asarray(expression.sum(axis=1)).ravel() <= 0
        probabilities[is_void] = 0.0
        codes = np.where(is_void, len(self.names) - 1, probabilities.argmax(axis=1))
        columns_of_names = np.column_stack([probabilities, is_void.astype(np.float64)])
        with np.errstate(divide="ignore"):
            logs = np.log(columns_of_names).astype(np.float32)
        return Annotation(self.names, codes.astype(np.int64), probabilities.max(axis=1).astype(np.float32), logs)

    def own_scores(self, expression: csr_matrix, symbols: Sequence[str]) -> Numbers:
        """(N, L) mean standardised expression of the genes of each lineage."""
        blocks = []
        for _, block in aligned_blocks(expression, match_genes(self.genes, symbols), renormalise=False):
            standardised = np.clip((block - self.mean) / self.deviation, -MAX_DEVIATION, MAX_DEVIATION)
            blocks.append(standardised @ self.weights)
        return np.concatenate(blocks) if blocks else np.zeros((0, self.weights.shape[1]))


def are_spots(counts: csr_matrix, symbols: Sequence[str], tissue: str | None) -> bool:
    """Whether the columns of a whole transcriptome show that most measurements are of several cells.

    Args:
        counts: (N, G) counts.
        symbols: G gene symbols.
        tissue: A tissue of the taxonomy; None if it is unknown.
    """
    if counts.shape[1] <= WHOLE_TRANSCRIPTOME:
        return False
    members, level = _lineage_genes(symbols, tissue)
    totals = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1.0)
    shares = [
        np.asarray(counts[:, genes].sum(axis=1)).ravel() / totals / level[genes, number].sum() * 1e6
        for number, genes in enumerate(members)
    ]
    return bool(np.median(np.sort(shares, axis=0)[-2]) >= MIN_SHARE)


def fit_spot_annotator(
    expression: csr_matrix, counts: csr_matrix, symbols: Sequence[str], tissue: str | None
) -> SpotAnnotator:
    """Fit the annotator to the spots of a slide.

    Args:
        expression: (N, G) log-normalised.
        counts: (N, G) counts.
        symbols: G gene symbols.
        tissue: A tissue of the taxonomy; None if it is unknown.

    Returns:
        The annotator.
    """
    members, level = _lineage_genes(symbols, tissue)
    totals = np.asarray(counts.sum(axis=0), dtype=np.float64).ravel()
    chosen = [genes[np.argsort(-totals[genes], kind="stable")[:NUM_GENES]] for genes in members]
    clustered = np.sort(np.argsort(-totals, kind="stable")[:NUM_CLUSTERED_GENES])
    used = np.unique(np.concatenate([*chosen, clustered]))
    weights = np.zeros((len(used), len(chosen)))
    for number, genes in enumerate(chosen):
        weights[np.searchsorted(used, genes), number] = 1 / len(genes)
    shared = expression[:, used].astype(np.float64)
    mean = np.asarray(shared.mean(axis=0)).ravel()
    variance = np.asarray(shared.multiply(shared).mean(axis=0)).ravel() - mean**2
    per_million = totals / max(totals.sum(), 1.0) * 1e6
    abundance = np.array(
        [
            np.median(np.log((per_million[genes] + 1) / (level[genes, number] + 1)))
            for number, genes in enumerate(chosen)
        ]
    )
    clusters = fit_clusters(counts[:, clustered].tocsr(), NUM_CLUSTERS)
    annotator = SpotAnnotator(
        names=(*GROUPS, UNASSIGNED),
        genes=tuple(symbols[column] for column in used),
        mean=mean,
        deviation=np.sqrt(np.maximum(variance, 1e-12)),
        weights=weights,
        offset=ABUNDANCE_WEIGHT * (abundance - abundance.max()),
        clusters=clusters,
        clustered=np.searchsorted(used, clustered),
        cluster_scores=np.zeros((len(clusters.centres), len(chosen))),
    )
    own = annotator.own_scores(expression, symbols)
    annotator = replace(annotator, offset=annotator.offset - own.mean(axis=0))
    assigned = clusters.assign(counts[:, clustered].tocsr())
    scores = np.array(
        [
            own[assigned == number].mean(axis=0) if (assigned == number).any() else own.mean(axis=0)
            for number in range(len(clusters.centres))
        ]
    )
    return replace(annotator, cluster_scores=scores)


def _lineage_genes(symbols: Sequence[str], tissue: str | None) -> tuple[list[NDArray[np.int64]], Numbers]:
    """Columns of the genes of each lineage, and (G, L) their mean counts per million in its types."""
    taxonomy, references, markers = load_taxonomy(), load_profiles(), load_markers()
    profiles, is_known = references.on_panel(symbols)
    groups = [
        [
            row
            for row, name in enumerate(references.types)
            if taxonomy.lineage(name) in lineages and taxonomy.is_possible(name, tissue)
        ]
        for lineages in GROUPS.values()
    ]
    upper = np.array([symbol.upper() for symbol in symbols])
    members, levels = [], []
    for number, lineages in enumerate(GROUPS.values()):
        own = profiles[groups[number]] + FLOOR
        other = profiles[[row for k, rows in enumerate(groups) if k != number for row in rows]] + FLOOR
        level = np.exp(np.log(own).mean(axis=0))
        listed = {
            gene
            for name, genes in markers.items()
            if taxonomy.lineage(name) in lineages and taxonomy.is_possible(name, tissue)
            for gene in genes
        }
        is_listed = np.isin(upper, [gene.upper() for gene in listed])
        is_typical = (level >= MIN_CPM + FLOOR) & (level >= MIN_RATIO * other.max(axis=0))
        is_marker = is_listed & (own.max(axis=0) >= MIN_RATIO * other.max(axis=0))
        members.append(np.flatnonzero(is_known & (is_typical | is_marker)))
        levels.append(np.where(is_listed, own.max(axis=0), level))
    return members, np.array(levels).T
