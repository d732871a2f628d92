"""Embed cells: the encoder's output with the neighbours (microenvironment) or without them (cell)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from cifm_cli.data.graph import radius_graph, without_edges
from cifm_cli.data.tiles import Tiler, chunks
from cifm_cli.model.masking import move_graph, to_expression

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from cifm_backends.base import Graph
    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.data.tiles import Tile
    from cifm_cli.inference.engine import Engine

Level = Literal["microenvironment", "cell"]


def encode_cells(
    engine: Engine, slide: Slide, level: Level, rows: Rows | None = None, advance: Callable[[float], None] | None = None
) -> NDArray[np.float32]:
    """Embed cells tile by tile, exactly as the whole slide at once would.

    Args:
        engine: The model.
        slide: The slide, at the model's radius (`Engine.fit_slide`).
        level: `microenvironment`: what the encoder makes of a cell among its neighbours; `cell`: the same with every
            edge between cells removed (paper, section 4).
        rows: Ascending rows to embed, and the only ones that exist; all cells when absent.
        advance: Called with the number of cells done.

    Returns:
        (len(rows), D).

    Raises:
        CifmError: Slide and model share no gene.
    """
    part = np.arange(slide.num_cells) if rows is None else rows
    embeddings = np.zeros((len(part), engine.checkpoint.recipe.model.width), dtype=np.float32)
    for start, features in _encode_tiles(engine, slide, level, part):
        embeddings[start : start + len(features)] = features
        if advance:
            advance(len(features))
    return embeddings


def _encode_tiles(engine: Engine, slide: Slide, level: Level, part: Rows) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Embed one tile after the other; yields where its cells start in `part`, and their features."""
    panel, recipe = engine.panel(slide), engine.checkpoint.recipe
    halo_um = recipe.model.encoder_layers * slide.radius_um if level == "microenvironment" else 0.0
    tiler = Tiler(slide.xy_um, part, halo_um)
    start = 0
    for core in chunks(part, recipe.data.tile_cells):
        tile = tiler.tile(core)
        expression = slide.expression(tile.rows, recipe.data.target_sum)[:, panel.columns]
        ready = to_expression(expression, panel.vocabulary_rows, torch.float32).to(engine.device)
        network = engine.checkpoint.network
        with torch.inference_mode():
            graph = move_graph(_graph(slide, tile, level, self_loops=recipe.model.self_loops), engine.device)
            h, _ = network.encode(engine.backend, graph, network.genes(ready))
        yield start, h.cpu().numpy()[tile.core]
        start += len(core)


def _graph(slide: Slide, tile: Tile, level: Level, *, self_loops: bool) -> Graph:
    if level == "cell":
        return without_edges(len(tile.rows), self_loops=self_loops)
    return radius_graph(tile.xy_um, slide.radius_um, self_loops=self_loops)
