"""Lineages of spots: measurements of several cells each, such as those of Visium, by whole transcriptomes.

A spot has no type, as nearly every spot contains epithelial, stromal and immune cells. It is named after epithelial cells if
their genes are further above their mean over the slide than those of the others, and otherwise after stromal or immune cells.
Clusters of spots with similar expression vote.

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

    from cifm_cli.celltype.base import UnlabelledCells

    Numbers = NDArray[np.float64]

GROUPS: Final = {
    "epithelial cell": ("epithelial cell",),
    "stromal cell": ("stromal cell", "endothelial cell"),
    "immune cell": ("lymphoid cell", "myeloid cell", "immune cell"),
}
WHOLE_TRANSCRIPTOME: Final = 3_000  # genes; spots of small panels are rare, and their cells are named like others
# Spots of Visium and of spatial transcriptomics are 100 and 200 um apart, bins and cells at most some 20 um.
MIN_SPACING_UM: Final = 30.0
MIN_RATIO: Final = 1.5  # of a gene in a lineage to its largest value in types of the others
MIN_CPM: Final = 30.0
NUM_GENES: Final = 400  # of a lineage, the most expressed ones
NUM_CLUSTERS: Final = 16
NUM_CLUSTERED_GENES: Final = 1_000
CLUSTER_WEIGHT: Final = 0.8
# Of the mean score of the lineages other than epithelium: they also grow within tumours, as stroma and infiltrate do.
OTHERS_WEIGHT: Final = 0.7
MEDIAN_WEIGHT: Final = 0.4  # of the median against the mean, in the lead of epithelium from which a spot is called so
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
        scores = self.scores(self.own_scores(expression, symbols), clusters)
        probabilities = softmax(SHARPNESS * scores, axis=1)
        is_void = np.asarray(expression.sum(axis=1)).ravel() <= 0
        probabilities[is_void] = 0.0
        codes = np.where(is_void, len(self.names) - 1, probabilities.argmax(axis=1))
        columns_of_names = np.column_stack([probabilities, is_void.astype(np.float64)])
        with np.errstate(divide="ignore"):
            logs = np.log(columns_of_names).astype(np.float32)
        return Annotation(self.names, codes.astype(np.int64), probabilities.max(axis=1).astype(np.float32), logs)

    def scores(self, own: Numbers, clusters: NDArray[np.int64]) -> Numbers:
        """Scores by which spots are named.

        Args:
            own: (N, L) from `own_scores`.
            clusters: (N,) cluster of each spot.

        Returns:
            (N, L), where the largest score of stromal and immune cells is a fraction of the mean of both.
        """
        scores = CLUSTER_WEIGHT * self.cluster_scores[clusters] + (1 - CLUSTER_WEIGHT) * own + self.offset
        others = scores[:, 1:]
        level = OTHERS_WEIGHT * others.mean(axis=1, keepdims=True)
        return np.column_stack([scores[:, :1], level + others - others.max(axis=1, keepdims=True)])

    def own_scores(self, expression: csr_matrix, symbols: Sequence[str]) -> Numbers:
        """(N, L) mean standardised expression of the genes of each lineage."""
        blocks = []
        for _, block in aligned_blocks(expression, match_genes(self.genes, symbols), renormalise=False):
            standardised = np.clip((block - self.mean) / self.deviation, -MAX_DEVIATION, MAX_DEVIATION)
            blocks.append(standardised @ self.weights)
        return np.concatenate(blocks) if blocks else np.zeros((0, self.weights.shape[1]))


def are_spots(cells: UnlabelledCells) -> bool:
    """Whether measurements are of several cells each: whole transcriptomes that are further apart than cells."""
    is_wide = cells.spacing_um is not None and cells.spacing_um >= MIN_SPACING_UM
    return is_wide and len(cells.symbols) > WHOLE_TRANSCRIPTOME


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
    totals = np.asarray(counts.sum(axis=0), dtype=np.float64).ravel()
    by_count = np.argsort(-totals, kind="stable")
    clustered = np.sort(by_count[:NUM_CLUSTERED_GENES])
    chosen = [by_count[np.isin(by_count, genes)][:NUM_GENES] for genes in _lineage_genes(symbols, tissue)]
    used = np.unique(np.concatenate([*chosen, clustered]))
    mean, deviation = _moments(expression[:, used].astype(np.float64))
    clusters = fit_clusters(counts[:, clustered].tocsr(), NUM_CLUSTERS)
    annotator = SpotAnnotator(
        names=(*GROUPS, UNASSIGNED),
        genes=tuple(symbols[column] for column in used),
        mean=mean,
        deviation=deviation,
        weights=np.stack([np.isin(used, genes) / max(len(genes), 1) for genes in chosen], axis=1),
        offset=np.zeros(len(chosen)),
        clusters=clusters,
        clustered=np.searchsorted(used, clustered),
        cluster_scores=np.zeros((len(clusters.centres), len(chosen))),
    )
    return _centre(annotator, annotator.own_scores(expression, symbols), clusters.assign(counts[:, clustered].tocsr()))


def _moments(expression: csr_matrix) -> tuple[Numbers, Numbers]:
    """(G,) mean and standard deviation of each gene."""
    mean = np.asarray(expression.mean(axis=0)).ravel()
    variance = np.asarray(expression.multiply(expression).mean(axis=0)).ravel() - mean**2
    return mean, np.sqrt(np.maximum(variance, 1e-12))


def _centre(annotator: SpotAnnotator, own: Numbers, assigned: NDArray[np.int64]) -> SpotAnnotator:
    """Set the scores of the clusters, and the offsets that make the lineages comparable.

    Args:
        annotator: The annotator, without them.
        own: (N, L) scores of the spots of the slide.
        assigned: (N,) their clusters.
    """
    mean = own.mean(axis=0)
    cluster_scores = np.array(
        [
            own[assigned == number].mean(axis=0) if (assigned == number).any() else mean
            for number in range(len(annotator.cluster_scores))
        ]
    )
    annotator = replace(annotator, offset=-mean, cluster_scores=cluster_scores)
    scores = annotator.scores(own, assigned)
    lead = scores[:, 0] - scores[:, 1:].max(axis=1)
    offset = annotator.offset.copy()
    offset[0] += MEDIAN_WEIGHT * (lead.mean() - np.median(lead))
    return replace(annotator, offset=offset)


def _lineage_genes(symbols: Sequence[str], tissue: str | None) -> list[NDArray[np.int64]]:
    """Columns of the genes of each lineage."""
    taxonomy, references, markers = load_taxonomy(), load_profiles(), load_markers()
    profiles, is_known = references.on_panel(symbols)
    groups = []
    for lineages in GROUPS.values():
        of_group = [row for row, name in enumerate(references.types) if taxonomy.lineage(name) in lineages]
        possible = [row for row in of_group if taxonomy.is_possible(references.types[row], tissue)]
        groups.append(possible or of_group)  # a tissue without epithelium may hold a tumour
    upper = np.array([symbol.upper() for symbol in symbols])
    members = []
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
    return members
