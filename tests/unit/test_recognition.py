"""Cells that a model was trained on are recognised; a slide is new where there are none."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import load_random_model, replace_counts

from cifm_cli.data.cell_sketch import sketch_region
from cifm_cli.data.slide import Slide
from cifm_cli.model.checkpoint import Checkpoint
from cifm_cli.model.recognition import find_seen, is_new, trained_fraction, trained_states, trained_weights


@pytest.fixture(scope="module")
def trained(slide: Slide) -> Checkpoint:
    """A model that was trained on the first half of the cells, and validated on the others."""
    checkpoint = load_random_model(slide, {"model": {"width": 8}}).checkpoint
    rows = np.arange(slide.num_cells)
    half = slide.num_cells // 2
    uses = (("train", rows[:half]), ("validation", rows[half:]))
    sketches = tuple(sketch_region(slide, own, checkpoint.vocabulary, use) for use, own in uses)
    return replace(checkpoint, sketches=sketches)


def test_a_slide_is_new_where_no_cell_was_trained_on(slide: Slide, trained: Checkpoint) -> None:
    rows = np.arange(slide.num_cells)
    half = slide.num_cells // 2
    assert not is_new(slide, rows, trained)
    assert not is_new(slide, rows[:half], trained)
    assert is_new(slide, rows[half:], trained)
    assert trained_fraction(slide, rows, trained) == pytest.approx(0.5, abs=0.05)
    assert trained_fraction(slide, rows[half:], trained) == 0
    assert trained_fraction(slide, rows[:0], trained) == 0


def test_other_counts_at_other_places_are_new(slide: Slide, trained: Checkpoint) -> None:
    rows = np.arange(slide.num_cells)
    other = replace_counts(slide, rows, slide.counts(rows).toarray()[:, ::-1] + 1)
    assert is_new(replace(other, xy_um=slide.xy_um + 7.77), rows, trained)
    assert not is_new(other, rows, trained), "the same places"


def test_a_model_that_does_not_record_its_cells_may_have_seen_any(slide: Slide, trained: Checkpoint) -> None:
    assert not is_new(slide, np.arange(slide.num_cells), replace(trained, sketches=()))


def test_a_slide_of_the_training_keeps_its_states(slide: Slide, trained: Checkpoint) -> None:
    rows = np.arange(slide.num_cells)
    half, genes = slide.num_cells // 2, slide.num_genes
    states = np.arange(3 * genes, dtype=np.float32).reshape(3, genes)
    # The vocabulary has the genes in another order than the slide.
    vocabulary = trained.vocabulary[::-1]
    sketch = sketch_region(slide, rows[:half], vocabulary, "train")
    known = replace(trained, vocabulary=vocabulary, sketches=(replace(sketch, states=states),))
    found = trained_states(slide, rows, known)
    assert found is not None
    assert np.array_equal(found, states[:, ::-1])
    assert trained_states(slide, rows[half:], known) is None, "none of these cells was trained on"
    assert trained_states(slide, rows[: half + half // 4], known) is not None, "most of them were"
    few = np.concatenate([rows[: half // 10], rows[half:]])
    assert trained_states(slide, few, known) is None, "most of them were not"
    assert trained_states(slide, rows, trained) is None, "an earlier version stored none"
    measured = sketch.expressed.copy()
    measured[0] = np.nan
    other = replace(sketch, expressed=measured, states=states[:, 1:])
    assert trained_states(slide, rows, replace(known, sketches=(other,))) is None, "a gene was not trained on"


def test_the_only_slide_of_a_training_keeps_its_weights(slide: Slide, trained: Checkpoint) -> None:
    """The network corrects the smoother with these weights."""
    rows = np.arange(slide.num_cells)
    half = slide.num_cells // 2
    pooled = trained.network.pooled
    assert pooled is not None
    stored = pooled.parameters_of(torch.arange(slide.num_genes))
    weights = torch.arange(stored.mean_weights.numel(), dtype=torch.float32).view_as(stored.mean_weights)
    changed = replace(stored, mean_weights=weights)
    network = deepcopy(trained.network)
    assert network.pooled is not None
    network.pooled.fill(changed, torch.arange(slide.num_genes))
    known = replace(trained, network=network)
    found = trained_weights(slide, rows, known)
    assert found is not None
    assert torch.equal(found.mean_weights, weights)
    # The vocabulary has the genes in another order than the slide.
    sketch = sketch_region(slide, rows[:half], trained.vocabulary[::-1], "train")
    backwards = trained_weights(slide, rows, replace(known, vocabulary=trained.vocabulary[::-1], sketches=(sketch,)))
    assert backwards is not None
    assert torch.equal(backwards.mean_weights, weights.flip(1))
    assert trained_weights(slide, rows[half:], known) is None, "none of these cells was trained on"
    train, validation = trained.sketches
    assert trained_weights(slide, rows, replace(known, sketches=(train, train, validation))) is None, "two slides"
    earlier = replace(train, run="pretrained")
    assert trained_weights(slide, rows, replace(known, sketches=(earlier,))) is None, "the slide of an earlier run"
    assert trained_weights(slide, rows, replace(known, sketches=(replace(train, run=""), earlier))) is not None


def test_every_use_is_found(slide: Slide, trained: Checkpoint) -> None:
    found = find_seen(slide, np.arange(slide.num_cells), trained.sketches, trained.vocabulary)
    assert [sketch.use for sketch, _ in found] == ["train", "validation"]
    assert all(seen.fraction == pytest.approx(0.5, abs=0.05) for _, seen in found)
