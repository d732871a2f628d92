"""Everything that a resumed run needs to be the uninterrupted one, in `train_state.safetensors`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from cifm_cli import keys
from cifm_cli.model.checkpoint import load_tensors, save_tensors

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import nn

STATE_FILE = "train_state.safetensors"
_WEIGHTS, _OPTIMISER = "weights.", "optimiser."


@dataclass
class Position:
    """Where a run stands.

    Args:
        step: Steps done.
        seconds: Training time so far.
        best_loss: Lowest validation loss.
        best_step: When it was seen.
        first_loss: Validation loss before the first step: what an explosion is measured against.
        looks_since_best: Looks at the validation region without a new best.
    """

    step: int = 0
    seconds: float = 0.0
    best_loss: float = float("inf")
    best_step: int = 0
    first_loss: float = float("inf")
    looks_since_best: int = 0


def save_state(folder: Path, network: nn.Module, optimiser: torch.optim.Optimizer, position: Position) -> None:
    """Write the training state, whole or not at all.

    Args:
        folder: The run.
        network: Its weights now, not its best ones.
        optimiser: Its moments.
        position: Where the run stands.
    """
    tensors = {f"{_WEIGHTS}{name}": tensor for name, tensor in network.state_dict().items()}
    for number, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"{_OPTIMISER}{number}.{name}": tensor for name, tensor in moments.items()}
    # Infinity is not JSON: a number that is not there yet is stored as null.
    stored = {name: None if value == float("inf") else value for name, value in asdict(position).items()}
    save_tensors(folder / STATE_FILE, tensors, {"format": keys.CHECKPOINT_FORMAT, "position": stored})


def load_state(folder: Path, network: nn.Module, optimiser: torch.optim.Optimizer) -> Position:
    """Put a run back where it stood.

    Args:
        folder: The run.
        network: Gets the weights.
        optimiser: Gets the moments.

    Returns:
        Where the run stands.

    Raises:
        CifmError: The state is missing, damaged or of another format.
    """
    tensors, header = load_tensors(folder / STATE_FILE)
    network.load_state_dict(_part(tensors, _WEIGHTS))
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in _part(tensors, _OPTIMISER).items():
        number, _, moment = name.partition(".")
        moments.setdefault(int(number), {})[moment] = tensor
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    stored: dict[str, Any] = header["position"]
    known = {field.name for field in fields(Position)}
    return Position(**{name: value for name, value in stored.items() if name in known and value is not None})


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
