"""Training states: all that a resumed run needs to equal an uninterrupted one, in `train_state-<step>.safetensors`."""

from __future__ import annotations

import json
import logging
import math
import zlib
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from cifm_cli import keys
from cifm_cli.errors import CifmError
from cifm_cli.model.stored_layout import tensor_layout
from cifm_cli.tensor_files import Layout, layout_problem, open_tensors, save_tensors, tensor_bytes
from cifm_cli.training.muon import ORTHOGONAL
from cifm_cli.training.run_spec import RunSpec
from cifm_cli.training.state_header import STATE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    from cifm_cli.model.ensemble import Ensemble

logger = logging.getLogger(__name__)

# The step number is padded with zeros in file names, so that their order is that of the steps.
_FILE_PATTERN = "train_state-*.safetensors"
_OPTIMISER, _SLIDES = "optimiser", "slides"
_STEPS, _MOMENTS = "step", ("exp_avg", "exp_avg_sq")  # of the optimiser, for each weight
# Keys of the header, and stored names of fields that have another name here: files of earlier versions stay readable.
_STATE, _SPEC, _CHECKSUM = "position", "began", "crc32"
_STORED_NAMES = {"validations_since_best": "looks_since_best", "last_validated": "looked"}


@dataclass
class TrainState:
    """How far a run has come."""

    step: int = 0  # steps taken
    seconds: float = 0.0  # training time so far
    best_loss: float = float("inf")  # lowest validation loss
    best_step: int = 0  # step at which it was measured
    first_loss: float = float("inf")  # validation loss before the first step, which later losses are compared with
    validations_since_best: int = 0  # validations since the best loss
    last_validated: int = -1  # step of the last validation; below zero before the first

    def to_json(self) -> dict[str, Any]:
        """The state for a header. JSON has no infinity: a loss that is not measured yet, or not finite, is null."""
        return {
            _STORED_NAMES.get(name, name): value if math.isfinite(value) else None
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> TrainState:
        """The state that `to_json` turned into `content`; unknown keys are ignored."""
        names = {_STORED_NAMES.get(field.name, field.name): field.name for field in fields(cls)}
        # Null stands for infinity, which is the default of these fields.
        known = {names[name]: value for name, value in content.items() if name in names and value is not None}
        return cls(**known)


def list_states(folder: Path) -> list[Path]:
    """Files of the training states of a run, the newest first."""
    return sorted(folder.glob(_FILE_PATTERN), reverse=True)


def save_state(
    folder: Path,
    networks: Mapping[str, Ensemble],
    optimiser: torch.optim.Optimizer,
    state: TrainState,
    spec: RunSpec,
    num_kept: int,
    slides: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write a training state as a whole or not at all, then remove the oldest ones.

    Args:
        folder: Folder of the run.
        networks: Names and networks whose present weights are stored.
        optimiser: Optimiser whose moments are stored.
        state: How far the run has come.
        spec: How the run was started.
        num_kept: Number of states to keep, this one included.
        slides: Parameters of the slides, from `slide_tensors`.
    """
    tensors = {
        f"{name}.{key}": tensor
        for name, network in networks.items()
        for key, tensor in network.stored_weights().items()
    }
    tensors |= {f"{_SLIDES}.{key}": tensor for key, tensor in (slides or {}).items()}
    for number, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"{_OPTIMISER}.{number}.{key}": tensor for key, tensor in moments.items()}
    # The checksum covers the header too: a damaged step number would resume at a wrong place.
    content = {_STATE: state.to_json(), _SPEC: spec.to_json()}
    header = {"format": keys.CHECKPOINT_FORMAT, **content, _CHECKSUM: state_checksum(tensors, content)}
    # Without the checksum of other files: it costs more, and a state is written every few minutes.
    save_tensors(folder / _FILE_PATTERN.replace("*", f"{state.step:08d}"), tensors, header, checksum=False)
    # Old states are removed only after the new one is complete, so one can always be resumed.
    for old in list_states(folder)[num_kept:]:
        old.unlink()


def load_run_spec(folder: Path) -> RunSpec:
    """Read how a run was started.

    Args:
        folder: Folder of the run.

    Returns:
        The specification in its newest undamaged state.

    Raises:
        CifmError: There is no undamaged state.
    """
    return RunSpec.from_json(_read_newest(folder, warn=False)[2][_SPEC])


def read_state(folder: Path) -> TrainState:
    """Read how far a run has come.

    Args:
        folder: Folder of the run.

    Returns:
        Its newest undamaged state.

    Raises:
        CifmError: There is no undamaged state.
    """
    return TrainState.from_json(_read_newest(folder, warn=False)[2][_STATE])


def load_state(
    folder: Path, networks: Mapping[str, Ensemble], optimiser: torch.optim.Optimizer
) -> tuple[TrainState, dict[str, torch.Tensor]]:
    """Load the newest undamaged state of a run.

    Args:
        folder: Folder of the run.
        networks: Names and networks, as in `save_state`; they get the stored weights.
        optimiser: It gets the stored moments.

    Returns:
        How far the run has come, and the parameters of its slides.

    Raises:
        CifmError: There is no undamaged state, or it belongs to another network.
    """
    path, tensors, content = _read_newest(folder, warn=True)
    try:
        for name, network in networks.items():
            network.load_stored_weights(_with_prefix(tensors, name))
    except RuntimeError as error:
        raise CifmError(f"{path}: does not fit the network of its recipe", "train again") from error
    moments = _moments(path, _with_prefix(tensors, _OPTIMISER), optimiser)
    # The parameter groups come from the recipe, whose weight decay the user may have changed.
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    return TrainState.from_json(content[_STATE]), _with_prefix(tensors, _SLIDES)


def is_state(header: Mapping[str, Any]) -> bool:
    """Whether a header is that of a training state."""
    return _STATE in header


def describe(path: Path) -> dict[str, Any]:
    """Check a training state and summarise it for `cifm inspect`.

    Args:
        path: The file.

    Returns:
        How far the run had come, and how it was started.

    Raises:
        CifmError: The file is missing or damaged.
    """
    tensors, content = _read(path)
    spec = content[_SPEC]
    return {
        "kind": "training state",
        **content[_STATE],
        "values": sum(tensor.numel() for tensor in tensors.values()),
        "genes": len(spec["vocabulary"]),
        **{name: value for name, value in spec.items() if name != "vocabulary"},
    }


def _moments(
    path: Path, tensors: dict[str, torch.Tensor], optimiser: torch.optim.Optimizer
) -> dict[int, dict[str, torch.Tensor]]:
    """Moments of each weight by the number that the optimiser gives it; they must have the shapes of the weights."""
    # Orthogonal steps need no mean squares.
    pairs = [
        (weight, _MOMENTS[:1] if group.get(ORTHOGONAL) else _MOMENTS)
        for group in optimiser.param_groups
        for weight in group["params"]
    ]
    stored = {name: tensor_layout(tensor) for name, tensor in tensors.items()}
    # Before the first step, and for weights without a gradient, there are none.
    present = {
        number: moments
        for number, (_, moments) in enumerate(pairs)
        if any(f"{number}.{name}" in stored for name in _MOMENTS)
    }
    expected = {
        f"{number}.{name}": Layout("F32", ()) if name == _STEPS else tensor_layout(pairs[number][0])
        for number, moments in present.items()
        for name in (_STEPS, *moments)
    }
    problem = layout_problem(stored, expected)
    # AdamW divides by one minus a power of the step, and takes roots of the mean squares.
    positive = [name for name in expected if name.endswith((f".{_STEPS}", f".{_MOMENTS[1]}"))]
    if not problem and any((tensors[name] < 0).any() for name in positive):
        problem = "a number of steps or a mean square is negative"
    if problem:
        raise CifmError(f"{path}: its optimiser does not fit the network of its recipe: {problem}", "train again")
    return {
        number: {name: tensors[f"{number}.{name}"] for name in (_STEPS, *moments)}
        for number, moments in present.items()
    }


def _read_newest(folder: Path, *, warn: bool) -> tuple[Path, dict[str, torch.Tensor], dict[str, Any]]:
    """Path, tensors and header of the newest undamaged state; damaged ones are logged if `warn`."""
    paths = list_states(folder)
    for path in paths:
        try:
            return path, *_read(path)
        except CifmError as error:
            if path == paths[-1]:  # no older state is left
                raise
            if warn:
                logger.warning(f"{error.message}; continuing from the state before it")
    raise CifmError(f"{folder}: no training to resume", "start it without --resume")


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and header of a state, whose checksum must be right."""
    with open_tensors(path, STATE) as file:
        tensors = file.load()
    content = {key: file.header[key] for key in (_STATE, _SPEC)}
    if file.header[_CHECKSUM] != state_checksum(tensors, content):
        raise CifmError(f"{path}: damaged, its checksum is wrong", STATE.hint)
    return tensors, content


def state_checksum(tensors: Mapping[str, torch.Tensor], content: dict[str, Any]) -> int:
    """Compute the checksum of a state: safetensors checks lengths only, and training would go on with a flipped bit.

    Args:
        tensors: Weights and moments by name.
        content: Position and specification of the run, as JSON.

    Returns:
        CRC-32 of both.
    """
    value = zlib.crc32(json.dumps(content, sort_keys=True).encode())
    for key in sorted(tensors):
        value = zlib.crc32(tensor_bytes(tensors[key].detach().cpu().contiguous()), value)
    return value


def _with_prefix(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose key begins with `prefix` and a dot, under the rest of their keys."""
    return {key.removeprefix(f"{prefix}."): tensor for key, tensor in tensors.items() if key.startswith(f"{prefix}.")}
