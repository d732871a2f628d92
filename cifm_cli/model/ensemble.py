"""The model of a checkpoint: one network or several, whose predictions are averaged.

Letters: M inferred cells, P genes of the panel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from cifm_cli.model.linear_correction import LINEAR, LinearCorrection
from cifm_cli.model.network import Network
from cifm_cli.model.output import mean_output
from cifm_cli.model.slide_parameters import POOLED, PooledParameters
from cifm_cli.model.surroundings import describe_surroundings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cifm_backends.base import Backend
    from cifm_cli.model.masking import MaskedTile
    from cifm_cli.model.output import Output
    from cifm_cli.model.surroundings import Surroundings
    from cifm_cli.recipe import Recipe

_SHARED = (POOLED, LINEAR)  # prefixes of what belongs to no member
_FIRST, _MEMBERS, _OTHERS = "members.0.", "members.", "others."


class Ensemble(nn.Module):
    """Networks of one recipe that start from different weights; there is one unless `model.members` is larger.

    Args:
        num_genes: G, size of the vocabulary.
        recipe: A whole recipe.
    """

    def __init__(self, num_genes: int, recipe: Recipe) -> None:
        super().__init__()
        networks = nn.ModuleList(Network(num_genes, recipe) for _ in range(recipe.model.members))
        self.members = cast("Sequence[Network]", networks)  # torch has no typed list of modules
        # parameters of the training slides together, for slides that the model is not adapted to; the head of the paper
        # has none
        self.pooled = PooledParameters(num_genes, recipe.objective) if recipe.objective.name == "residual" else None
        # shared by the members; the head of the paper has none
        uses_linear = recipe.objective.name == "residual" and recipe.objective.linear_rank > 0
        self.linear = LinearCorrection(num_genes, recipe.objective) if uses_linear else None

    def forward(self, backend: Backend, tile: MaskedTile) -> Output:
        """Infer the masked cells of a tile from its visible ones.

        Args:
            backend: Runs the edge part of every layer.
            tile: A masked tile on the device of the ensemble.

        Returns:
            Mean prediction of the members for M cells and P genes, in the precision of the weights.
        """
        surroundings = self.describe(tile)
        return mean_output([member(backend, tile, surroundings) for member in self.members])

    def infer_blends(self, backend: Backend, tiles: Sequence[MaskedTile]) -> list[Output]:
        """Infer tiles that differ only in the weights with which the smoother blends its terms, at little more than the cost of one.

        Args:
            backend: Runs the edge part of every layer.
            tiles: Masked tiles for the objective `residual`, on the device of the ensemble.

        Returns:
            What `forward` returns for each.
        """
        surroundings = describe_surroundings(tiles[0], self.linear)
        by_member = [member.infer_blends(backend, tiles, surroundings) for member in self.members]
        return [mean_output(outputs) for outputs in zip(*by_member, strict=True)]

    def describe(self, tile: MaskedTile) -> Surroundings | None:
        """Input of the members that depends on no trained weight; None for the head of the paper.

        Args:
            tile: A masked tile on the device of the ensemble.
        """
        return describe_surroundings(tile, self.linear) if self.pooled else None

    @property
    def first(self) -> Network:
        """The network whose encoder embeds cells; embeddings of different members cannot be averaged."""
        return self.members[0]

    def stored_weights(self) -> dict[str, Tensor]:
        """Weights and buffers by the names they have in files.

        Names of the first member have no prefix, so that files of a single network have plain names, and member n > 0 is
        `others.<n - 1>`.
        """
        return {_stored_name(name): tensor for name, tensor in self.state_dict().items()}

    def load_weights(self, other: Ensemble) -> None:
        """Copy the weights of another ensemble, whose recipe may ask for another number of cell states."""
        for own, given in zip(self.members, other.members, strict=True):
            own.load_state_dict(given.state_dict())
        if self.linear and other.linear:
            self.linear.load_state_dict(other.linear.state_dict())
        if self.pooled and other.pooled:
            every_gene = torch.arange(other.pooled.num_genes)
            # Its states are replaced once the slides are fitted, and may be too many.
            self.pooled.fill(other.pooled.parameters_of(every_gene).first_states(self.pooled.max_states), every_gene)

    def load_stored_weights(self, tensors: Mapping[str, Tensor], *, assign: bool = False) -> None:
        """Copy weights from a file into the networks.

        Args:
            tensors: As `stored_weights` returns them.
            assign: Take the tensors themselves, without a copy, for networks that were made without memory.

        Raises:
            RuntimeError: A name is missing or unknown, or a shape differs.
        """
        # Strict loading: a missing weight would silently keep its random start.
        self.load_state_dict({_module_name(name): tensor for name, tensor in tensors.items()}, assign=assign)


def _stored_name(name: str) -> str:
    """From the name of a tensor of the ensemble to the name in a file."""
    if name.startswith(_SHARED):
        return name
    if name.startswith(_FIRST):
        return name.removeprefix(_FIRST)
    number, _, weight = name.removeprefix(_MEMBERS).partition(".")
    return f"{_OTHERS}{int(number) - 1}.{weight}"


def _module_name(stored: str) -> str:
    """From the name in a file to that of the ensemble; an unknown name stays unknown to `load_state_dict`."""
    if stored.startswith(_SHARED):
        return stored
    number, _, weight = stored.removeprefix(_OTHERS).partition(".")
    if stored.startswith(_OTHERS) and number.isdecimal():
        return f"{_MEMBERS}{int(number) + 1}.{weight}"
    return _FIRST + stored
