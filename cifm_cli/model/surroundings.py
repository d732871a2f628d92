"""What the visible cells around the queries of a tile tell without a network: the same for all members of an ensemble.

Letters: M query cells, S scales, T = S + 1 terms that are blended, K states, P genes of the panel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from cifm_cli.model.linear_correction import Corrections
from cifm_cli.model.smoother import Terms, runs_compiled, smoother_terms
from cifm_cli.model.states import assign_states, state_frequencies

if TYPE_CHECKING:
    from torch import Tensor

    from cifm_cli.model.linear_correction import LinearCorrection
    from cifm_cli.model.masking import MaskedTile
    from cifm_cli.model.slide_parameters import SlideParameters


@dataclass(frozen=True)
class Surroundings:
    """Input of a `ResidualHead` that depends on no trained weight, so that it is computed once per tile."""

    terms: Terms  # estimates that the smoother blends
    frequencies: Tensor  # (M, T, K) frequencies of the cell states
    # (M, T, P) logarithms of the compositions among the terms, and (M, T, K) of the frequencies
    logarithms: tuple[Tensor, Tensor]
    differences: Tensor  # (M, S, P) means at every scale minus the mean of the slide
    amount: Tensor  # (M, 2 S) log(1 + n) of the numbers of cells and of counts at every scale
    linear: Corrections | None  # linear corrections of the smoother; None for a model without

    def to(self, device: torch.device) -> Surroundings:
        """Copy to a device; returns itself if it is there already."""
        if self.amount.device == device:
            return self
        return Surroundings(
            terms=Terms(*(term.to(device) for term in self.terms)),
            frequencies=self.frequencies.to(device),
            logarithms=(self.logarithms[0].to(device), self.logarithms[1].to(device)),
            differences=self.differences.to(device),
            amount=self.amount.to(device),
            linear=Corrections(*(correction.to(device) for correction in self.linear)) if self.linear else None,
        )


def describe_surroundings(tile: MaskedTile, linear: LinearCorrection | None) -> Surroundings:
    """Describe the visible cells around the queries of a tile.

    Args:
        tile: A masked tile for the objective `residual`.
        linear: Linear correction of the smoother; None for none.

    Returns:
        The input of a `ResidualHead`.

    Raises:
        ValueError: The tile was made for another objective.
    """
    neighbours, expression, slide = tile.neighbours, tile.neighbour_expression, slide_of(tile)
    if neighbours is None or expression is None:
        raise ValueError("a tile made for another objective has no sums over neighbours")
    terms = smoother_terms(neighbours, slide)
    assigned = assign_states(expression, slide.state_profiles)
    frequencies = state_frequencies(neighbours, assigned, slide.state_frequency)
    # How far a mean is from that of the slide tells how certain it is. The last term is the mean of the slide itself.
    differences = terms.means[:, :-1] - slide.mean
    return Surroundings(
        terms=terms,
        frequencies=frequencies,
        # Both are positive, because they are shrunk towards positive profiles.
        logarithms=(_logarithm(terms.compositions), _logarithm(frequencies)),
        differences=differences,
        # The logarithm, as numbers of counts range over orders of magnitude.
        amount=torch.log1p(torch.cat([neighbours.mass, neighbours.counts.sum(-1)], dim=1)),
        linear=linear(differences, tile.genes) if linear else None,
    )


def _logarithm(values: Tensor) -> Tensor:
    """Natural logarithm; that of NumPy takes less than half of the time."""
    return torch.from_numpy(np.log(values.numpy())) if runs_compiled(values) else values.log()


def slide_of(tile: MaskedTile) -> SlideParameters:
    """The parameters of the slide of a tile.

    Raises:
        ValueError: The tile was made for another objective.
    """
    if tile.slide is None:
        raise ValueError("a tile made for another objective has no parameters of its slide")
    return tile.slide
