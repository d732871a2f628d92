"""Inference tile by tile gives the results of the whole slide, in float32, for any size of the tiles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import load_random_model

from cifm_cli.data.counts_source import MemoryCounts
from cifm_cli.data.slide import Slide
from cifm_cli.inference import encode
from cifm_cli.inference.encode import encode_cells
from cifm_cli.inference.loaded_model import LoadedModel
from cifm_cli.inference.predict import add_locations, predict_cells
from cifm_cli.inference.predict_slide import predict_blocks
from cifm_cli.provenance import numpy_generator

FORMS = {
    "factored": {"model": {"width": 16}},
    "deep": {"model": {"width": 16, "encoder_layers": 4, "decoder_layers": 1}},
    "flat": {"model": {"width": 16, "encoder_layers": 1, "decoder_layers": 1, "self_loops": True}},
    "literal": {
        "model": {"message": "mlp", "width": 16, "residual": False, "self_loops": True},
        "objective": {"name": "balanced_mse"},
    },
    "release": {
        "model": {"message": "release", "width": 16, "mlp_layers": 4, "residual": False, "self_loops": True},
        "objective": {"name": "balanced_mse"},
    },
}


def make_model(slide: Slide, form: str, tile_cells: int, backend: str = "torch") -> LoadedModel:
    return load_random_model(slide, {**FORMS[form], "data": {"tile_cells": tile_cells}}, backend)


def relative(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first - second).max() / np.abs(second).max())


@pytest.mark.parametrize("form", FORMS)
def test_tiles_give_the_results_of_the_whole_slide(slide: Slide, form: str) -> None:
    everything = np.arange(slide.num_cells)
    hidden = np.sort(numpy_generator(0, "hidden").choice(everything, 60, replace=False))
    whole, tiled = make_model(slide, form, 100_000), make_model(slide, form, 50)
    for level in ("microenvironment", "cell"):
        apart = relative(encode_cells(tiled, slide, level), encode_cells(whole, slide, level))
        assert apart < 1e-6, f"{level}: relative error {apart:.2e}"
    expected, found = (predict_cells(model, slide, everything, hidden) for model in (whole, tiled))
    apart = max(relative(found.mean, expected.mean), relative(found.expressed, expected.expressed))
    assert apart < 1e-6, f"prediction: relative error {apart:.2e}"


@pytest.mark.parametrize("form", ["deep", "flat", "literal", "release"])
def test_the_tiles_of_a_backend_without_stored_edges_give_the_results_of_the_whole_slide(
    slide: Slide, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(slide, form, 16, "fused")
    whole = encode_cells(model, slide, "microenvironment")
    assert encode.core_cells(model) > slide.num_cells
    monkeypatch.setattr(encode, "_MAX_CORE_CELLS", 50)
    apart = relative(encode_cells(model, slide, "microenvironment"), whole)
    assert apart < 1e-6, f"relative error {apart:.2e}"


def test_each_layer_runs_on_the_cells_that_reach_the_core(slide: Slide, monkeypatch: pytest.MonkeyPatch) -> None:
    model, core = make_model(slide, "deep", 50), np.arange(200, 250)
    monkeypatch.setattr(encode, "chunks", lambda *_: [core])
    sizes = []
    for layer in model.checkpoint.network.first.encoder:
        layer.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[2])))
    list(encode.encode_blocks(model, slide, ["microenvironment"]))
    joined = np.linalg.norm(slide.xy_um[:, None] - slide.xy_um, axis=-1) <= slide.radius_um
    reached, hops = np.isin(np.arange(slide.num_cells), core), []
    for _ in range(4):
        reached = joined[:, reached].any(axis=1)
        hops.append(reached.sum())
    assert sizes == hops[::-1]


def test_two_levels_together_equal_each_level_alone(slide: Slide) -> None:
    model, rows = make_model(slide, "factored", 60), np.arange(100, 400)
    blocks = list(encode.encode_blocks(model, slide, ["microenvironment", "cell"], rows))
    assert np.array_equal(np.concatenate([block.rows for block in blocks]), rows)
    for level in ("microenvironment", "cell"):
        together = np.concatenate([block.features[level] for block in blocks])
        assert relative(together, encode_cells(model, slide, level, rows)) < 1e-6


def test_blocks_equal_rounds_over_the_whole_slide(slide: Slide) -> None:
    """Predicting tile by tile, all rounds of a tile at once, gives the results of predicting round by round."""
    model = make_model(slide, "factored", 90)
    blocks = list(predict_blocks(model, slide, seed=3))
    assert np.array_equal(np.concatenate([rows for rows, _ in blocks]), np.arange(slide.num_cells))
    mean, expressed = (np.concatenate([getattr(found, name) for _, found in blocks]) for name in ("mean", "expressed"))
    order = numpy_generator(3, "infer cells").permutation(slide.num_cells)
    for hidden in np.array_split(order, 20)[::7]:
        expected = predict_cells(model, slide, np.arange(slide.num_cells), hidden)
        assert relative(mean[hidden], expected.mean) < 1e-6
        assert relative(expressed[hidden], expected.expressed) < 1e-6


def test_predictions_are_in_the_order_of_the_queries(slide: Slide) -> None:
    model = make_model(slide, "factored", 50)
    queries = np.array([40, 3, 500, 4])
    shuffled = predict_cells(model, slide, np.arange(slide.num_cells), queries)
    ordered = predict_cells(model, slide, np.arange(slide.num_cells), np.sort(queries))
    assert np.array_equal(shuffled.mean, ordered.mean[np.argsort(np.argsort(queries))])


def test_hidden_counts_have_no_effect(slide: Slide) -> None:
    """Other counts in the hidden cells give the same prediction, bit for bit."""
    model, everything = make_model(slide, "factored", 100), np.arange(slide.num_cells)
    hidden = np.arange(30, 300, 7)
    counts = slide.source.matrix.tolil()
    counts[hidden] = counts[numpy_generator(0).permutation(hidden)]
    total = slide.total_counts.copy()
    total[hidden] = 1e6
    other = replace(slide, source=MemoryCounts(counts.tocsr()), total_counts=total)
    first, second = (predict_cells(model, tissue, everything, hidden) for tissue in (slide, other))
    assert np.array_equal(first.mean, second.mean)
    assert np.array_equal(first.expressed, second.expressed)


def test_a_free_location_is_inferred_like_a_hidden_cell_there(slide: Slide) -> None:
    model, cell = make_model(slide, "factored", 100), np.array([123])
    others = np.setdiff1d(np.arange(slide.num_cells), cell)
    larger, rows = add_locations(slide, slide.xy_um[cell])
    hidden = predict_cells(model, slide, others, cell)
    free = predict_cells(model, larger, others, rows)
    assert relative(free.mean, hidden.mean) < 1e-6
