"""Evidence for cell types on a slide: which types may claim the cells of which clusters, and single cells.

A type may claim a cluster whose cells express several of its markers above the background of the slide, at a level that its
reference profile makes plausible. In any other cluster it may claim only cells that show several of its markers
themselves. Without such a rule, types whose markers are barely expressed adopt cells whose own type is missing.

Letters: N cells, G genes, K clusters, J types.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.sparse import csr_matrix

from cifm_cli.celltype.taxonomy import load_taxonomy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.celltype.panel_types import PanelTypes

    Numbers = NDArray[np.float64]
    Mask = NDArray[np.bool_]

# Quantile over clusters that is the background of a gene: the clusters of a frequent type may be nine tenths.
BACKGROUND_QUANTILE: Final = 0.05
MIN_ENRICHMENT: Final = 2.0  # rate of the markers in a cluster, relative to the background
MIN_LEVEL: Final = 0.1  # the same, relative to the reference profile
PLAIN_LEVEL: Final = 0.4  # level at which the background does not matter, as in slides of a single type
MARKER_ENRICHMENT: Final = 1.5  # rate of a single marker that counts as present, relative to the background
MIN_COUNTS: Final = 3.0  # counts of a marker in a cluster, or expected counts of one that can be found absent
MIN_COVERAGE: Final = 0.12  # weighted fraction of the markers that must be present
FULL_COVERAGE: Final = 0.5  # from which coverage no longer adds evidence
CELL_COVERAGE: Final = 0.35  # coverage that a cell's own markers count as
COVERAGE_WEIGHT: Final = 6.0  # of the logarithm of the coverage among the evidence
# Types that are told from similar ones by a few genes need their markers at a plausible level.
STRICT_LEVEL: Final = 0.3
STRICT_COVERAGE: Final = 0.5
SIBLING_RATIO: Final = 2.0  # level of the markers of such a type to those of similar types
UNKNOWN_TISSUE_COVERAGE: Final = 0.65  # the same for types of certain tissues, where the tissue is unknown
CHILD_BONUS: Final = 2.0  # logarithm of the factor by which types below a general type are preferred
COMPLETE_BONUS: Final = 5.0  # the same in tissues whose cells of the general type are all of types below it
MOST: Final = 0.5  # fraction of the cells of a general type that a type below it must claim to claim all of them
MIN_CELLS: Final = 5  # cells that must show a type by themselves, if no cluster does
MIN_FRACTION: Final = 0.0005


@dataclass(frozen=True)
class Evidence:
    """Rules by which types may claim cells, found on the cells of one slide."""

    may_claim: Mask  # (K, J) whether a type may claim all cells of a cluster
    coverage: Numbers  # (K, J) weighted fraction of the markers of a type that a cluster expresses
    is_found: Mask  # (J,) whether the slide shows a type at all
    markers: csr_matrix  # (G, J) ones at the markers of each type
    background: Numbers  # (J,) fraction of a cell's counts that are a type's markers, without the type
    min_level: Numbers  # (J,) fraction of a cell's counts that must be a type's markers
    below: Mask  # (J, J) whether the second type is below the first, and may be named instead
    bonus: Numbers  # (J,) logarithm of the factor by which the types below a type are preferred to it
    general: NDArray[np.int64]  # (J,) the type above each type that covers its cells without their name; itself if none

    @property
    def competes(self) -> Mask:
        """(J,) whether a type takes part: it is found, or the type that covers it is."""
        found: Mask = self.is_found | self.is_found[self.general]
        return found

    def of_cells(self, counts: csr_matrix, clusters: NDArray[np.int64]) -> tuple[Mask, Mask, Numbers]:
        """Apply the rules to cells.

        Args:
            counts: (N, G) counts.
            clusters: (N,) cluster of each cell.

        Returns:
            (N, J) whether a type may be named; (N, J) whether its profile takes part, which that of a CD8 T cell also does
            where a cell may only be called T cell; and (N, J) the evidence of the markers, a logarithm.
        """
        own = self.show_themselves(counts)
        may_claim = self.is_found & (self.may_claim[clusters] | own)
        coverage = self.coverage[clusters]
        coverage = np.where(own | ~may_claim, np.maximum(coverage, CELL_COVERAGE), coverage)
        takes_part = may_claim | may_claim[:, self.general]
        coverage = np.where(takes_part & ~may_claim, coverage[:, self.general], coverage)
        weight = COVERAGE_WEIGHT * np.log(np.clip(coverage, 0.05, FULL_COVERAGE) / FULL_COVERAGE)
        return may_claim, takes_part, weight

    def prefer_deeper(self, probabilities: Numbers, may_claim: Mask) -> Numbers:
        """Move probability from a type to the types below it, in cells where one of them may be named.

        A general type adapts to the slide and so explains a cell at least as well as the types below it. What a type and
        those below it have together does not change.

        Args:
            probabilities: (N, J).
            may_claim: (N, J) whether a type may be named.

        Returns:
            (N, J) probabilities with the same sums.
        """
        deeper = probabilities.copy()
        for row in np.flatnonzero(self.below.any(axis=1)):
            children = np.flatnonzero(self.below[row])
            family = np.append(children, row)
            before = deeper[:, family].sum(axis=1)
            deeper[:, row] *= np.where(may_claim[:, children].any(axis=1), np.exp(-self.bonus[row]), 1.0)
            after = deeper[:, family].sum(axis=1)
            deeper[:, family] *= (before / np.where(after > 0, after, 1.0))[:, None]
        return deeper

    def name_types(self, probabilities: Numbers, may_claim: Mask) -> Numbers:
        """Give the probability of kinds that may not be named to the type of which they are a kind.

        Args:
            probabilities: (N, J).
            may_claim: (N, J) whether a type may be named.

        Returns:
            (N, J) probabilities, zero for types that may not be named.
        """
        named = np.where(may_claim, probabilities, 0.0)
        for row in np.flatnonzero(self.general != np.arange(len(self.general))):
            general = self.general[row]
            given = np.where(may_claim[:, row], 0.0, probabilities[:, row])
            named[:, general] += np.where(may_claim[:, general], given, 0.0)
        return named

    def show_themselves(self, counts: csr_matrix) -> Mask:
        """(N, J) whether the counts of a cell alone show a type."""
        depth = np.asarray(counts.sum(axis=1)).ravel()[:, None]
        shown = np.asarray((counts @ self.markers).todense())
        detected = csr_matrix((np.ones_like(counts.data), counts.indices, counts.indptr), shape=counts.shape)
        distinct = np.asarray((detected @ self.markers).todense())
        expected = depth * self.background
        own: Mask = (
            (distinct >= 2) & (shown >= expected + 2 * np.sqrt(expected) + 1) & (shown >= self.min_level * depth)
        )
        return own


def find_evidence(
    counts: csr_matrix, clusters: NDArray[np.int64], num_clusters: int, types: PanelTypes, tissue: str | None
) -> Evidence:
    """Find which types a slide shows, and where.

    Args:
        counts: (N, G) counts.
        clusters: (N,) cluster of each cell.
        num_clusters: K.
        types: The types of the panel.
        tissue: Tissue of the slide, None if unknown.

    Returns:
        The evidence.
    """
    members = csr_matrix((np.ones(len(clusters)), (clusters, np.arange(len(clusters)))), (num_clusters, len(clusters)))
    summed = np.asarray((members @ counts).todense())
    depth = summed.sum(axis=1, keepdims=True)
    mean = summed.sum(axis=0) / max(summed.sum(), 1.0)
    rate = (summed + 0.5 * mean) / (depth + 0.5)
    background = np.quantile(rate[depth[:, 0] > 0], BACKGROUND_QUANTILE, axis=0) if depth.any() else mean
    strict = strict_coverage(types, tissue)
    may_claim = np.zeros((num_clusters, len(types.names)), dtype=bool)
    coverage, level = np.zeros(may_claim.shape), np.zeros(len(types.names))
    for row in range(len(types.names)):
        genes = np.flatnonzero(types.markers[row])
        profile = types.profiles[row, genes]
        level[row] = profile.sum()
        may_claim[:, row], coverage[:, row] = _claims(
            summed[:, genes], depth, rate[:, genes], background[genes], profile, strict[row]
        )
    may_claim &= _exceeds_siblings(rate @ types.markers.T / np.maximum(level, 1e-12), types)
    below = _below(types, tissue)
    may_claim, coverage = _spread(may_claim, coverage, below, np.bincount(clusters, minlength=num_clusters))
    evidence = Evidence(
        may_claim=may_claim,
        coverage=coverage,
        is_found=np.ones(len(types.names), dtype=bool),
        markers=csr_matrix(types.markers.T.astype(np.float64)),
        background=types.markers @ background,
        min_level=np.where(strict > 0, STRICT_LEVEL, MIN_LEVEL) * level,
        below=below,
        bonus=_bonus(types, tissue),
        general=_general(types),
    )
    num_showing = evidence.show_themselves(counts).sum(axis=0)
    is_found = evidence.may_claim.any(axis=0) | (num_showing >= max(MIN_CELLS, MIN_FRACTION * counts.shape[0]))
    return replace(evidence, is_found=is_found)


def _claims(
    summed: Numbers, depth: Numbers, rate: Numbers, background: Numbers, profile: Numbers, strict: float
) -> tuple[Mask, Numbers]:
    """(K,) whether a type may claim each cluster, and the coverage of its markers (M of them).

    Args:
        summed: (K, M) counts of the markers in each cluster.
        depth: (K, 1) counts of all genes.
        rate: (K, M) fraction of the counts.
        background: (M,) the same without the type.
        profile: (M,) the same in the reference.
        strict: Coverage that is needed at a plausible level, 0 for types without such a rule.
    """
    weight = np.sqrt(profile) * (profile * depth >= MIN_COUNTS)
    total = np.maximum(weight.sum(axis=1), 1e-12)
    is_present = rate >= np.maximum(MIN_LEVEL * profile, MARKER_ENRICHMENT * background)
    coverage = (is_present * weight).sum(axis=1) / total
    level, reference = rate.sum(axis=1), profile.sum()
    is_enriched = (rate >= MIN_ENRICHMENT * background) & (rate >= 0.05 * profile) & (summed >= MIN_COUNTS)
    is_plain = (rate >= PLAIN_LEVEL / 2 * profile) & (summed >= MIN_COUNTS)
    above = (
        (level >= MIN_LEVEL * reference) & (level >= MIN_ENRICHMENT * background.sum()) & (is_enriched.sum(axis=1) >= 2)
    )
    claim = above | ((level >= PLAIN_LEVEL * reference) & (is_plain.sum(axis=1) >= 2))
    claim &= coverage >= MIN_COVERAGE
    if strict:
        at_level = ((rate >= STRICT_LEVEL * profile) * weight).sum(axis=1) / total
        claim &= (at_level >= strict) & (level >= STRICT_LEVEL * reference)
    return claim, coverage


def _exceeds_siblings(level: Numbers, types: PanelTypes) -> Mask:
    """(K, J) whether a type below another type than a lineage exceeds its siblings in a cluster.

    T cells of all kinds share a cluster where a panel has few genes that tell them apart. Only a cluster that shows one of
    them more than the others is named after it.

    Args:
        level: (K, J) rate of the markers of each type, relative to its profile.
        types: The types.
    """
    taxonomy = load_taxonomy()
    exceeds = np.ones(level.shape, dtype=bool)
    for row, name in enumerate(types.names):
        parent = taxonomy.parents.get(name, "")
        siblings = [k for k, other in enumerate(types.names) if k != row and taxonomy.parents.get(other) == parent]
        if _is_kind(types, name) and siblings:
            exceeds[:, row] = level[:, row] >= SIBLING_RATIO * level[:, siblings].max(axis=1)
    return exceeds


def strict_coverage(types: PanelTypes, tissue: str | None) -> Numbers:
    """(J,) coverage that a type needs at a plausible level, 0 for types without such a rule."""
    taxonomy = load_taxonomy()
    needed = np.zeros(len(types.names))
    for row, name in enumerate(types.names):
        # Types below a type other than a lineage, such as CD4 T cells, differ from each other by a few genes.
        if not types.has_profile[row] or _is_kind(types, name):
            needed[row] = STRICT_COVERAGE
        if tissue is None and taxonomy.restriction(name):
            needed[row] = UNKNOWN_TISSUE_COVERAGE
    return needed


def _spread(may_claim: Mask, coverage: Numbers, below: Mask, sizes: NDArray[np.int64]) -> tuple[Mask, Numbers]:
    """(K, J) claims and coverages, where a type that claims most cells of the type above it may claim all of them.

    Clusters of cells with few counts are often split by whether one gene was detected.

    Args:
        may_claim: (K, J) whether a type may claim a cluster.
        coverage: (K, J) fraction of the markers.
        below: (J, J) whether the second type is below the first.
        sizes: (K,) cells of each cluster.
    """
    spread, raised = may_claim.copy(), coverage.copy()
    for general in np.flatnonzero(below.any(axis=1)):
        of_general = may_claim[:, general]
        share = sizes[of_general] @ may_claim[of_general] / max(sizes[of_general].sum(), 1)
        for row in np.flatnonzero(below[general] & (share >= MOST)):
            mean = np.average(coverage[may_claim[:, row], row], weights=np.maximum(sizes[may_claim[:, row]], 1))
            raised[of_general, row] = np.maximum(coverage[of_general, row], mean)
            spread[:, row] |= of_general
    return spread, raised


def _is_kind(types: PanelTypes, name: str) -> bool:
    """Whether a type is a kind of another type of the panel, such as a CD8 T cell, and not only of a lineage."""
    taxonomy = load_taxonomy()
    parent = taxonomy.parents.get(name, "")
    return parent in types.names and parent != taxonomy.lineage(name)


def _general(types: PanelTypes) -> NDArray[np.int64]:
    """(J,) position of the type of which each type is a kind; its own position for other types."""
    parents = load_taxonomy().parents
    return np.array(
        [types.names.index(parents[name]) if _is_kind(types, name) else row for row, name in enumerate(types.names)],
        dtype=np.int64,
    )


def _bonus(types: PanelTypes, tissue: str | None) -> Numbers:
    """(J,) logarithm of the factor by which the types below each type are preferred to it."""
    complete_in = load_taxonomy().complete_in
    is_complete = [tissue is not None and tissue in complete_in.get(name, ()) for name in types.names]
    return np.where(is_complete, COMPLETE_BONUS, CHILD_BONUS)


def _below(types: PanelTypes, tissue: str | None) -> Mask:
    """(J, J) whether the second type is below the first one."""
    taxonomy = load_taxonomy()
    below = np.zeros((len(types.names), len(types.names)), dtype=bool)
    for row, name in enumerate(types.names):
        for column, other in enumerate(types.names):
            # Without a known tissue, a type of certain tissues must win against the general type on its own.
            is_certain = tissue is not None or not taxonomy.restriction(other)
            below[row, column] = other != name and taxonomy.is_below(other, name) and is_certain
    return below
