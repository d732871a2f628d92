"""Memory that training a network needs at least, compared with that of the machine before anything is allocated."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from cifm_cli.errors import CifmError
from cifm_cli.model.network import Network

if TYPE_CHECKING:
    from cifm_cli.recipe import Recipe

_COPIES = 4  # weights, gradients, and two moments of the optimiser


def require_memory(num_genes: int, recipe: Recipe, device: torch.device, machine_bytes: int | None = None) -> None:
    """Check that a network and what its training needs fit into the memory of this machine.

    Args:
        num_genes: G, size of the vocabulary.
        recipe: The recipe.
        device: Where the network is trained; it is always made in the memory of the machine.
        machine_bytes: Memory of the machine; found if absent.

    Raises:
        CifmError: They do not fit.
    """
    available = machine_bytes or _physical_memory()
    with torch.device("meta"):  # tensors with a shape and no memory
        network = Network(num_genes, recipe)
    num_weights = recipe.model.members * sum(weight.numel() for weight in network.parameters())
    needed = num_weights * torch.get_default_dtype().itemsize * (_COPIES if device.type == "cpu" else 1)
    if available and needed > available:
        raise CifmError(
            f"the network has {num_weights:,} weights, and training it needs at least {needed / 2**30:,.0f} GiB; this machine "
            f"has {available / 2**30:,.0f} GiB of memory",
            "choose a smaller model.width, fewer layers or members",
        )


def _physical_memory() -> int:
    """Bytes of memory of this machine; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 0
