"""Laws of the sketches of cells, and cells that they cannot recognise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import random_network
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, random

from cifm_cli import keys
from cifm_cli.data import cell_sketch
from cifm_cli.data.cell_sketch import (
    CellChecksums,
    bottom,
    match_cells,
    overlap,
    place_checksums,
    recognisable_checksums,
    sketch_region,
)
from cifm_cli.data.checksums import gene_keys
from cifm_cli.data.slide import Slide
from cifm_cli.errors import CifmError
from cifm_cli.model.checkpoint import MODEL_FILE, describe, load_checkpoint, save_checkpoint
from cifm_cli.recipe import parse

seeds = st.integers(0, 2**32 - 1)


def draw_checksums(seed: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 2**64, size, dtype=np.uint64)


@given(seeds, st.integers(0, 300), st.integers(0, 300), st.integers(0, 300))
def test_overlap_with_a_sketch_that_holds_all_cells_is_exact(seed: int, both: int, one: int, other: int) -> None:
    cells = draw_checksums(seed, both + one + other)
    found = overlap(cells[: both + one], bottom(np.delete(cells, np.s_[both : both + one]), 1_000), 1_000)
    if both + other:
        assert found == (both + one, both)
    else:
        assert found == (0, 0)


@given(seeds, st.floats(0, 1))
def test_overlap_with_a_small_sketch_is_estimated(seed: int, fraction: float) -> None:
    size, num_cells = 400, 4_000
    trained, new = draw_checksums(seed, 2 * num_cells).reshape(2, num_cells)
    num_seen = round(fraction * num_cells)
    cells = np.concatenate([trained[:num_seen], new[num_seen:]])
    found = overlap(cells, bottom(trained, size), size)
    exact = num_seen / num_cells
    error = 5 * np.sqrt(exact * (1 - exact) / size) + 3 / size
    assert abs(found.fraction - exact) < error, f"estimated {found.fraction}, exact {exact}"
    assert found.num_found == 0 or num_seen


@given(seeds)
def test_a_sketch_does_not_depend_on_the_order_of_cells(seed: int) -> None:
    cells = draw_checksums(seed, 100)
    shuffled = np.random.default_rng(seed).permutation(np.concatenate([cells, cells[:30]]))
    assert np.array_equal(bottom(cells, 40), bottom(shuffled, 40))
    assert len(bottom(np.zeros(5, np.uint64), 40)) == 0


def test_cells_of_few_genes_are_not_recognised() -> None:
    counts = csr_matrix(np.tri(10, 400, -1, dtype=np.float32) * 3)  # row n expresses n genes
    recognised = recognisable_checksums(counts, gene_keys([str(gene) for gene in range(400)])) > 0
    assert recognised.tolist() == [genes >= 6 for genes in range(10)]


def test_on_a_panel_of_few_genes_single_counts_are_not_enough() -> None:
    keys_of_genes = gene_keys([str(gene) for gene in range(12)])
    single, many = csr_matrix(np.ones((1, 12))), csr_matrix(np.full((1, 12), 40.0))
    assert recognisable_checksums(single, keys_of_genes) == 0
    assert recognisable_checksums(many, keys_of_genes) > 0


def test_places_are_recognised_after_exchanging_and_mirroring_axes() -> None:
    xy_um = np.random.default_rng(0).uniform(0, 5_000, (500, 2))
    places = place_checksums(xy_um)
    assert len(np.unique(places)) == 500
    for same in (xy_um[:, ::-1], xy_um * [1, -1], xy_um + 1e-5):
        assert (place_checksums(same) == places).mean() > 0.95
    assert not np.isin(place_checksums(xy_um + 0.5), places).any()


def test_places_of_a_grid_are_not_compared() -> None:
    x, y = np.meshgrid(np.arange(30) * 8.0, np.arange(30) * 8.0)
    assert not place_checksums(np.column_stack([x.ravel(), y.ravel()])).any()


def test_a_region_is_recognised_whatever_the_genes_that_it_was_not_trained_on(slide: Slide) -> None:
    trained, test = slide.region(keys.TRAIN), slide.region(keys.TEST)
    vocabulary = slide.gene_ids[::-2]
    sketch = sketch_region(slide, trained, vocabulary, keys.TRAIN)
    columns = np.array([slide.columns[gene] for gene in vocabulary])
    numbers, places = gene_keys(vocabulary), place_checksums(slide.xy_um)
    for rows, fraction in ((trained, 1.0), (test, 0.0)):
        checksums = recognisable_checksums(slide.counts(rows)[:, columns], numbers)
        seen = match_cells(CellChecksums(checksums, places[rows]), sketch)
        assert (seen.counts.fraction, seen.places.fraction) == (fraction, fraction)
        assert seen.is_significant == bool(fraction)


def test_a_region_is_read_in_blocks(slide: Slide, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = slide.region(keys.TRAIN)
    whole = sketch_region(slide, rows, slide.gene_ids, keys.TRAIN)
    monkeypatch.setattr(cell_sketch, "BLOCK_CELLS", 37)
    blocks = sketch_region(slide, rows, slide.gene_ids, keys.TRAIN)
    assert np.array_equal(whole.counts, blocks.counts)
    assert np.array_equal(whole.expressed, blocks.expressed)
    expressed = slide.counts(rows).getnnz(axis=0) / len(rows)
    assert whole.expressed == pytest.approx(expressed, abs=1e-3)


def test_sketches_are_stored_with_the_model(slide: Slide, tmp_path: Path) -> None:
    vocabulary = (*slide.gene_ids, "unknown")
    sketch = sketch_region(slide, slide.region(keys.TRAIN), vocabulary, keys.TRAIN)
    recipe = parse({"model": {"width": 8}}, "test")
    network = random_network(len(vocabulary), recipe)
    path = tmp_path / MODEL_FILE
    states = np.arange(2 * slide.num_genes, dtype=np.float32).reshape(2, -1)
    save_checkpoint(
        path, network, recipe, vocabulary, {}, [replace(sketch, states=states), replace(sketch, run="before")]
    )
    read = load_checkpoint(tmp_path).sketches
    assert np.array_equal(read[0].states, states)
    assert read[1].states is None
    assert [(each.slide, each.use, each.run) for each in read] == [
        (slide.name, "train", ""),
        (slide.name, "train", "before"),
    ]
    for each in read:
        assert np.array_equal(each.counts, sketch.counts)
        assert np.array_equal(each.places, sketch.places)
        assert np.array_equal(each.expressed, sketch.expressed, equal_nan=True)
        assert np.flatnonzero(~each.is_measured).tolist() == [slide.num_genes]
    plain = sum(tensor.numel() for tensor in network.stored_weights().values())
    assert describe(path)["parameters"]["total"] == plain


def test_sketches_that_do_not_fit_the_model_are_an_error(slide: Slide, tmp_path: Path) -> None:
    sketch = sketch_region(slide, slide.region(keys.TRAIN), slide.gene_ids, keys.TRAIN)
    recipe = parse({"model": {"width": 8}}, "test")
    network = random_network(slide.num_genes, recipe)
    short = replace(sketch, expressed=sketch.expressed[:-1])
    long = replace(sketch, counts=np.arange(cell_sketch.NUM_COUNTS + 1, dtype=np.uint64))
    for wrong, name in ((short, "expressed"), (long, "counts")):
        save_checkpoint(tmp_path / MODEL_FILE, network, recipe, slide.gene_ids, {}, [sketch, wrong])
        with pytest.raises(CifmError, match=rf"tensor cells\.1\.{name} is"):
            load_checkpoint(tmp_path)
    for states, problem in (
        (np.zeros((2, slide.num_genes - 1), np.float32), f"have {slide.num_genes - 1} genes, not {slide.num_genes}"),
        (np.zeros((2, slide.num_genes + 1), np.float32), "tensor cells.1.states is"),
        (np.zeros(slide.num_genes, np.float32), "tensor cells.1.states is"),
        (np.zeros((0, slide.num_genes), np.float32), "tensor cells.1.states is"),
    ):
        save_checkpoint(
            tmp_path / MODEL_FILE, network, recipe, slide.gene_ids, {}, [sketch, replace(sketch, states=states)]
        )
        with pytest.raises(CifmError, match=problem):
            load_checkpoint(tmp_path)


@given(seeds)
def test_cells_are_recognised_by_the_genes_of_the_training_panel(seed: int) -> None:
    counts = csr_matrix(random(30, 200, 0.2, format="csr", rng=np.random.default_rng(seed)))
    counts.data = np.ceil(counts.data * 5).astype(np.float32)
    genes = [str(gene) for gene in range(200)]
    order = np.random.default_rng(seed).permutation(200)
    permuted = recognisable_checksums(csr_matrix(counts[:, order]), gene_keys([genes[gene] for gene in order]))
    assert np.array_equal(permuted, recognisable_checksums(counts, gene_keys(genes)))
