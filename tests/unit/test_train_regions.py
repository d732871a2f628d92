"""`data.train_regions = "all"`: training on every cell of a slide that is not for validation, and on no other."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import interrupt_training, read_tensors, replace_counts

from cifm_cli import keys
from cifm_cli.data.cell_sketch import sketch_region
from cifm_cli.data.slide import Slide, open_slide
from cifm_cli.errors import CifmError, StopRequested
from cifm_cli.model.checkpoint import load_checkpoint
from cifm_cli.model.trained_regions import trained_regions
from cifm_cli.recipe import Recipe, parse
from cifm_cli.recipe_sections import DataRecipe
from cifm_cli.training import corpus as corpora
from cifm_cli.training import loop
from cifm_cli.training.config import TrainConfig
from cifm_cli.training.corpus import Corpus
from cifm_cli.training.seen_cells import sketch_corpus
from cifm_cli.training.state import list_states

OUTSIDE = [name for name in keys.REGIONS if name != keys.VALIDATION]


def make_recipe(regions: str = "all", **data: Any) -> Recipe:
    return parse(
        {
            "data": {"tile_cells": 64, "train_regions": regions, **data},
            "model": {"width": 8, "heads": 2, "encoder_layers": 1, "decoder_layers": 1},
            "mask": {"share": 0.1, "share_max": 0.3, "contiguous": 0.5},
            "objective": {"scales": [1.0, 2.0], "cutoff": 3.0},
            "train": {"steps": 6, "validate_every": 3, "validation_tiles": 2, "warmup_steps": 2},
        },
        "test",
    )


@pytest.fixture(scope="module")
def buffered(prepared_few_genes: Path) -> Slide:
    """The synthetic slide with regions that alternate along the Hilbert curve, so that all of them border each other."""
    slide = open_slide(prepared_few_genes)
    return replace(slide, split=(np.arange(slide.num_cells) // 10 % len(keys.REGIONS)).astype(np.int8))


def open_corpus(monkeypatch: pytest.MonkeyPatch, recipe: Recipe, *slides: Slide) -> Corpus:
    """A corpus of slides in memory."""
    by_name = {slide.name: slide for slide in slides}
    monkeypatch.setattr(corpora, "open_slide", lambda path, **_: by_name[path.stem])
    return Corpus([Path(f"{name}.h5ad") for name in by_name], recipe)


def test_all_cells_but_those_of_the_validation_region_are_trained_on(
    buffered: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = open_corpus(monkeypatch, make_recipe(), buffered)
    (each,) = corpus.slides
    is_validation = buffered.split == keys.REGIONS.index(keys.VALIDATION)
    assert np.array_equal(each.tilers[keys.TRAIN].rows, np.flatnonzero(~is_validation))
    assert np.array_equal(each.tilers[keys.VALIDATION].rows, np.flatnonzero(is_validation))
    assert corpus.num_cells == (~is_validation).sum()
    only_train = open_corpus(monkeypatch, make_recipe("train"), buffered)
    assert np.array_equal(only_train.slides[0].tilers[keys.TRAIN].rows, buffered.region(keys.TRAIN))


def test_no_tile_has_cells_of_both_uses(buffered: Slide, monkeypatch: pytest.MonkeyPatch) -> None:
    """Core and halo of every training tile are outside the validation region, and those of validation tiles inside."""
    corpus = open_corpus(monkeypatch, make_recipe(), buffered)
    (each,) = corpus.slides
    validation, seen = set(buffered.region(keys.VALIDATION).tolist()), set()
    for number in range(30):
        core = corpus._sampler.cell_range(number)
        rows = each.tilers[keys.TRAIN].rows[core.start : core.stop]
        tile = each.tilers[keys.TRAIN].tile(rows)
        assert len(tile.rows) > len(rows), "a tile without a halo shows nothing"
        assert not validation & set(tile.rows.tolist())
        seen |= set(rows.tolist())
    assert seen | validation == set(range(buffered.num_cells))
    tile = each.tilers[keys.VALIDATION].tile(np.array(sorted(validation))[:20])
    assert set(tile.rows.tolist()) <= validation


def test_counts_of_validation_cells_have_no_effect_on_training(
    buffered: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = buffered.region(keys.VALIDATION)
    other = np.random.default_rng(0).poisson(2.0, (len(rows), buffered.num_genes)).astype(np.float32)
    one, two = (
        open_corpus(monkeypatch, make_recipe(), slide) for slide in (buffered, replace_counts(buffered, rows, other))
    )
    assert (one.sample_cells(one.slides, 10_000) != two.sample_cells(two.slides, 10_000)).nnz == 0
    outside = sketch_region(buffered, buffered.regions(OUTSIDE), one.vocabulary, keys.TRAIN)
    assert np.array_equal(sketch_corpus(one)[0].counts, outside.counts)
    assert np.array_equal(sketch_corpus(two)[0].counts, outside.counts)
    assert not np.array_equal(sketch_corpus(one)[1].counts, sketch_corpus(two)[1].counts)
    for number in range(30):
        ours, theirs = (corpus.train_example(number) for corpus in (one, two))
        assert torch.equal(ours.target.counts, theirs.target.counts)
        assert torch.equal(ours.tile.expression.values, theirs.tile.expression.values)
        assert torch.equal(ours.tile.neighbour_expression.values, theirs.tile.neighbour_expression.values)


def test_with_validation_slides_all_cells_of_the_others_are_trained_on(
    buffered: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    slides = [replace(buffered, name=name) for name in ("first", "second")]
    corpus = open_corpus(monkeypatch, make_recipe(validation_slides=["second"]), *slides)
    assert [each.slide.name for each in corpus.slides] == ["first"]
    assert len(corpus.slides[0].tilers[keys.TRAIN].rows) == buffered.num_cells
    assert [each.slide.name for each in corpus.validation_slides] == ["second"]
    assert [(each.slide, each.use) for each in sketch_corpus(corpus)] == [("first", "train"), ("second", "validation")]


@pytest.mark.parametrize(
    ("data", "first", "second"),
    [
        ({}, ["train"], ["train"]),
        ({"train_regions": "all"}, OUTSIDE, OUTSIDE),
        ({"validation_slides": ["second"]}, ["train"], []),
        ({"train_regions": "all", "validation_slides": ["second"]}, list(keys.REGIONS), []),
    ],
)
def test_regions_that_a_recipe_trains_on(data: dict[str, Any], first: list[str], second: list[str]) -> None:
    recipe = DataRecipe(**data)
    assert [list(recipe.trained_regions(name)) for name in ("first", "second")] == [first, second]
    inputs = {"prepared/first.h5ad": "aa", "prepared/second.h5ad": "bb"}
    assert trained_regions({"inputs": inputs}, recipe) == dict(zip(inputs, [first, second], strict=True))


def test_regions_of_several_runs_add_up() -> None:
    """A file may have moved between the runs; a file of the same path may have other content."""
    before = {"inputs": {"old/a.h5ad": "aa", "b.h5ad": "b1"}, "trained_regions": {"old/a.h5ad": ["test"]}}
    origin = {"inputs": {"new/a.h5ad": "aa", "b.h5ad": "b2"}, "init": before}
    both = ["train", "test"]
    assert trained_regions(origin, DataRecipe()) == {"old/a.h5ad": both, "new/a.h5ad": both, "b.h5ad": ["train"]}


def make_config(slide: Path, folder: Path, recipe: Recipe, **changes: Any) -> TrainConfig:
    return TrainConfig(recipe, [slide], folder, backend="torch", device="cpu", **changes)


def test_a_resumed_run_equals_an_uninterrupted_one(prepared_few_genes: Path, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    loop.train(make_config(prepared_few_genes, whole, make_recipe()))
    with pytest.MonkeyPatch.context() as patch:
        interrupt_training(patch, 4, signal.SIGTERM)
        with pytest.raises(StopRequested):
            loop.train(make_config(prepared_few_genes, stopped, make_recipe()))
    with pytest.raises(CifmError, match=r"resumed with another \[data\]"):
        loop.train(make_config(prepared_few_genes, stopped, make_recipe("train"), resume=True))
    loop.train(make_config(prepared_few_genes, stopped, make_recipe(), resume=True))
    for name in (list_states(whole)[0].name, "model.safetensors"):
        one, other = (read_tensors(folder / name)[0] for folder in (whole, stopped))
        assert one.keys() == other.keys()
        assert [key for key in one if not torch.equal(one[key], other[key])] == []


def test_the_provenance_keeps_the_regions_of_earlier_runs(prepared_few_genes: Path, tmp_path: Path) -> None:
    """Also over several runs: pretrained on all regions, then twice fine-tuned on the training region."""
    loop.train(make_config(prepared_few_genes, tmp_path / "0", make_recipe()))
    for number in (1, 2):
        init = tmp_path / str(number - 1)
        loop.train(make_config(prepared_few_genes, tmp_path / str(number), make_recipe("train"), init=init))
        (regions,) = load_checkpoint(tmp_path / str(number)).provenance["init"]["trained_regions"].values()
        assert regions == OUTSIDE
