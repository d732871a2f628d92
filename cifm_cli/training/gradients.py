"""Gradients of a step, which consists of one part for each tile and member of the network.

The parts depend on no other part, so on a CPU they run in parallel: the products of a small network are too small to gain
from several cores. Their gradients are summed in the order of the tiles, whatever the number of threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from cifm_cli import provenance
from cifm_cli.model.dropout import drawing_from
from cifm_cli.model.objective import loss
from cifm_cli.model.precision import computing_in
from cifm_cli.training.threads import is_small, map_threads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from cifm_cli.model.example import Example
    from cifm_cli.model.surroundings import Surroundings
    from cifm_cli.training.session import Session


class Part(NamedTuple):
    """A tile for one member of the network."""

    example: Example  # the tile, on the device of the session
    surroundings: Surroundings | None  # input that the members share
    number: int  # number of the tile since the start of training, which seeds its dropout
    member: int  # number of the member


def add_gradients(session: Session, examples: Sequence[Example]) -> list[Tensor]:
    """Add the gradients of a step to those of the weights.

    Each member of the network is trained on its own loss.

    Args:
        session: The gradients of its network are changed.
        examples: The tiles of this process, all with the same weight in the loss.

    Returns:
        The loss of each part, divided by the number of parts of the step in all processes.
    """
    tiles_per_step = session.recipe.train.tiles_per_step
    first = session.state.step * tiles_per_step
    by_tile = [
        _parts_of_tile(session, example.to(session.device), first + tile)
        for tile, example in zip(session.processes.own_indices(tiles_per_step), examples, strict=True)
    ]
    if len(by_tile) > 1 and is_small(session.network, session.device):
        return _add_together(session, [part for parts in by_tile for part in parts])
    return [value for parts in by_tile for value in _add_in_turn(session, parts)]


def _parts_of_tile(session: Session, example: Example, number: int) -> list[Part]:
    with torch.no_grad():  # only what the members share; nothing in it is trained
        surroundings = example.surroundings or session.network.describe(example.tile)
    return [Part(example, surroundings, number, member) for member in range(len(session.network.members))]


def _add_in_turn(session: Session, parts: Sequence[Part]) -> list[Tensor]:
    """Add the gradients of the parts of one tile, which belong to different weights and so need no order."""

    def add(part: Part) -> Tensor:
        """Add the gradients of one part and return its loss."""
        value = _loss_of(session, part)
        value.backward()
        return value.detach()

    return map_threads(add, parts, session.device, _spare_cores(session))


def _add_together(session: Session, parts: Sequence[Part]) -> list[Tensor]:
    """Add the gradients of several tiles: each thread has gradients of its own, which are then summed."""
    weights = [[weight for weight in member.parameters() if weight.requires_grad] for member in session.network.members]

    def differentiate(part: Part) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """Loss of one part, and its gradients in the order of the weights."""
        value = _loss_of(session, part)
        return value.detach(), torch.autograd.grad(value, weights[part.member], allow_unused=True)

    results = map_threads(differentiate, parts, session.device, _spare_cores(session))
    for part, (_, gradients) in zip(parts, results, strict=True):
        _accumulate(weights[part.member], gradients)
    return [value for value, _ in results]


def _spare_cores(session: Session) -> int:
    """Number of cores for the thread that makes the next tile, which takes half as long as a part of a small network."""
    return 1 if is_small(session.network, session.device) else 0


def _loss_of(session: Session, part: Part) -> Tensor:
    """Loss of a part, divided by the number of parts of the step in all processes, so that their sum is a mean."""
    # A generator of its own, so that neither the thread nor the process that runs it changes the draws.
    dropout = provenance.torch_generator(session.seed, "dropout", part.number, part.member)
    # Members have separate losses: each is a predictor by itself, whose errors the average then reduces.
    with drawing_from(dropout), computing_in(session.precision, session.device):
        output = session.network.members[part.member](session.backend, part.example.tile, part.surroundings)
    num_all = len(session.network.members) * session.recipe.train.tiles_per_step
    return loss(output, part.example.target, session.recipe.objective) / num_all


def _accumulate(weights: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    """Add gradients to those that weights have; a weight that was not used has none."""
    sums, added = [], []
    for weight, gradient in zip(weights, gradients, strict=True):
        if gradient is None:
            continue
        if weight.grad is None:
            weight.grad = gradient
        else:
            sums.append(weight.grad)
            added.append(gradient)
    if sums:
        torch._foreach_add_(sums, added)
