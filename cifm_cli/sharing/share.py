"""Sharing from cells to results: neighbours, fractions, groups, and the clusters of every sample.

Letters: N cells, n cells of one sample, S samples, K clusters, T types.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli.errors import CifmError
from cifm_cli.report.palette import sort_names
from cifm_cli.sharing.cells import Cells, Part, collect_cells, draw_balanced, variance_between_samples
from cifm_cli.sharing.clusters import cluster_fractions
from cifm_cli.sharing.enrichment import Enrichment, TypedCells, measure_enrichment
from cifm_cli.sharing.fractions import Fractions, compute_fractions
from cifm_cli.sharing.groups import MIN_SAMPLES, GroupTest, compare_groups, require_comparable
from cifm_cli.sharing.neighbours import find_neighbours, require_enough_cells
from cifm_cli.sharing.repeats import repeat_note
from cifm_cli.sharing.shift import Match, estimate_shifts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.sharing.cells import Center
    from cifm_cli.sharing.neighbours import Search

MIXING_PERMUTATIONS: Final = 99
_UNEQUAL = 2  # ratio of the largest to the smallest sample above which equal numbers of cells are drawn
_CELLS_PER_NEIGHBOUR = 2  # a drawn sample has at least this multiple of k cells

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShareConfig:
    """Settings of `cifm share`."""

    k: int = 100  # neighbours of each cell
    clusters: int | None = None  # clusters of each sample; None for the number with the largest silhouette
    of: tuple[str, ...] = ()  # samples whose fractions are clustered; all if empty
    center: Center = "sample"  # `sample` removes shifts between samples, `none` uses the embeddings as they are
    balance: bool | None = None  # equal numbers of cells of each sample as neighbours; None to decide by their sizes
    search: Search = "auto"
    permutations: int = 999  # of types, for the enrichment
    seed: int = 0


@dataclass(frozen=True)
class SampleClusters:
    """Clusters of the cells of one sample."""

    sample: str
    clusters: NDArray[np.int64]  # (n,) from 0; the first has the largest fraction of neighbours in the own sample
    fractions: NDArray[np.float64]  # (K, S) mean fractions of each cluster
    sizes: NDArray[np.int64]  # (K,) cells
    enrichment: Enrichment | None  # None without types


@dataclass(frozen=True)
class Sharing:
    """Results of `share_cells`."""

    cells: Cells
    fractions: Fractions
    by_sample: dict[str, SampleClusters]  # of the samples that were asked for
    types: tuple[str, ...]  # T names; empty without types
    groups: tuple[str, ...]  # S names of groups; empty without groups
    group_test: GroupTest | None  # None without groups
    facts: dict[str, Any]  # search, shifts and balance, as JSON
    warnings: tuple[str, ...]

    @property
    def samples(self) -> tuple[str, ...]:
        """S names."""
        return self.cells.samples


def share_cells(parts: Sequence[Part], config: ShareConfig) -> Sharing:
    """Find which microenvironments samples have in common.

    Args:
        parts: Cells of at least two samples.
        config: The settings.

    Returns:
        Fractions of the neighbours by sample, their clusters, types of the clusters, and the comparison of groups.

    Raises:
        CifmError: There are too few samples, cells or groups, or a sample of `of` does not exist.
    """
    cells = collect_cells(parts)
    if unknown := [name for name in config.of if name not in cells.samples]:
        raise CifmError(f"--of {unknown[0]}: no such sample", f"samples: {', '.join(cells.samples)}")
    groups = _groups_of_samples(parts, cells.samples)
    # Checked before the work, as are the settings below.
    if groups:
        require_comparable(groups)
    balanced = _decide_balance(cells, config)
    database = draw_balanced(cells, config.seed) if balanced else np.arange(cells.num_cells)
    require_enough_cells(database, config.k)
    between = variance_between_samples(cells)
    matches: list[Match] = []
    if config.center == "sample":
        shifts, matches = estimate_shifts(cells, config.seed)
        cells = replace(cells, shifts=(cells.shifts + shifts).astype(np.float32))
    neighbours = find_neighbours(cells, database, config.k, config.search, config.seed)
    fractions = compute_fractions(cells, database, neighbours, MIXING_PERMUTATIONS, config.seed)
    types = tuple(
        sort_names({name for part in parts if part.types is not None for name in part.types if name is not None})
    )
    by_sample = {name: _cluster_sample(cells, fractions, name, types, config) for name in config.of or cells.samples}
    test = compare_groups(fractions.log2_enrichment, groups, config.seed) if groups else None
    facts = {
        "search": neighbours.facts,
        "balance": bool(balanced),
        "center": config.center,
        "variance_between_samples": between,
        "shifts": [_describe_match(match, cells.samples) for match in matches],
    }
    warnings = [*repeat_note(cells), *hub_notes(fractions, cells.samples), *_group_notes(groups, cells)]
    for warning in warnings:
        logger.warning(warning)
    return Sharing(cells, fractions, by_sample, types, groups, test, facts, tuple(warnings))


def _groups_of_samples(parts: Sequence[Part], samples: tuple[str, ...]) -> tuple[str, ...]:
    """The group of each sample; empty if the parts have none."""
    found: dict[str, str] = {}
    for part in parts:
        if part.group is None:
            continue
        if found.setdefault(part.sample, part.group) != part.group:
            raise CifmError(
                f"sample {part.sample}: in the groups {found[part.sample]} and {part.group}", "a sample has one group"
            )
    if missing := [name for name in samples if found and name not in found]:
        raise CifmError(f"sample {missing[0]}: no group", "give each sample a group, or leave the sample out")
    return tuple(found[name] for name in samples) if found else ()


def _decide_balance(cells: Cells, config: ShareConfig) -> bool:
    smallest, largest = int(cells.sizes.min()), int(cells.sizes.max())
    if smallest >= _CELLS_PER_NEIGHBOUR * config.k:
        return largest > _UNEQUAL * smallest if config.balance is None else config.balance
    if config.balance:
        name = cells.samples[int(cells.sizes.argmin())]
        raise CifmError(
            f"--balance: sample {name} has {smallest:,} cells, fewer than {_CELLS_PER_NEIGHBOUR} x {config.k} neighbours",
            "leave the sample out, give a smaller --k, or use --no-balance",
        )
    return False


def _cluster_sample(
    cells: Cells, fractions: Fractions, name: str, types: tuple[str, ...], config: ShareConfig
) -> SampleClusters:
    own = cells.samples.index(name)
    rows = np.flatnonzero(cells.codes == own)
    vectors = fractions.cells[rows]
    clusters = cluster_fractions(vectors, own, config.clusters, config.seed)
    number = int(clusters.max()) + 1
    means = np.stack([vectors[clusters == cluster].mean(axis=0, dtype=np.float64) for cluster in range(number)])
    enrichment = None
    slides = list(_typed_slides(cells, name, clusters, types))
    if slides:
        enrichment = measure_enrichment(slides, number, len(types), config.permutations, config.seed)
    return SampleClusters(name, clusters, means, np.bincount(clusters, minlength=number), enrichment)


def _typed_slides(cells: Cells, name: str, clusters: NDArray[np.int64], types: tuple[str, ...]) -> list[TypedCells]:
    """The slides of a sample that have positions and types."""
    slides, first = [], 0
    column = {kind: number for number, kind in enumerate(types)}
    for part in cells.parts:
        if part.sample != name:
            continue
        last = first + len(part.embedding)
        if part.xy_um is not None and part.types is not None and any(kind is not None for kind in part.types):
            codes = np.array([column.get(kind, -1) for kind in part.types], dtype=np.int64)
            slides.append(TypedCells(part.xy_um, clusters[first:last], codes))
        first = last
    return slides


def _describe_match(match: Match, samples: tuple[str, ...]) -> dict[str, Any]:
    return {
        "samples": [samples[match.one], samples[match.other]],
        "matched": match.matched,
        "matched_reflected": match.reflected,
        "used": match.is_evident,
        "distance": float(np.linalg.norm(match.translation)),
    }


def hub_notes(fractions: Fractions, samples: tuple[str, ...]) -> list[str]:
    """Warn of samples that are near to the cells of every other sample.

    Args:
        fractions: The fractions.
        samples: S names.

    Returns:
        A warning for each sample in which the cells of all other samples have more neighbours, relative to perfect mixing,
        than in their own. Its embeddings vary less than those of the others, or lie between them; that is no evidence of
        shared microenvironments.
    """
    fold = fractions.matrix / np.maximum(fractions.expected, 1e-12)
    hubs = [
        name
        for position, name in enumerate(samples)
        if all(fold[row, position] > max(fold[row, row], 1.0) for row in range(len(samples)) if row != position)
    ]
    return [
        f"sample {name}: the cells of every other sample have more neighbours in it than in their own sample, relative to "
        "perfect mixing. Its embeddings vary less or lie between the others, which is no evidence of shared "
        "microenvironments"
        for name in hubs
    ]


def _group_notes(groups: tuple[str, ...], cells: Cells) -> list[str]:
    """What few samples in a group mean, and that groups were measured by different platforms."""
    notes = []
    names = sort_names(set(groups))
    if few := [name for name in names if groups.count(name) < MIN_SAMPLES]:
        notes.append(
            f"fewer than {MIN_SAMPLES} samples in {', '.join(few)}: samples, not cells, are the evidence for a "
            "difference between groups"
        )
    platforms = {name: {part.platform for part in cells.parts if part.group == name} for name in names}
    apart = [f"{one} and {other}" for one, other in combinations(names, 2) if not platforms[one] & platforms[other]]
    if apart:
        notes.append(f"no common platform of {', '.join(apart)}: differences between these groups may be technical")
    return notes


def describe(sharing: Sharing) -> dict[str, Any]:
    """The content of `sharing.json`, without provenance.

    Args:
        sharing: The results.

    Returns:
        JSON values.
    """
    test = sharing.group_test
    return {
        "cells": sharing.cells.num_cells,
        "samples": dict(zip(sharing.samples, sharing.cells.sizes.tolist(), strict=True)),
        **sharing.facts,
        "matrix": sharing.fractions.matrix.tolist(),
        "expected": sharing.fractions.expected.tolist(),
        "log2_enrichment": sharing.fractions.log2_enrichment.tolist(),
        "clusters": {
            name: [
                {"cells": int(size), "fractions": means.tolist()}
                for size, means in zip(each.sizes, each.fractions, strict=True)
            ]
            for name, each in sharing.by_sample.items()
        },
        "groups": None
        if test is None
        else {"samples": dict(zip(sharing.samples, sharing.groups, strict=True)), **asdict(test)},
        "warnings": list(sharing.warnings),
    }
