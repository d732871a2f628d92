"""Types and shapes of the tensors that a recipe needs, found without allocating a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cifm_cli.model.ensemble import Ensemble
from cifm_cli.tensor_files import Layout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cifm_cli.recipe import Recipe

_DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.bfloat16: "BF16", torch.int64: "I64", torch.bool: "BOOL"}


def tensor_layout(tensor: torch.Tensor) -> Layout:
    """Type and shape that a tensor has in a file."""
    return Layout(_DTYPES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape))


def network_layout(num_genes: int, recipe: Recipe, num_stored: int) -> Mapping[str, Layout]:
    """Find the tensors of the networks of a recipe.

    Args:
        num_genes: G, size of the vocabulary.
        recipe: The recipe.
        num_stored: Number of tensors in the file; a recipe of many more is refused before its network is built.

    Returns:
        Name in a file to type and shape of each tensor.

    Raises:
        ValueError: The recipe needs more tensors than the file holds.
    """
    model = recipe.model
    # Every linear map of an MLP has a weight, and every layer has an MLP.
    if model.members * (model.encoder_layers + model.decoder_layers) * model.mlp_layers > num_stored:
        raise ValueError(f"the recipe needs more than the {num_stored} tensors in the file")
    with torch.device("meta"):  # tensors with a shape and no memory
        networks = Ensemble(num_genes, recipe)
    return {name: tensor_layout(tensor) for name, tensor in networks.stored_weights().items()}
