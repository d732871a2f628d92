"""Embed cells with their neighbours (microenvironment) or without neighbours (cell).

An embedding is the output of the encoder, joined with the expression around a cell by the readout of the model. A model of an
earlier version has no readout: its embeddings are the output of the encoder.

Letters: n cells of a tile, c of them in its core, L encoder layers, D features, F features that a readout reads.
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
from cifm_cli.inference.expression_features import expression_features, reach_radii
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
    # (c, F - D) features that follow those of the encoder, for each level; empty without a readout
    described: dict[Level, NDArray[np.float32]]


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
    return _encode_cores(partial(_embed, model), model, slide, levels, own_cores, all_rows)


def encode_features(
    model: LoadedModel, slide: Slide, levels: Sequence[Level], cores: Sequence[Rows], rows: Rows
) -> Iterator[Block]:
    """Compute the features that the readout of a model turns into embeddings, for its fit.

    Args:
        model: The model, with a readout; its projections are not used.
        slide: The slide, at the radius of the model.
        levels: As in `encode_blocks`.
        cores: Ascending rows of consecutive cells.
        rows: Ascending rows of the cells that are read, among them the cores.

    Returns:
        A block of features in place of embeddings for each core.
    """
    return _encode_cores(_join, model, slide, levels, cores, rows)


def _encode_cores(
    finish: Callable[[_EncoderTile, Block], Block],
    model: LoadedModel,
    slide: Slide,
    levels: Sequence[Level],
    cores: Sequence[Rows],
    rows: Rows,
) -> Iterator[Block]:
    """Run the encoder on some cores, and finish each block."""
    tiles = prefetch(_tile_maker(model, slide, levels, rows), cores)
    # Two stages: threads prepare tiles ahead of the network, and the network runs ahead of the caller.
    return prefetch(lambda tile: finish(tile, _encode(model, levels, tile)), tiles)


def core_cells(model: LoadedModel) -> int:
    """Number of core cells of a tile: as in training, or more if the backend stores no edges."""
    recipe = model.checkpoint.recipe
    # The literal forms compute their edges some at a time, whatever the backend.
    if recipe.model.message == "factored" and model.backend.stores_edges:
        return recipe.data.tile_cells
    # 4 bytes of float32
    return min(_MAX_CORE_CELLS, _TILE_BYTES // (4 * _LIVE_FEATURES * recipe.model.width))


def _tile_maker(
    model: LoadedModel, slide: Slide, levels: Sequence[Level], rows: Rows
) -> Callable[[Rows], _EncoderTile]:
    """Return a function that prepares the tile of a core, given by its rows."""
    panel, recipe, parameters = model.panel(slide), model.checkpoint.recipe, model.slide_parameters(slide)
    genes = torch.from_numpy(panel.vocabulary_rows)
    readout, encoder_um = model.checkpoint.readout, recipe.model.encoder_layers * slide.radius_um
    # Without edges no halo is needed.
    among = MICROENVIRONMENT in levels
    tiler = Tiler(slide.xy_um, rows, reach_radii(model) * slide.radius_um if among else 0.0)

    def make_tile(core: Rows) -> _EncoderTile:
        """Read a tile and build its graphs."""
        tile = tiler.tile(core)
        read, layers = tile.core, list[LayerGraph]()
        if among:
            near = np.flatnonzero(tile.distance_um <= encoder_um)
            graph = radius_graph(tile.xy_um[near], slide.radius_um, self_loops=recipe.model.self_loops)
            inner = torch.from_numpy(np.searchsorted(near, tile.core))
            # Only cells from which a message reaches the core are read.
            cells, layers = layer_graphs(graph, inner, recipe.model.encoder_layers)
            read = near[cells.numpy()]
        # The readout reads the whole tile.
        in_tile = np.arange(len(tile.rows)) if readout else read
        matrix = slide.expression(tile.rows[in_tile], recipe.data.target_sum)[:, panel.columns]
        described: dict[Level, NDArray[np.float32]] = {}
        if readout:
            for level in levels:
                alone = level != MICROENVIRONMENT
                described[level] = expression_features(model, readout, slide, tile, matrix, alone=alone)
            matrix = matrix[read]
        expression = to_expression(matrix, panel.vocabulary_rows, torch.float32)
        in_read = torch.from_numpy(np.searchsorted(read, tile.core))
        return _EncoderTile(core, in_read, expression, genes, parameters, layers, described)

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


def _join(tile: _EncoderTile, block: Block) -> Block:
    """Add the features that follow those of the encoder."""
    joined = {level: np.concatenate([block.features[level], tile.described[level]], axis=1) for level in block.features}
    return Block(block.rows, joined)


def _embed(model: LoadedModel, tile: _EncoderTile, block: Block) -> Block:
    """Turn the features of the encoder into embeddings; they are the embeddings of a model without a readout."""
    readout = model.checkpoint.readout
    if not readout:
        return block
    joined = _join(tile, block).features
    embed = {level: readout.embed if level == MICROENVIRONMENT else readout.embed_cell for level in joined}
    return Block(block.rows, {level: embed[level](features) for level, features in joined.items()})


def _with_neighbours(model: LoadedModel, tile: _EncoderTile, h: Tensor) -> Tensor:
    """(c, D) microenvironment embeddings of the core."""
    layers = [layer.to(model.device) for layer in tile.layers]
    return model.checkpoint.network.first.encode(model.backend, layers, h, moves=False)[0]


def _without_neighbours(model: LoadedModel, tile: _EncoderTile, h: Tensor) -> Tensor:
    """(c, D) cell embeddings of the core."""
    recipe = model.checkpoint.recipe.model
    graph = move_graph(edgeless_graph(len(tile.core), self_loops=recipe.self_loops), model.device)
    layers = full_layer_graphs(graph, recipe.encoder_layers)
    h = h[tile.core.to(model.device)]
    return model.checkpoint.network.first.encode(model.backend, layers, h, moves=False)[0]
