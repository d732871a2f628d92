"""Everything that a resumed run needs to be the uninterrupted one, in `train_state-<step>.safetensors`."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import torch

from cifm_cli import keys
from cifm_cli.errors import CifmError
from cifm_cli.model.checkpoint import load_tensors, save_tensors
from cifm_cli.report.terminal import warn
from cifm_cli.training.run_spec import RunSpec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cifm_cli.model.ensemble import Ensemble
_STATES = "train_state-*.safetensors"
_OPTIMISER = "optimiser"


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
        looked: Step of the last look; below zero before the first.
    """

    step: int = 0
    seconds: float = 0.0
    best_loss: float = float("inf")
    best_step: int = 0
    first_loss: float = float("inf")
    looks_since_best: int = 0
    looked: int = -1


def list_states(folder: Path) -> list[Path]:
    """Training states of a run, the newest first."""
    return sorted(folder.glob(_STATES), reverse=True)


def save_state(
    folder: Path,
    parts: Mapping[str, Ensemble],
    optimiser: torch.optim.Optimizer,
    position: Position,
    began: RunSpec,
    keep: int,
) -> None:
    """Write a training state, whole or not at all, and then remove the old ones.

    Args:
        folder: The run.
        parts: Sets of weights by name: as they are now, not the best ones.
        optimiser: Its moments.
        position: Where the run stands.
        began: How it began.
        keep: States to keep, this one included.
    """
    tensors = {
        f"{part}.{name}": tensor for part, module in parts.items() for name, tensor in module.stored_weights().items()
    }
    for number, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"{_OPTIMISER}.{number}.{name}": tensor for name, tensor in moments.items()}
    # Infinity is not JSON: a number that is not there yet is stored as null.
    stored = {name: None if value == float("inf") else value for name, value in asdict(position).items()}
    content = {"position": stored, "began": began.to_json()}
    header = {"format": keys.CHECKPOINT_FORMAT, **content, "crc32": _checksum(tensors, content)}
    save_tensors(folder / _STATES.replace("*", f"{position.step:08d}"), tensors, header)
    for old in list_states(folder)[keep:]:
        old.unlink()


def load_began(folder: Path) -> RunSpec:
    """How a run began.

    Args:
        folder: The run.

    Returns:
        What its newest undamaged state says.

    Raises:
        CifmError: There is none.
    """
    return RunSpec.from_json(_newest_whole(folder, quiet=True)[2]["began"])


def load_state(folder: Path, parts: Mapping[str, Ensemble], optimiser: torch.optim.Optimizer) -> Position:
    """Put a run back where it stood: at its newest state, or the one before where that is damaged.

    Args:
        folder: The run.
        parts: Get their weights.
        optimiser: Gets the moments.

    Returns:
        Where the run stands.

    Raises:
        CifmError: There is no undamaged state, or it is one of another network.
    """
    path, tensors, content = _newest_whole(folder)
    stored = content["position"]
    try:
        for part, module in parts.items():
            module.load_stored_weights(_part(tensors, part))
    except RuntimeError as error:
        raise CifmError(f"{path}: does not fit the network of its recipe", "train again") from error
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in _part(tensors, _OPTIMISER).items():
        number, _, moment = name.partition(".")
        moments.setdefault(int(number), {})[moment] = tensor
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    known = {field.name for field in fields(Position)}
    return Position(**{name: value for name, value in stored.items() if name in known and value is not None})


def _newest_whole(folder: Path, *, quiet: bool = False) -> tuple[Path, dict[str, torch.Tensor], dict[str, Any]]:
    """The newest state that can be read; a warning for each that can't, unless quiet."""
    paths = list_states(folder)
    for path in paths:
        try:
            return path, *_read(path)
        except CifmError as error:
            if path == paths[-1]:
                raise
            if not quiet:
                warn(f"{error.message}; going on from the state before it")
    raise CifmError(f"{folder}: no training to resume", "start it without --resume")


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    tensors, header = load_tensors(path)
    content = {name: header.get(name) for name in ("position", "began")}
    if header.get("crc32") != _checksum(tensors, content):
        raise CifmError(f"{path}: damaged, its checksum is another", "copy the file anew, or start again")
    return tensors, content


def _checksum(tensors: Mapping[str, torch.Tensor], content: dict[str, Any]) -> int:
    # safetensors checks lengths, not contents: a flipped bit would be trained on.
    value = zlib.crc32(json.dumps(content, sort_keys=True).encode())
    for name in sorted(tensors):
        flat = tensors[name].detach().cpu().contiguous().flatten()
        value = zlib.crc32(flat.view(torch.uint8).numpy().data, value)
    return value


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")
    }
