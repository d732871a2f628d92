"""The header of a training state: types and ranges of its values."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cifm_cli import keys
from cifm_cli.model.checkpoint import StoredInit
from cifm_cli.stored_json import Names, StoredObject
from cifm_cli.tensor_files import FileKind

Number = Annotated[int, Field(ge=0, le=2**53)]
Seconds = Annotated[float, Field(ge=0, le=1e12)]


class StoredPosition(StoredObject):
    """How far a run has come, under the names that `TrainState.to_json` gives; null is a loss that is not measured."""

    step: Number
    seconds: Seconds = 0.0
    best_loss: float | None = None
    best_step: Number = 0
    first_loss: float | None = None
    looks_since_best: Number = 0
    looked: Annotated[int, Field(ge=-1, le=2**53)] = -1


class StoredRunSpec(StoredObject):
    """How a run was started; see `RunSpec`."""

    vocabulary: Annotated[Names, Field(min_length=1)]
    seed: Annotated[int, Field(ge=0)]
    inputs: Annotated[dict[str, str], Field(min_length=1)]
    backend: str
    init: StoredInit | None


class StateHeader(StoredObject):
    """The header of a training state."""

    position: StoredPosition
    began: StoredRunSpec
    crc32: int


STATE = FileKind("training state", keys.CHECKPOINT_FORMAT, StateHeader, "copy the file again, or train again")
