"""The `markers` annotator: a mixture of cell types, fitted to the expression of a slide.

Every type has a profile over all genes of the panel, which starts at a reference profile (`panel_types.py`). The likelihood
of a cell's counts under the profile (a Poisson mixture with a share of background, as in InSituType, Danaher et al. 2022)
is joined by the mean likelihood in its cluster of similar expression, which steadies cells with few counts, and by the
markers that the cluster or the cell shows (`evidence.py`). Rounds of expectation-maximisation adapt the profiles to the
slide and its assay. A cell is named as deeply in the tree of types as its probability reaches (`naming.py`).

Neither the fit nor the annotation uses positions. A fitted annotator types each cell from its own counts.

Letters: N cells, G genes, K clusters, J types, T names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.sparse import csr_matrix, diags
from scipy.special import logsumexp

from cifm_cli.celltype.evidence import Evidence, find_evidence
from cifm_cli.celltype.expression_clusters import ExpressionClusters, fit_clusters
from cifm_cli.celltype.markers import load_markers
from cifm_cli.celltype.naming import NamingTree, naming_tree
from cifm_cli.celltype.panel_types import indistinct_types, panel_types
from cifm_cli.celltype.recovered_counts import recover_counts
from cifm_cli.celltype.spots import SpotAnnotator, are_spots, fit_spot_annotator
from cifm_cli.celltype.taxonomy import find_tissue
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from cifm_cli.celltype.base import Annotation, UnlabelledCells
    from cifm_cli.celltype.markers import Markers
    from cifm_cli.celltype.panel_types import PanelTypes
    from cifm_cli.celltype.profiles import TypeProfiles

    Numbers = NDArray[np.float64]

DAMPING: Final = 3.0  # counts of a gene beyond which more of them add little, as expression is burstier than Poisson
BACKGROUND: Final = 0.15  # share of a cell's counts that stem from its surroundings
CLUSTER_WEIGHT: Final = 0.7  # of the mean likelihood of the cluster, relative to that of the cell
TRUSTED_DEPTH: Final = 40.0  # counts up to which genes count as independent; the evidence of deep cells is tempered
BARRED_PENALTY: Final = 4.0  # logarithm by which a type is less likely in cells that it may not claim
NUM_ROUNDS: Final = 6
NUM_EFFICIENCY_ROUNDS: Final = 3  # first rounds, which also adapt to the efficiency of the assay for each gene
EFFICIENCY_WEIGHT: Final = 0.5  # of the slide's mean expression against the references, an exponent
EFFICIENCY_BOUNDS: Final = (0.05, 20.0)
PRIOR_WEIGHT: Final = 0.02  # counts of the initial profile, as a fraction of all counts
PRIOR_CELLS: Final = 1.0  # added to the cells of every type
FREQUENCY_EXPONENT: Final = 0.5  # of the frequencies of the types in the prior: rare types keep a chance
MAX_GENES: Final = 1_500  # of a whole transcriptome, of which most genes do not differ between types
WHOLE_TRANSCRIPTOME: Final = 3_000
THRESHOLD: Final = 0.5  # probability before calibration
OPTION: Final = "--annotator markers:FILE.tsv"


@dataclass(frozen=True)
class MarkerAnnotator:
    """A fitted marker annotator; see `fit_marker_annotator`."""

    types: tuple[str, ...]  # J types of the panel
    tree: NamingTree  # names of cells
    symbols: tuple[str, ...]  # G gene symbols, upper case
    log_ratios: Numbers  # (G, J) log of each profile over the slide's mean profile
    log_prior: Numbers  # (J,) log of the prior frequency of each type
    clusters: ExpressionClusters
    votes: Numbers  # (K, J) mean log likelihood ratio of a count in a cluster
    evidence: Evidence
    typical_depth: float  # median sum of counts of the cells
    left_out: dict[str, int]  # number of markers on the panel of each type that has too few
    tissue: str | None  # tissue that narrowed the types
    markers: Markers  # the table that the types were taken from
    indistinct: tuple[tuple[str, str], ...]  # pairs of types that the panel hardly tells apart

    @property
    def names(self) -> tuple[str, ...]:
        """Types that it assigns, then `unassigned`."""
        return self.tree.names

    def annotate(self, expression: csr_matrix, symbols: Sequence[str]) -> Annotation:
        """Assign types to cells; see `Annotator`. Genes that were not fitted are ignored."""
        column = {symbol.upper(): position for position, symbol in reversed(list(enumerate(symbols)))}
        columns = np.array([column.get(symbol, -1) for symbol in self.symbols], dtype=np.int64)
        # Counts are recovered before genes are selected: a gene with one count may be outside the selection.
        counts = recover_counts(expression, self.typical_depth)
        counts = csr_matrix(counts[:, np.maximum(columns, 0)] @ diags((columns >= 0).astype(np.float64)))
        counts.eliminate_zeros()
        return self.tree.name(self._probabilities(counts), THRESHOLD)

    def _probabilities(self, counts: csr_matrix) -> Numbers:
        """(N, J) probabilities of the types; zeros for a cell that no type may claim."""
        if not self.types:
            return np.zeros((counts.shape[0], 0))
        clusters = self.clusters.assign(counts)
        damped = _damped(counts)
        may_claim, takes_part, weight = self.evidence.of_cells(damped, clusters)
        posterior = _posterior(damped, self.log_ratios, self.votes[clusters], self.log_prior, takes_part, weight)
        named = self.evidence.name_types(posterior, may_claim)
        return self.evidence.prefer_deeper(named, may_claim)


def open_markers(path: Path | None, cells: UnlabelledCells, *, trust_pickle: bool) -> MarkerAnnotator | SpotAnnotator:
    """Fit the packaged markers, extended by a user's table, to a slide; see `OpenAnnotator`.

    Args:
        path: A TSV with the columns `cell_type` and `symbol`, or None.
        cells: Cells of the slide.
        trust_pickle: Unused, because a table is no pickle.

    Returns:
        The annotator; that of spots for whole transcriptomes of several cells each.

    Raises:
        CifmError: The table cannot be read, or the panel has markers of fewer than two types.
    """
    del trust_pickle
    markers = load_markers(path, OPTION)
    if path is None and are_spots(cells):
        counts = recover_counts(cells.expression)
        return fit_spot_annotator(cells.expression, counts, cells.symbols, find_tissue(cells.tissue))
    annotator = fit_marker_annotator(cells.expression, cells.symbols, markers, tissue=cells.tissue)
    if len(annotator.types) < 2:
        raise CifmError(
            f"slide {cells.name}: its panel marks {len(annotator.types)} cell types, two are needed",
            f"add genes that mark types on this panel with {OPTION}",
        )
    return annotator


def fit_marker_annotator(
    expression: csr_matrix,
    symbols: Sequence[str],
    markers: Markers,
    *,
    tissue: str | None = None,
    references: TypeProfiles | None = None,
) -> MarkerAnnotator:
    """Fit the profiles of the types to the cells of a slide.

    Args:
        expression: (N, G) log-normalised.
        symbols: G gene symbols.
        markers: Symbols by type, from `load_markers`.
        tissue: Description of the tissue, which narrows the types.
        references: Reference profiles; the packaged ones when absent.

    Returns:
        The fitted annotator.
    """
    known_tissue = find_tissue(tissue)
    types = panel_types(symbols, markers, known_tissue, references)
    counts = recover_counts(expression)
    depth = np.asarray(counts.sum(axis=1)).ravel()
    typical_depth = float(np.median(depth[depth > 0])) if depth.any() else 1.0
    selected = _informative_genes(counts, types)
    counts, types = csr_matrix(counts[:, selected]), _select(types, selected)
    clusters = fit_clusters(counts)
    membership = clusters.assign(counts)
    damped = _damped(counts)
    evidence = find_evidence(damped, membership, len(clusters.centres), types, known_tissue)
    log_ratios, log_prior, votes = _fit_mixture(damped, membership, types, evidence)
    return MarkerAnnotator(
        types=types.names,
        tree=naming_tree(types.names),
        symbols=tuple(symbols[column].upper() for column in selected),
        log_ratios=log_ratios,
        log_prior=log_prior,
        clusters=clusters,
        votes=votes,
        evidence=evidence,
        typical_depth=typical_depth,
        left_out=types.left_out,
        tissue=known_tissue,
        markers=markers,
        indistinct=indistinct_types(types, evidence.is_found, typical_depth),
    )


def _damped(counts: csr_matrix) -> csr_matrix:
    """(N, G) counts, of which large ones are reduced."""
    damped = counts.copy()
    damped.data = DAMPING * np.log1p(damped.data / DAMPING)
    return damped


def _informative_genes(counts: csr_matrix, types: PanelTypes) -> NDArray[np.int64]:
    """Ascending columns: all genes of a targeted panel, and those of a whole transcriptome that tell types apart."""
    num_genes = counts.shape[1]
    if num_genes <= WHOLE_TRANSCRIPTOME or not types.names:
        return np.arange(num_genes)
    is_expressed = np.asarray(counts.sum(axis=0)).ravel() >= 10
    spread = types.profiles.max(axis=0) / np.median(types.profiles, axis=0)
    ordered = np.argsort(-np.where(is_expressed, spread, 0), kind="stable")[:MAX_GENES]
    return np.sort(ordered[is_expressed[ordered]])


def _select(types: PanelTypes, columns: NDArray[np.int64]) -> PanelTypes:
    """The types with some of the genes."""
    profiles = types.profiles[:, columns]
    profiles = profiles / np.maximum(profiles.sum(axis=1, keepdims=True), 1e-12)
    return type(types)(types.names, profiles, types.markers[:, columns], types.has_profile, types.left_out)


def _fit_mixture(
    damped: csr_matrix, clusters: NDArray[np.int64], types: PanelTypes, evidence: Evidence
) -> tuple[Numbers, Numbers, Numbers]:
    """Fit the mixture by expectation-maximisation.

    Args:
        damped: (N, G) damped counts.
        clusters: (N,) cluster of each cell.
        types: The J types.
        evidence: Where they may claim cells.

    Returns:
        (G, J) log ratios of the profiles to the mean profile, (J,) log prior, (K, J) votes of the clusters.
    """
    num_genes, num_types, num_clusters = damped.shape[1], len(types.names), len(evidence.coverage)
    if not num_types:
        return np.zeros((num_genes, 0)), np.zeros(0), np.zeros((num_clusters, 0))
    total = max(float(damped.sum()), 1.0)
    mean = np.asarray(damped.sum(axis=0)).ravel() + total * 1e-6
    mean /= mean.sum()
    averaging = _averaging(damped, clusters, num_clusters)
    may_claim, takes_part, weight = evidence.of_cells(damped, clusters)
    prior = evidence.competes / max(evidence.competes.sum(), 1)
    start = profiles = types.profiles
    for step in range(NUM_ROUNDS + 1):
        if step < NUM_EFFICIENCY_ROUNDS:
            start = profiles = _as_measured(types.profiles, prior, mean)
        log_ratios = np.log((1 - BACKGROUND) * profiles / mean + BACKGROUND).T
        votes = np.asarray(averaging @ (damped @ log_ratios))
        with np.errstate(divide="ignore"):
            log_prior = np.log(prior)
        if step == NUM_ROUNDS:  # the last profiles and prior only enter the result
            break
        posterior = _posterior(damped, log_ratios, votes[clusters], log_prior, takes_part, weight)
        posterior = evidence.prefer_deeper(posterior, may_claim)
        posterior /= np.maximum(posterior.sum(axis=1, keepdims=True), 1e-12)
        prior = (posterior.sum(axis=0) + PRIOR_CELLS) ** FREQUENCY_EXPONENT * evidence.competes
        prior /= max(prior.sum(), 1e-12)
        if step >= NUM_EFFICIENCY_ROUNDS - 1:
            # The initial profile keeps that of a rare type near its reference.
            updated = np.asarray(damped.T @ posterior).T + PRIOR_WEIGHT * total * start
            profiles = updated / updated.sum(axis=1, keepdims=True)
    return log_ratios, log_prior, votes


def _averaging(damped: csr_matrix, clusters: NDArray[np.int64], num_clusters: int) -> csr_matrix:
    """(K, N) matrix that turns sums over the counts of cells into means over the counts of a cluster."""
    depth = np.asarray(damped.sum(axis=1)).ravel()
    cluster_depth = np.maximum(np.bincount(clusters, weights=depth, minlength=num_clusters), 1e-12)
    cells = np.arange(damped.shape[0])
    return csr_matrix((1 / cluster_depth[clusters], (clusters, cells)), (num_clusters, len(cells)))


def _as_measured(references: Numbers, prior: Numbers, mean: Numbers) -> Numbers:
    """(J, G) reference profiles as the assay measures them: its efficiency differs from gene to gene.

    Args:
        references: (J, G) reference profiles.
        prior: (J,) frequencies of the types.
        mean: (G,) mean profile of the slide.
    """
    ratio = mean / np.maximum(prior @ references, 1e-12)
    measured = references * np.clip(ratio**EFFICIENCY_WEIGHT, *EFFICIENCY_BOUNDS)
    return np.asarray(measured / measured.sum(axis=1, keepdims=True))


def _posterior(
    damped: csr_matrix,
    log_ratios: Numbers,
    votes: Numbers,
    log_prior: Numbers,
    takes_part: NDArray[np.bool_],
    weight: Numbers,
) -> Numbers:
    """(N, J) probabilities, zero for types that take no part in a cell; rows sum to 1 at most."""
    depth = np.asarray(damped.sum(axis=1)).ravel()
    likelihood = np.asarray(damped @ log_ratios) + CLUSTER_WEIGHT * depth[:, None] * votes
    # Errors of the profiles are shared by all counts of a gene, so that evidence does not grow in proportion to the counts.
    logits = likelihood / (1 + depth / TRUSTED_DEPTH)[:, None] + log_prior + weight
    # Types that may not claim a cell are no names for it, but where one explains it well, no other type is certain.
    logits = np.where(takes_part, logits, logits - BARRED_PENALTY)
    is_typed = takes_part.any(axis=1) & (depth > 0)
    posterior = np.zeros_like(logits)
    posterior[is_typed] = np.exp(logits[is_typed] - logsumexp(logits[is_typed], axis=1, keepdims=True))
    return np.where(takes_part, posterior, 0.0)
