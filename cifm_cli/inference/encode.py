"""Embed cells: the output of the encoder with neighbours (microenvironment) or without neighbours (cell).

Letters: n cells of a tile, c of them in its core, L encoder layers, D features.
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
    from cifm_cli.model.slide_parameters import SlideParameters

Level = Literal["microenvironment", "cell"]
MICROENVIRONMENT: Level = "microenvironment"

_MAX_CORE_CELLS = 16_384  # the halo is small beside such a core, so larger ones save little
_TILE_BYTES = 1 << 29  # memory limit of the features of a tile
_LIVE_FEATURES = 8  # multiples of D numbers that a factored layer holds for a cell


@dataclass(frozen=True)
class Block:
    """Embeddings of consecutive cells."""

    rows: Rows  # (c,) rows of the slide
    features: dict[Level, NDArray[np.float32]]  # (c, D) float32 features for each level


@dataclass(frozen=True)
class _EncoderTile:
    """Input of the encoder for one tile."""

    rows: Rows  # (c,) rows of the core
    core: Tensor  # (c,) positions of the core among the n cells
    expression: Expression  # expression of the n cells that the embeddings of the core depend on
    genes: Tensor  # (P,) vocabulary rows of the panel
    slide: SlideParameters | None  # parameters of the slide
    layers: list[LayerGraph]  # graph of each of the L layers; empty without the level `microenvironment`


def encode_cells(
    model: LoadedModel,
    slide: Slide,
    level: Level,
    rows: Rows | None = None,
    advance: Callable[[float], None] | None = None,
) -> NDArray[np.float32]:
    """Embed cells at one level, into memory.

    Args:
        model: The model.
        slide: The slide, at the radius of the model (`LoadedModel.fit_slide`).
        level: As in `encode_blocks`.
        rows: Ascending rows to embed; the other cells are ignored. None for all cells.
        advance: Called after each tile with the number of cells in it.

    Returns:
        (len(rows), D) embeddings.

    Raises:
        CifmError: Slide and model share no gene.
    """
    num_rows = slide.num_cells if rows is None else len(rows)
    # Allocated once: concatenating blocks would hold all of them twice.
    embeddings = np.zeros((num_rows, model.checkpoint.recipe.model.width), np.float32)
    done = 0
    for block in encode_blocks(model, slide, [level], rows):
        embeddings[done : done + len(block.rows)] = block.features[level]
        done += len(block.rows)
        if advance:
            advance(len(block.rows))
    return embeddings


def encode_blocks(
    model: LoadedModel,
    slide: Slide,
    levels: Sequence[Level],
    rows: Rows | None = None,
    tile_slice: tuple[int, int] = (0, 1),
) -> Iterator[Block]:
    """Embed cells tile by tile. The result is that of the whole slide at once.

    Args:
        model: The model.
        slide: The slide, at the radius of the model (`LoadedModel.fit_slide`).
        levels: `microenvironment` is the output of the encoder for a cell among its neighbours. `cell` is the same with
            every edge between cells removed (paper, section 4).
        rows: Ascending rows to embed; the other cells are ignored. None for all cells.
        tile_slice: Number of a slice of the tiles, and number of slices, where several processes embed one slide. Only
            the tiles of the slice are embedded. The tiles do not depend on the number of slices.

    Returns:
        A block for each tile, in the order of `rows`. While the caller handles a block, the network runs on the next
        tile, and the tile after that is prepared.

    Raises:
        CifmError: Slide and model share no gene.
    """
    all_rows = np.arange(slide.num_cells) if rows is None else rows
    cores, (number, num_slices) = list(chunks(all_rows, core_cells(model))), tile_slice
    # Consecutive tiles, so that the blocks of all slices are in the order of the rows one after the other.
    own_cores = cores[len(cores) * number // num_slices : len(cores) * (number + 1) // num_slices]
    tiles = prefetch(_tile_maker(model, slide, levels, all_rows), own_cores)
    # Two stages: threads prepare tiles ahead of the network, and the network runs ahead of the caller.
    return prefetch(partial(_encode, model, levels), tiles)


def core_cells(model: LoadedModel) -> int:
    """Number of core cells of a tile: as in training, or more if the backend stores no edges."""
    recipe = model.checkpoint.recipe
    # The literal form has an MLP on every edge, whatever the backend: its tiles must fit into memory as in training.
    if recipe.model.message != "factored" or model.backend.stores_edges:
        return recipe.data.tile_cells
    # 4 bytes of float32
    return min(_MAX_CORE_CELLS, _TILE_BYTES // (4 * _LIVE_FEATURES * recipe.model.width))


def _tile_maker(
    model: LoadedModel, slide: Slide, levels: Sequence[Level], rows: Rows
) -> Callable[[Rows], _EncoderTile]:
    """Return a function that prepares the tile of a core, given by its rows."""
    panel, recipe, parameters = model.panel(slide), model.checkpoint.recipe, model.slide_parameters(slide)
    genes = torch.from_numpy(panel.vocabulary_rows)
    # Without edges no halo is needed.
    reach_um = recipe.model.encoder_layers * slide.radius_um if MICROENVIRONMENT in levels else 0.0
    tiler = Tiler(slide.xy_um, rows, reach_um)

    def make_tile(core: Rows) -> _EncoderTile:
        """Read a tile and build its graphs."""
        tile = tiler.tile(core)
        read, layers = tile.core, list[LayerGraph]()
        if MICROENVIRONMENT in levels:
            graph = radius_graph(tile.xy_um, slide.radius_um, self_loops=recipe.model.self_loops)
            # Only cells from which a message reaches the core are read.
            cells, layers = layer_graphs(graph, torch.from_numpy(tile.core), recipe.model.encoder_layers)
            read = cells.numpy()
        matrix = slide.expression(tile.rows[read], recipe.data.target_sum)[:, panel.columns]
        expression = to_expression(matrix, panel.vocabulary_rows, torch.float32)
        in_read = torch.from_numpy(np.searchsorted(read, tile.core))
        return _EncoderTile(core, in_read, expression, genes, parameters, layers)

    return make_tile


@torch.inference_mode()
def _encode(model: LoadedModel, levels: Sequence[Level], tile: _EncoderTile) -> Block:
    """Run the encoder at every level; the gene input is computed once."""
    slide = tile.slide.to(model.device) if tile.slide else None
    h = model.checkpoint.network.first.embed_expression(
        tile.expression.to(model.device), tile.genes.to(model.device), slide
    )
    features: dict[Level, NDArray[np.float32]] = {}
    for level in levels:
        with computing_in(model.precision, model.device):
            encode = _with_neighbours if level == MICROENVIRONMENT else _without_neighbours
            embeddings = encode(model, tile, h)
        features[level] = embeddings.cpu().numpy()
    return Block(tile.rows, features)


def _with_neighbours(model: LoadedModel, tile: _EncoderTile, h: Tensor) -> Tensor:
    """(c, D) microenvironment embeddings of the core."""
    layers = [layer.to(model.device) for layer in tile.layers]
    return model.checkpoint.network.first.encode(model.backend, layers, h)[0]


def _without_neighbours(model: LoadedModel, tile: _EncoderTile, h: Tensor) -> Tensor:
    """(c, D) cell embeddings of the core."""
    recipe = model.checkpoint.recipe.model
    graph = move_graph(edgeless_graph(len(tile.core), self_loops=recipe.self_loops), model.device)
    layers = full_layer_graphs(graph, recipe.encoder_layers)
    return model.checkpoint.network.first.encode(model.backend, layers, h[tile.core.to(model.device)])[0]
