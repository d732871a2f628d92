"""Augmentation: what thinning and bootstrap draw, and that they change nothing else, and nothing in a validation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from cifm_cli.model.augmentation import bootstrap_weights, thin_counts
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


def make_corpus(slide: Path, **augmentation: float) -> Corpus:
    """A corpus of small tiles."""
    recipe = parse(
        {
            "data": {"tile_cells": 64},
            "model": {"width": 8, "heads": 2, "encoder_layers": 1, "decoder_layers": 1},
            "mask": {"share": 0.1, "share_max": 0.3, "contiguous": 0.5, **augmentation},
            "objective": {"scales": [1.0, 2.0], "cutoff": 3.0},
            "train": {"validation_tiles": 3},
        },
        "test",
    )
    return Corpus([slide], recipe)


@pytest.fixture(scope="module")
def corpora(prepared_few_genes: Path) -> list[Corpus]:
    """The same corpus without and with thinning."""
    return [make_corpus(prepared_few_genes, thinning=thinning) for thinning in (0.0, 0.6)]


@pytest.fixture(scope="module")
def resampled(prepared_few_genes: Path) -> Corpus:
    """The same corpus with a bootstrap of the visible cells."""
    return make_corpus(prepared_few_genes, bootstrap=0.5)


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


def test_validation_sees_the_cells_as_they_are(corpora: list[Corpus], resampled: Corpus) -> None:
    for number in range(3):
        whole, *others = (corpus.validation_example(number) for corpus in (*corpora, resampled))
        for other in others:
            assert torch.equal(whole.tile.expression.values, other.tile.expression.values)
            assert torch.equal(whole.tile.neighbours.mass, other.tile.neighbours.mass)


def test_bootstrap_weights_have_mean_one_and_the_variance_that_was_asked_for() -> None:
    for variance in (0.1, 1.0, 3.0):
        weights = bootstrap_weights(200_000, variance, np.random.default_rng(0))
        assert (weights >= 0).all()
        # Five standard errors of the mean
        assert abs(weights.mean() - 1) < 5 * np.sqrt(variance / 200_000)
        assert abs(weights.var() / variance - 1) < 0.1


def test_the_bootstrap_changes_the_sums_over_neighbours_and_nothing_else(
    corpora: list[Corpus], resampled: Corpus
) -> None:
    for number in range(5):
        whole, drawn = corpora[0].train_example(number), resampled.train_example(number)
        assert torch.equal(whole.target.counts, drawn.target.counts)
        assert torch.equal(whole.tile.masked, drawn.tile.masked)
        assert torch.equal(whole.tile.expression.values, drawn.tile.expression.values)
        assert torch.equal(whole.tile.neighbours.visible, drawn.tile.neighbours.visible)
        assert not torch.equal(whole.tile.neighbours.mass, drawn.tile.neighbours.mass)
        # One weight for a visible cell, whatever the query and the scale.
        ratio = drawn.tile.neighbours.weight / whole.tile.neighbours.weight
        seen = whole.tile.neighbours.weight.min(1).values > 1e-12
        of_cell = {}
        for cell, factors in zip(drawn.tile.neighbours.visible[seen].tolist(), ratio[seen].tolist(), strict=True):
            assert factors == pytest.approx([of_cell.setdefault(cell, factors[0])] * len(factors), rel=1e-3)
        again = resampled.train_example(number)
        assert torch.equal(again.tile.neighbours.expression, drawn.tile.neighbours.expression)
