"""Inference tile by tile is inference on the whole slide, in float32, whatever the size of a tile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import cifm_backends
from cifm_cli.data.slide import MemoryCounts, Slide, open_slide
from cifm_cli.inference.encode import encode_cells
from cifm_cli.inference.engine import Engine
from cifm_cli.inference.predict import add_places, predict_cells
from cifm_cli.model.checkpoint import Checkpoint
from cifm_cli.model.network import Network
from cifm_cli.provenance import numpy_generator, seeded_torch
from cifm_cli.recipe import parse

FORMS = {
    "factored": {"model": {"width": 16}},
    "literal": {
        "model": {"message": "mlp", "width": 16, "residual": False, "self_loops": True},
        "objective": {"name": "balanced_mse"},
    },
}


def make_engine(slide: Slide, form: str, tile_cells: int) -> Engine:
    recipe = parse({**FORMS[form], "data": {"tile_cells": tile_cells}}, form)
    with seeded_torch(0, "network"):
        network = Network(slide.num_genes, recipe)
        for weight in network.parameters():
            weight.data.add_(0.05 * torch.randn_like(weight))
    checkpoint = Checkpoint(network.eval(), recipe, slide.gene_ids, {}, Path())
    return Engine(checkpoint, cifm_backends.select("torch", "cpu"), torch.device("cpu"))


def relative(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first - second).max() / np.abs(second).max())


@pytest.mark.parametrize("form", FORMS)
def test_tiles_are_the_whole_in_float32(prepared_synthetic: Path, form: str) -> None:
    slide = open_slide(prepared_synthetic)
    everything = np.arange(slide.num_cells)
    hidden = np.sort(numpy_generator(0, "hidden").choice(everything, 60, replace=False))
    whole, tiled = make_engine(slide, form, 100_000), make_engine(slide, form, 50)
    for level in ("microenvironment", "cell"):
        apart = relative(encode_cells(tiled, slide, level), encode_cells(whole, slide, level))
        assert apart < 1e-6, f"{level}: relative error {apart:.2e}"
    expected, found = (predict_cells(engine, slide, everything, hidden) for engine in (whole, tiled))
    apart = max(relative(found.mean, expected.mean), relative(found.expressed, expected.expressed))
    assert apart < 1e-6, f"prediction: relative error {apart:.2e}"


def test_queries_come_back_in_the_order_asked_for(prepared_synthetic: Path) -> None:
    slide = open_slide(prepared_synthetic)
    engine = make_engine(slide, "factored", 50)
    queries = np.array([40, 3, 500, 4])
    shuffled = predict_cells(engine, slide, np.arange(slide.num_cells), queries)
    ordered = predict_cells(engine, slide, np.arange(slide.num_cells), np.sort(queries))
    assert np.array_equal(shuffled.mean, ordered.mean[np.argsort(np.argsort(queries))])


def test_hidden_counts_never_enter(prepared_synthetic: Path) -> None:
    """The leak canary: other counts in the hidden cells, the same prediction bit for bit."""
    slide = open_slide(prepared_synthetic)
    engine, everything = make_engine(slide, "factored", 100), np.arange(slide.num_cells)
    hidden = np.arange(30, 300, 7)
    counts = slide.source.matrix.tolil()
    counts[hidden] = counts[numpy_generator(0).permutation(hidden)]
    total = slide.total_counts.copy()
    total[hidden] = 1e6
    other = replace(slide, source=MemoryCounts(counts.tocsr()), total_counts=total)
    first, second = (predict_cells(engine, tissue, everything, hidden) for tissue in (slide, other))
    assert np.array_equal(first.mean, second.mean)
    assert np.array_equal(first.expressed, second.expressed)


def test_a_free_place_is_a_hidden_cell_there(prepared_synthetic: Path) -> None:
    slide = open_slide(prepared_synthetic)
    engine, cell = make_engine(slide, "factored", 100), np.array([123])
    others = np.setdiff1d(np.arange(slide.num_cells), cell)
    larger, places = add_places(slide, slide.xy_um[cell])
    hidden = predict_cells(engine, slide, others, cell)
    free = predict_cells(engine, larger, others, places)
    assert relative(free.mean, hidden.mean) < 1e-6
