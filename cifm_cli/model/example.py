"""Examples: masked tiles together with the expression that was hidden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from cifm_cli.data.slide import log_normalise
from cifm_cli.model.masking import Mask, MaskedTile, mask_tile
from cifm_cli.model.objective import Targets

if TYPE_CHECKING:
    from cifm_cli.data.slide import Slide
    from cifm_cli.data.tiles import Tile
    from cifm_cli.model.gene_profiles import GeneTotals
    from cifm_cli.model.slide_parameters import SlideParameters
    from cifm_cli.model.surroundings import Surroundings
    from cifm_cli.model.vocabulary import Panel
    from cifm_cli.recipe import Recipe


@dataclass(frozen=True)
class Example:
    """A masked tile and the expression that was hidden."""

    tile: MaskedTile  # input of the network
    target: Targets  # expression and counts of the masked cells
    surroundings: Surroundings | None = None  # from `Ensemble.describe`, where it was computed in advance

    def to(self, device: torch.device) -> Example:
        """Copy to a device; itself when it is there."""
        surroundings = self.surroundings.to(device) if self.surroundings else None
        return Example(self.tile.to(device), self.target.to(device), surroundings)


def make_example(
    slide: Slide,
    tile: Tile,
    mask: Mask,
    panel: Panel,
    recipe: Recipe,
    parameters: SlideParameters | None,
    totals: GeneTotals | None = None,
) -> Example:
    """Mask cells of the core of a tile, and read their expression.

    Args:
        slide: The slide of the tile.
        tile: Core and halo.
        mask: M masked cells, all in the core.
        panel: Genes of the slide that the model knows.
        recipe: A whole recipe.
        parameters: Parameters of the slide; None for an objective without.
        totals: Sums over the cells that its profiles are means of, if the masked cells are among them. They are taken
            out of the profiles then: on a small slide, its mean would tell something of the hidden cells.

    Returns:
        The example.
    """
    # `mask_tile` never reads the masked cells, so their expression is read here.
    rows = tile.rows[mask.cells]
    hidden = panel.select(slide.counts(rows))
    counts = torch.from_numpy(hidden.toarray())
    values = torch.from_numpy(log_normalise(hidden, slide.total_counts[rows], recipe.data.target_sum).toarray())
    if parameters and totals:
        num_cells = int(np.count_nonzero(slide.total_counts[rows]))
        parameters = parameters.with_profiles(totals.without(values, counts, num_cells).profiles())
    return Example(mask_tile(slide, tile, mask, panel, recipe, parameters), Targets(values, counts))
