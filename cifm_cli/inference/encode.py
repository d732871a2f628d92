"""Embed cells: the encoder's output with the neighbours (microenvironment) or without them (cell).

Letters: n cells of a tile, c of its core, L encoder layers, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from cifm_cli.data.graph import LayerGraph, edgeless_graph, full_layer_graphs, layer_graphs, move_graph, radius_graph
from cifm_cli.data.prefetch import prefetch
from cifm_cli.data.tiles import Tiler, chunks
from cifm_cli.model.masking import to_expression
from cifm_cli.model.precision import computing_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.model.masking import Expression

Level = Literal["microenvironment", "cell"]
MICROENVIRONMENT: Level = "microenvironment"

_MOST_CELLS = 16_384  # of a core; beyond that a halo is small already
_TILE_BYTES = 1 << 29  # that the features of a tile may take
_LIVE_FEATURES = 8  # times D numbers that a factored layer holds of a cell
_EDGES_UNSTORED = ("fused",)  # backends that hold nothing of size E x D: their tiles may be larger than in training


@dataclass(frozen=True)
class Block:
    """Embeddings of consecutive cells.

    Args:
        rows: (c,) rows of the slide.
        features: Level to (c, D) float32.
    """

    rows: Rows
    features: dict[Level, NDArray[np.float32]]


@dataclass(frozen=True)
class _ReadyTile:
    """What the network reads.

    Args:
        rows: (c,) rows of the core.
        core: (c,) positions of the core among the n cells.
        expression: Of the n cells that the core depends on.
        shells: One for each of L layers; none where no microenvironment is asked for.
    """

    rows: Rows
    core: Tensor
    expression: Expression
    shells: list[LayerGraph]


def encode_cells(
    engine: LoadedModel,
    slide: Slide,
    level: Level,
    rows: Rows | None = None,
    advance: Callable[[float], None] | None = None,
) -> NDArray[np.float32]:
    """Embed cells at one level, into memory.

    Args:
        engine: The model.
        slide: The slide, at the model's radius (`LoadedModel.fit_slide`).
        level: As in `encode_blocks`.
        rows: Ascending rows to embed, and the only ones that exist; all cells when absent.
        advance: Called with the number of cells done.

    Returns:
        (len(rows), D).

    Raises:
        CifmError: Slide and model share no gene.
    """
    found = np.zeros((slide.num_cells if rows is None else len(rows), engine.checkpoint.recipe.model.width), np.float32)
    done = 0
    for block in encode_blocks(engine, slide, [level], rows):
        found[done : done + len(block.rows)] = block.features[level]
        done += len(block.rows)
        if advance:
            advance(len(block.rows))
    return found


def encode_blocks(
    engine: LoadedModel,
    slide: Slide,
    levels: Sequence[Level],
    rows: Rows | None = None,
    share: tuple[int, int] = (0, 1),
) -> Iterator[Block]:
    """Embed cells tile by tile, exactly as the whole slide at once would.

    Args:
        engine: The model.
        slide: The slide, at the model's radius (`LoadedModel.fit_slide`).
        levels: `microenvironment`: what the encoder makes of a cell among its neighbours; `cell`: the same with every
            edge between cells removed (paper, section 4).
        rows: Ascending rows to embed, and the only ones that exist; all cells when absent.
        share: Where several processes embed a slide, the number of this one and how many there are; its tiles alone are
            embedded, as another number of processes would embed them.

    Returns:
        A block for each tile, in the order of `rows`. While the caller has one, the network works on the next, and the
        tile after that is made.

    Raises:
        CifmError: Slide and model share no gene.
    """
    part = np.arange(slide.num_cells) if rows is None else rows
    cores, (number, of) = list(chunks(part, core_cells(engine))), share
    mine = cores[len(cores) * number // of : len(cores) * (number + 1) // of]
    tiles = prefetch(_maker(engine, slide, levels, part), mine)
    return prefetch(partial(_encode, engine, levels), tiles)


def core_cells(engine: LoadedModel) -> int:
    """Core cells of a tile: as in training, or more where the backend's memory does not grow with the edges."""
    recipe = engine.checkpoint.recipe
    if recipe.model.message != "factored" or engine.backend.name not in _EDGES_UNSTORED:
        return recipe.data.tile_cells
    return min(_MOST_CELLS, _TILE_BYTES // (4 * _LIVE_FEATURES * recipe.model.width))


def _maker(engine: LoadedModel, slide: Slide, levels: Sequence[Level], part: Rows) -> Callable[[Rows], _ReadyTile]:
    """What makes a tile of its core's rows."""
    panel, recipe = engine.panel(slide), engine.checkpoint.recipe
    reach_um = recipe.model.encoder_layers * slide.radius_um if MICROENVIRONMENT in levels else 0.0
    tiler = Tiler(slide.xy_um, part, reach_um)

    def make(core: Rows) -> _ReadyTile:
        tile = tiler.tile(core)
        read, layers = tile.core, list[LayerGraph]()
        if MICROENVIRONMENT in levels:
            graph = radius_graph(tile.xy_um, slide.radius_um, self_loops=recipe.model.self_loops)
            cells, layers = layer_graphs(graph, torch.from_numpy(tile.core), recipe.model.encoder_layers)
            read = cells.numpy()
        expression = slide.expression(tile.rows[read], recipe.data.target_sum)[:, panel.columns]
        ready = to_expression(expression, panel.vocabulary_rows, torch.float32)
        return _ReadyTile(core, torch.from_numpy(np.searchsorted(read, tile.core)), ready, layers)

    return make


@torch.inference_mode()
def _encode(engine: LoadedModel, levels: Sequence[Level], tile: _ReadyTile) -> Block:
    """Run the encoder at every level; the genes are read once."""
    genes = engine.checkpoint.network.genes(tile.expression.to(engine.device))
    found: dict[Level, NDArray[np.float32]] = {}
    for level in levels:
        with computing_in(engine.precision, engine.device):
            h = _among(engine, tile, genes) if level == MICROENVIRONMENT else _alone(engine, tile, genes)
        found[level] = h.cpu().numpy()
    return Block(tile.rows, found)


def _among(engine: LoadedModel, tile: _ReadyTile, h: Tensor) -> Tensor:
    """Microenvironment embeddings of the core."""
    layers = [shell.to(engine.device) for shell in tile.shells]
    return engine.checkpoint.network.encode(engine.backend, layers, h)[0]


def _alone(engine: LoadedModel, tile: _ReadyTile, h: Tensor) -> Tensor:
    """Cell embeddings of the core."""
    model = engine.checkpoint.recipe.model
    graph = move_graph(edgeless_graph(len(tile.core), self_loops=model.self_loops), engine.device)
    layers = full_layer_graphs(graph, model.encoder_layers)
    return engine.checkpoint.network.encode(engine.backend, layers, h[tile.core.to(engine.device)])[0]
