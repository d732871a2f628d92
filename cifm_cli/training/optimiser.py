"""The optimiser of a run: which weights are trained, and with which learning rate and weight decay each."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from cifm_cli.errors import CifmError
from cifm_cli.training.muon import ORTHOGONAL, Muon

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from cifm_cli.model.ensemble import Ensemble
    from cifm_cli.recipe_sections import TrainRecipe

RATE = "rate"  # key of a parameter group: its learning rate as a fraction of that of the schedule
_MEMBER = re.compile(r"members\.\d+\.")
# Parts of a network from its input to its output; `encoder` and `decoder` have a number for each layer.
_INPUT, _OUTPUT = ("genes", "gene_maps"), ("head",)
# Matrices with a row for each gene, radial basis function, scale or number: tables of vectors rather than maps.
_TABLES = re.compile(r"(genes|magnitude|logit|composition|amount)\.weight$|\.radial$|smoother\.")


def make_optimiser(network: Ensemble, recipe: TrainRecipe, *, shares_cores: bool = False) -> Muon:
    """Make the optimiser of a network, and switch off the gradients of the weights that the recipe freezes.

    With `train.optimiser = "muon"`, matrices that map features to features take steps of Muon, all other weights steps of
    AdamW; with `"adamw"`, all weights take those. Weight decay applies to the former with Muon; with AdamW, to all matrices but
    the weights of the smoother. With `train.layer_decay`, the learning rate of a layer is that of the next one times this number;
    the head has the full one.

    Args:
        network: The network.
        recipe: The section `train`; with `precision = "bfloat16"`, matrices are orthogonalised in bfloat16.
        shares_cores: Whether the parts of a step leave cores to others.

    Returns:
        The optimiser.

    Raises:
        CifmError: `train.freeze` names no weight, or all of them.
    """
    freeze(network, recipe.freeze or ())
    groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    for name, weight in network.named_parameters():
        if weight.requires_grad:
            rate = recipe.layer_decay ** _depth(name, network) if recipe.layer_decay else 1.0
            orthogonal = recipe.optimiser == "muon" and weight.ndim == 2 and not _TABLES.search(name)
            # The smoother's weights are those of a mean: decay would shrink its predictions towards zero.
            decays = orthogonal if recipe.optimiser == "muon" else weight.ndim > 1 and "smoother" not in name
            groups.setdefault((rate, decays, orthogonal), []).append(weight)
    ordered: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": recipe.weight_decay if decays else 0.0, RATE: rate, ORTHOGONAL: orthogonal}
        # Stored moments are numbered in this order.
        for (rate, decays, orthogonal), weights in sorted(
            groups.items(), key=lambda item: (item[0][2], not item[0][1], -item[0][0])
        )
    ]
    half = recipe.precision == "bfloat16"
    return Muon(ordered, half=half, shares_cores=shares_cores, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)


def set_learning_rate(optimiser: Optimizer, rate: float) -> None:
    """Set the learning rate of a step, of which each group has its fraction."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group[RATE]


def freeze(network: Ensemble, names: tuple[str, ...]) -> None:
    """Switch off the gradients of some weights.

    Args:
        network: The network, of one or several members.
        names: Modules or weights by their dotted names, such as `encoder`, `encoder.0` or `head.magnitude`, in every member.

    Raises:
        CifmError: A name is that of no weight, or no weight is left to train.
    """
    own = {name: _MEMBER.sub("", name) for name, _ in network.named_parameters()}
    for frozen in names:
        if not any(name == frozen or name.startswith(f"{frozen}.") for name in own.values()):
            parts = ", ".join(dict.fromkeys(name.split(".")[0] for name in own.values()))
            raise CifmError(f"train.freeze: no part of the network is called {frozen}", f"its parts are {parts}")
    for name, weight in network.named_parameters():
        if any(own[name] == frozen or own[name].startswith(f"{frozen}.") for frozen in names):
            weight.requires_grad = False
    if not any(weight.requires_grad for weight in network.parameters()):
        raise CifmError("train.freeze: nothing is left to train", "leave out one of its parts, such as head")


def _depth(name: str, network: Ensemble) -> int:
    """How many steps in front of the head a weight is: the last layer of the decoder is 1."""
    part, _, rest = _MEMBER.sub("", name).partition(".")
    num_encoder, num_decoder = len(network.first.encoder), len(network.first.decoder)
    layer = rest.partition(".")[0]
    if part in _INPUT:
        return num_encoder + num_decoder + 1
    if part == "encoder":
        return num_decoder + num_encoder - int(layer)
    if part == "encoder_output":
        return num_decoder + 1
    if part == "decoder":
        return num_decoder - int(layer)
    return num_decoder if part == "padding" else 0 if part in _OUTPUT else 1
