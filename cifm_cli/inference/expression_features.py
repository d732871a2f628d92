"""Features of cells that a readout joins with those of the encoder: the code of a cell, and means over the cells around it.

Letters: n cells of a tile, c of them in its core, P genes that slide and model share, C components of a code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.inference.neighbourhood.code_means import mean_codes

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.data.slide import Slide
    from cifm_cli.data.tiles import Tile
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.model.readout import Readout

    Values = NDArray[np.float32]


def reach_radii(model: LoadedModel) -> float:
    """How far from a cell other cells affect its embedding, in radii of the graph: the reach of encoder and readout."""
    readout, encoder_radii = model.checkpoint.readout, float(model.checkpoint.recipe.model.encoder_layers)
    return max(encoder_radii, float(readout.radii[-1])) if readout else encoder_radii


def expression_features(
    model: LoadedModel, readout: Readout, slide: Slide, tile: Tile, expression: csr_matrix, *, alone: bool
) -> Values:
    """Compute the features of the core of a tile that follow the D features of the encoder.

    Args:
        model: The model; if it is adapted, expression is centred on the mean of the slide.
        readout: Its readout.
        slide: The slide, at the radius of the model.
        tile: Core, and a halo of `reach_radii`.
        expression: (n, P) log-normalised expression of the cells of the tile.
        alone: Whether only the core cells themselves are described.

    Returns:
        (c, C) codes if `alone`, else (c, C + R (C + S)): the codes and what is around the cells.
    """
    genes, adaptation = model.panel(slide).vocabulary_rows, model.adaptation
    mean = adaptation.parameters.mean.numpy(force=True) if adaptation else None
    # By value, as for the encoder: a matrix may store zeros.
    has_counts = np.asarray(expression.sum(axis=1)).ravel() > 0
    codes = readout.encode(expression, genes, mean, has_counts)
    if alone:
        return codes[tile.core]
    states = np.where(has_counts[:, None], readout.nearest_states(codes), -1)
    radii_um = readout.radii.astype(np.float64) * slide.radius_um
    means, found = mean_codes(tile.xy_um, codes, states, tile.core, radii_um, readout.num_states)
    around = means.reshape(len(means), -1)
    # A cell without others around it is neither one kind of microenvironment nor another.
    around[~found] = readout.centre[-around.shape[1] :]
    return np.concatenate([codes[tile.core], around], axis=1)
