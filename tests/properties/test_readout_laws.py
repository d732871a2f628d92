"""Laws of embeddings with a readout: what they depend on, how they are fitted, stored and grown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from builders import load_random_model, replace_counts, train_short_run
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, vstack

from cifm_cli import keys
from cifm_cli.data.counts_source import MemoryCounts
from cifm_cli.data.slide import Slide
from cifm_cli.embedding.embed import embed_cells
from cifm_cli.errors import CifmError
from cifm_cli.inference.adaptation.adapt import adapt_to_slide
from cifm_cli.inference.encode import encode_cells
from cifm_cli.inference.loaded_model import LoadedModel
from cifm_cli.inference.neighbourhood.code_means import mean_codes
from cifm_cli.model.checkpoint import MODEL_FILE, load_checkpoint, save_checkpoint
from cifm_cli.model.readout import Readout
from cifm_cli.provenance import numpy_generator
from cifm_cli.training import fit_readout as fitting
from cifm_cli.training.corpus import Corpus

if TYPE_CHECKING:
    from numpy.typing import NDArray

TABLES: dict[str, Any] = {"model": {"width": 16}, "data": {"tile_cells": 100}}
TOLERANCE = 1e-5
LEVELS = ("microenvironment", "cell")


def fit(path: Path, model: LoadedModel, seed: int = 0) -> Readout:
    return fitting.fit_readout(model, Corpus([path], model.checkpoint.recipe, model.checkpoint.vocabulary, seed), seed)


def with_readout(model: LoadedModel, readout: Readout | None) -> LoadedModel:
    return replace(model, checkpoint=replace(model.checkpoint, readout=readout))


@pytest.fixture(scope="module")
def model(slide: Slide, prepared_few_genes: Path) -> LoadedModel:
    """A model with random weights and a fitted readout."""
    found = load_random_model(slide, TABLES)
    return with_readout(found, fit(prepared_few_genes, found))


@pytest.fixture(scope="module")
def embedded(slide: Slide, model: LoadedModel) -> dict[str, NDArray[np.float32]]:
    return {level: encode_cells(model, slide, level) for level in LEVELS}


def apart(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_means_within_radii_are_those_of_all_pairs(seed: int, number: int) -> None:
    generator = np.random.default_rng(seed)
    # Half of the places are those of a grid, whose distances are often exactly a radius.
    xy_um = np.where(
        generator.random((number, 1)) < 0.5,
        generator.integers(-3, 3, (number, 2)) * 10.0,
        40 * generator.random((number, 2)),
    )
    codes, states = generator.normal(size=(number, 3)).astype(np.float32), generator.integers(-1, 4, number)
    both = np.stack([states, np.where(states >= 0, 7 - states, -1)], axis=1)  # a second clustering, of states 4 to 7
    radii_um = np.array([10.0, 15.0, 30.0])
    means, found = mean_codes(xy_um, codes, both, np.arange(number), radii_um, 8)
    described = np.concatenate([codes, np.eye(8)[both].sum(axis=1)], axis=1)
    distance = np.linalg.norm(xy_um[:, None] - xy_um, axis=-1)
    for cell in range(number):
        expected = np.zeros(11)
        assert found[cell] == bool(((distance[cell] <= 30) & (states >= 0) & (np.arange(number) != cell)).any())
        for radius in (2, 1, 0):
            near = (distance[cell] <= radii_um[radius] + 1e-9) & (states >= 0) & (np.arange(number) != cell)
            expected = described[near].mean(axis=0) if near.any() else expected
            assert np.allclose(means[cell, radius], expected, atol=1e-6)


@pytest.mark.parametrize("level", LEVELS)
def test_void_cells_change_no_embedding_bit_for_bit(slide: Slide, model: LoadedModel, level: str) -> None:
    generator = numpy_generator(0, "void")
    places = generator.uniform(slide.xy_um.min(axis=0), slide.xy_um.max(axis=0), (40, 2))
    whole = with_readout(load_random_model(slide, {**TABLES, "data": {"tile_cells": 10_000}}), model.checkpoint.readout)
    larger = replace(
        slide,
        xy_um=np.concatenate([slide.xy_um, places]),
        total_counts=np.concatenate([slide.total_counts, np.zeros(40)]),
        split=np.concatenate([slide.split, np.zeros(40, np.int8)]),
        source=MemoryCounts(
            vstack([slide.source.matrix, csr_matrix((40, slide.num_genes), dtype=np.float32)], format="csr")
        ),
    )
    found = encode_cells(whole, larger, level)[: slide.num_cells]
    assert np.array_equal(found, encode_cells(whole, slide, level))


@pytest.mark.parametrize("level", LEVELS)
def test_embeddings_do_not_change_with_rotation_reflection_and_place(
    slide: Slide, model: LoadedModel, embedded: dict[str, Any], level: str
) -> None:
    angle = 0.7
    turn = np.array([[np.cos(angle), np.sin(angle)], [np.sin(angle), -np.cos(angle)]])
    moved = replace(slide, xy_um=slide.xy_um @ turn + [3000.0, -40.0])
    assert apart(encode_cells(model, moved, level), embedded[level]) < TOLERANCE


@pytest.mark.parametrize("level", LEVELS)
def test_the_order_of_the_cells_and_the_tiles_do_not_matter(
    slide: Slide, model: LoadedModel, embedded: dict[str, Any], level: str
) -> None:
    order = numpy_generator(1, "order").permutation(slide.num_cells)
    whole = with_readout(load_random_model(slide, {**TABLES, "data": {"tile_cells": 10_000}}), model.checkpoint.readout)
    assert apart(encode_cells(whole, slide.subset(order), level), embedded[level][order]) < TOLERANCE


def test_a_cell_affects_the_embeddings_within_the_reach_alone(
    slide: Slide, model: LoadedModel, embedded: dict[str, Any]
) -> None:
    readout = model.checkpoint.readout
    assert readout is not None
    changed = slide.num_cells // 2
    other = replace_counts(slide, np.array([changed]), 3 + slide.counts(np.array([changed])).toarray())
    found = encode_cells(model, other, "microenvironment")
    differs = np.abs(found - embedded["microenvironment"]).max(axis=1) > 0
    distance_um = np.linalg.norm(slide.xy_um - slide.xy_um[changed], axis=1)
    reach_um = float(readout.radii[-1]) * slide.radius_um
    assert not differs[distance_um > reach_um * (1 + 1e-6)].any()
    assert differs[distance_um < reach_um].mean() > 0.9


def test_no_dimension_has_a_vanishing_variance(embedded: dict[str, Any]) -> None:
    for values in embedded.values():
        variances = values.var(axis=0)
        assert 0.3 < variances.mean() < 3
        assert variances.min() > 0.02


def test_the_fit_depends_on_the_training_region_alone(
    slide: Slide, model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cifm_cli.training import corpus

    outside = np.setdiff1d(np.arange(slide.num_cells), slide.region(keys.TRAIN))
    other = replace_counts(slide, outside, 1 + slide.counts(outside).toarray())
    found = []
    for given_slide in (slide, other):
        monkeypatch.setattr(corpus, "open_slide", lambda *_, given_slide=given_slide, **__: given_slide)
        found.append(fit(tmp_path, with_readout(model, None)))
    assert all(np.array_equal(getattr(found[0], name), getattr(found[1], name)) for name in vars(found[0]))


def test_components_of_many_genes_are_those_of_the_covariance(slide: Slide, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = slide.expression(np.arange(slide.num_cells), 1e4)
    parts = [(part, np.asarray(part.mean(axis=0), np.float32).ravel()) for part in (matrix[:300], matrix[300:400])]
    monkeypatch.setattr(fitting, "COMPONENTS", 5)
    dense = fitting.fit_loadings(parts)
    monkeypatch.setattr(fitting, "MAX_DENSE_GENES", 1)
    assert np.allclose(np.abs(dense.T @ fitting.fit_loadings(parts)), np.eye(5), atol=1e-3)


def test_single_cells_are_described_by_the_leading_components_alone(
    prepared_synthetic: Path, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "COMPONENTS", 8)
    monkeypatch.setattr(fitting, "LEADING_COMPONENTS", 3)
    monkeypatch.setattr(fitting, "RADIUS_COMPONENTS", (3, 8, 8))
    readout = fit(prepared_synthetic, with_readout(model, None))
    width = model.checkpoint.recipe.model.width
    assert readout.num_components == 8
    assert (readout.states[:, :, 3:] == 0).all()
    # By rows: the encoder, the code, and for each radius the mean code and the fractions of the states
    starts = [width, *(width + 8 + number * (8 + readout.num_states) for number in range(3))]
    used = [(readout.projection[first : first + 8] != 0).any(axis=1).sum() for first in starts]
    assert used == [3, 3, 8, 8]
    assert not readout.cell_projection[width + 3 :].any()


def test_radii_whose_circles_overlap_on_most_of_the_tissue_have_less_weight() -> None:
    # Eleven cells in a row, one radius apart: of the 110 pairs, 38 are within two radii, 80 within five, and all within ten.
    row = np.stack([np.arange(11.0), np.zeros(11)], axis=1)
    fractions = 1 - np.array([38, 80, 110]) / 110
    assert np.allclose(fitting.radius_weights([row]), fractions * fitting.RADIUS_WEIGHTS)
    # A tissue of many circles has the full weights, and slides count alike.
    sparse = 100 * np.stack(np.meshgrid(np.arange(20.0), np.arange(20.0)), axis=-1).reshape(-1, 2)
    assert np.allclose(fitting.radius_weights([sparse]), fitting.RADIUS_WEIGHTS)
    assert np.allclose(fitting.radius_weights([row, sparse]), (1 + fractions) / 2 * fitting.RADIUS_WEIGHTS)
    assert np.allclose(fitting.radius_weights([row[:1]]), fitting.RADIUS_WEIGHTS)


def test_a_model_without_readout_embeds_as_its_encoder(
    slide: Slide, model: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    earlier = with_readout(model, None)
    with caplog.at_level("INFO"):
        embeddings = embed_cells(earlier, slide, ["cell"])["cell"]
    assert "no readout" in caplog.text
    assert apart(embeddings, encode_cells(model, slide, "cell")) > 0.1


def test_a_trained_run_has_a_readout(prepared_few_genes: Path, slide: Slide, tmp_path: Path) -> None:
    train_short_run(prepared_few_genes, tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run")
    readout = checkpoint.readout
    assert readout is not None
    assert readout.projection.shape == (
        8 + readout.num_components + 3 * (readout.num_components + readout.num_states),
        8,
    )
    # What is stored is what was fitted to the best network.
    model = LoadedModel(checkpoint, load_random_model(slide, TABLES).backend, torch.device("cpu"))
    again = fit(prepared_few_genes, model)
    assert all(np.array_equal(getattr(readout, name), getattr(again, name)) for name in vars(readout))


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("projection", lambda x: x[:-1], "projection"),
        ("states", lambda x: x[:, :, :-1], "states"),
        ("loadings", lambda x: x[:0], "loadings"),
        ("radii", lambda x: -x, "ascending"),
        ("radii", lambda x: x * 1e6, "ascending"),
        ("mean", lambda x: x * np.float32(np.nan), "not finite"),
    ],
)
def test_a_damaged_readout_is_an_error(
    slide: Slide, model: LoadedModel, tmp_path: Path, name: str, change: Any, problem: str
) -> None:
    checkpoint = model.checkpoint
    readout = replace(checkpoint.readout, **{name: change(getattr(checkpoint.readout, name))})
    save_checkpoint(tmp_path / MODEL_FILE, checkpoint.network, checkpoint.recipe, slide.gene_ids, {}, (), readout)
    with pytest.raises(CifmError, match=problem):
        load_checkpoint(tmp_path)


def test_new_genes_add_loadings_and_change_nothing_else(slide: Slide, model: LoadedModel) -> None:
    some = replace(slide, gene_ids=slide.gene_ids[: slide.num_genes // 2])
    narrow = replace(
        some,
        symbols=slide.symbols[: slide.num_genes // 2],
        source=MemoryCounts(slide.source.matrix[:, : slide.num_genes // 2].tocsr()),
    )
    small = load_random_model(some, TABLES)
    readout = model.checkpoint.readout
    assert readout is not None
    half = slide.num_genes // 2
    small = with_readout(small, replace(readout, mean=readout.mean[:half], loadings=readout.loadings[:half]))
    grown = small.with_genes(slide)
    assert grown.checkpoint.readout is not None
    assert grown.checkpoint.readout.loadings.shape == (slide.num_genes, readout.num_components)
    assert np.array_equal(encode_cells(grown, narrow, "cell"), encode_cells(small, narrow, "cell"))
    adapted = adapt_to_slide(small, slide, 0, profiles_only=True)
    assert np.isfinite(encode_cells(adapted, slide, "microenvironment")).all()
