"""Counts of a corpus in memory or in its files, and columns of a panel: the same numbers either way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import random as random_sparse

from cifm_cli.data import slide as slide_module
from cifm_cli.data.counts_source import FileCounts, MemoryCounts
from cifm_cli.data.slide import hold_counts, open_slide
from cifm_cli.model.vocabulary import Panel
from cifm_cli.provenance import numpy_generator


def test_counts_are_held_if_those_of_all_slides_are_few(
    monkeypatch: pytest.MonkeyPatch, prepared_synthetic: Path
) -> None:
    opened = [open_slide(prepared_synthetic, hold=False)] * 2
    num_values = opened[0].counts(np.arange(opened[0].num_cells)).nnz
    held = hold_counts(opened)
    assert all(isinstance(slide.source, MemoryCounts) for slide in held)
    rows = numpy_generator(0, "rows").permutation(opened[0].num_cells)[:50]
    assert (held[0].counts(rows) != opened[0].counts(rows)).nnz == 0
    monkeypatch.setattr(slide_module, "_IN_MEMORY_NONZEROS", 2 * num_values - 1)  # one slide would fit, two do not
    assert all(isinstance(slide.source, FileCounts) for slide in hold_counts(opened))


def test_a_panel_of_all_genes_selects_nothing() -> None:
    matrix = random_sparse(6, 5, 0.5, format="csr", rng=0)
    assert Panel(np.arange(5), np.arange(5)).select(matrix) is matrix
    for columns in ([0, 1, 2, 3], [4, 3, 2, 1, 0]):
        selected = Panel(np.array(columns), np.arange(len(columns))).select(matrix)
        np.testing.assert_array_equal(selected.toarray(), matrix.toarray()[:, columns])
