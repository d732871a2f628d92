"""Lineages of spots that are mixtures of cells of known types."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cifm_cli.celltype.base import UnlabelledCells
from cifm_cli.celltype.marker_annotator import MarkerAnnotator, open_markers
from cifm_cli.celltype.profiles import load_profiles
from cifm_cli.celltype.spots import SpotAnnotator
from cifm_cli.data.slide import log_normalise

TYPES = {
    "epithelial cell": ("luminal epithelial cell", "basal epithelial cell"),
    "stromal cell": ("fibroblast", "endothelial cell"),
    "immune cell": ("T cell", "macrophage"),
}


def draw(fraction: float, depth: int = 5_000) -> tuple[UnlabelledCells, np.ndarray]:
    """300 spots, of whose counts a fraction is of one lineage and the rest of all of them; and these lineages."""
    profiles, generator = load_profiles(), np.random.default_rng(0)
    rate = profiles.counts_per_million / profiles.counts_per_million.sum(axis=1, keepdims=True)
    lineages = np.array([rate[[profiles.types.index(name) for name in names]].mean(axis=0) for names in TYPES.values()])
    codes = generator.integers(0, len(TYPES), 300)
    mixed = fraction * lineages[codes] + (1 - fraction) * lineages.mean(axis=0)
    counts = csr_matrix(generator.poisson(mixed * depth).astype(np.float32))
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    cells = UnlabelledCells("spots", log_normalise(counts, totals, 1e4), profiles.genes, "breast", spacing_um=100.0)
    return cells, np.array(list(TYPES))[codes]


@pytest.mark.parametrize("fraction", [0.3, 0.6])
def test_spots_are_named_after_the_lineage_that_they_have_more_of(fraction: float) -> None:
    cells, lineages = draw(fraction)
    annotator = open_markers(None, cells, trust_pickle=False)
    assert isinstance(annotator, SpotAnnotator)
    called = annotator.annotate(cells.expression, cells.symbols)
    assert np.mean(called.labels == lineages) > 0.95
    # Each spot is named from its own counts and the fitted slide: a part of the spots gets the same names.
    part = annotator.annotate(cells.expression[:40], cells.symbols)
    assert np.array_equal(part.labels, called.labels[:40])


@pytest.mark.parametrize("spacing_um", [8.0, 16.0, None])
def test_cells_and_bins_are_not_taken_for_spots(spacing_um: float | None) -> None:
    cells = replace(draw(0.6)[0], spacing_um=spacing_um)
    assert isinstance(open_markers(None, cells, trust_pickle=False), MarkerAnnotator)


@pytest.mark.parametrize("tissue", ["blood", "lymph node", "brain", "liver", None])
def test_any_tissue_can_be_named(tissue: str | None) -> None:
    cells = replace(draw(0.6)[0], tissue=tissue)
    called = open_markers(None, cells, trust_pickle=False).annotate(cells.expression, cells.symbols)
    assert set(called.labels) <= set(TYPES)


def test_a_spot_without_counts_is_unassigned() -> None:
    cells, _ = draw(0.6)
    annotator = open_markers(None, cells, trust_pickle=False)
    empty = csr_matrix((1, len(cells.symbols)), dtype=np.float32)
    assert annotator.annotate(empty, cells.symbols).labels.tolist() == ["unassigned"]
