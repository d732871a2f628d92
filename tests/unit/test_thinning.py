"""Thinning: what it keeps, and that it changes nothing but what the encoder reads in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from cifm_cli.model.thinning import thin_counts
from cifm_cli.recipe import parse
from cifm_cli.training.corpus import Corpus


def draw_counts(seed: int, num_cells: int = 40, mean: float = 1.0) -> csr_matrix:
    return csr_matrix(np.random.default_rng(seed).poisson(mean, (num_cells, 30)).astype(np.float32))


@given(seed=st.integers(0, 1000), largest=st.floats(0.0, 0.99))
def test_thinned_counts_are_whole_and_at_most_the_counts(seed: int, largest: float) -> None:
    counts = draw_counts(seed)
    before = counts.toarray()
    thinned, kept = thin_counts(counts, largest, np.random.default_rng(seed))
    after = thinned.toarray()
    assert np.array_equal(after, np.round(after))
    assert ((after >= 0) & (after <= before)).all()
    assert (thinned.data > 0).all()  # a stored zero would count as an expressed gene
    assert ((kept >= 1 - largest) & (kept <= 1)).all()
    assert np.array_equal(counts.toarray(), before)
    again, _ = thin_counts(counts, largest, np.random.default_rng(seed))
    assert np.array_equal(again.toarray(), after)


def test_a_cell_keeps_the_fraction_that_was_drawn_for_it() -> None:
    counts = draw_counts(0, mean=400.0)
    thinned, kept = thin_counts(counts, 0.8, np.random.default_rng(1))
    found = np.asarray(thinned.sum(axis=1) / counts.sum(axis=1)).ravel()
    # 12,000 counts in each cell: five standard errors of a fraction are below 0.023.
    assert np.abs(found - kept).max() < 5 * np.sqrt(0.25 / 12_000)
    assert np.ptp(kept) > 0.5


@pytest.fixture(scope="module")
def corpora(prepared_few_genes: Path) -> list[Corpus]:
    """The same corpus without and with thinning."""
    return [
        Corpus(
            [prepared_few_genes],
            parse(
                {
                    "data": {"tile_cells": 64},
                    "model": {"width": 8, "heads": 2, "encoder_layers": 1, "decoder_layers": 1},
                    "mask": {"share": 0.1, "share_max": 0.3, "contiguous": 0.5, "thinning": thinning},
                    "objective": {"scales": [1.0, 2.0], "cutoff": 3.0},
                    "train": {"validation_tiles": 3},
                },
                "test",
            ),
        )
        for thinning in (0.0, 0.6)
    ]


def test_thinning_changes_what_the_encoder_reads_and_nothing_else(corpora: list[Corpus]) -> None:
    for number in range(5):
        whole, thinned = (corpus.train_example(number) for corpus in corpora)
        assert torch.equal(whole.target.counts, thinned.target.counts)
        assert torch.equal(whole.tile.masked, thinned.tile.masked)
        assert torch.equal(whole.tile.neighbours.expression, thinned.tile.neighbours.expression)
        assert torch.equal(whole.tile.neighbour_expression.values, thinned.tile.neighbour_expression.values)
        assert len(thinned.tile.expression.values) < len(whole.tile.expression.values)
        again = corpora[1].train_example(number)
        assert torch.equal(again.tile.expression.values, thinned.tile.expression.values)


def test_validation_sees_all_counts(corpora: list[Corpus]) -> None:
    for number in range(3):
        whole, thinned = (corpus.validation_example(number) for corpus in corpora)
        assert torch.equal(whole.tile.expression.values, thinned.tile.expression.values)
