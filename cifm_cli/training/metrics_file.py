"""`metrics.jsonl`: one JSON object a line, for every step and every validation of a run."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from cifm_cli.errors import CifmError
from cifm_cli.workspace import atomic_path

if TYPE_CHECKING:
    from pathlib import Path

    from cifm_cli.training.state import TrainState

logger = logging.getLogger(__name__)


def keep_metrics(path: Path, state: TrainState) -> None:
    """Remove the lines that were written after a state was saved, and lines that are damaged.

    Args:
        path: The file.
        state: The state that the run is continued from.

    Raises:
        CifmError: The file cannot be read or written.
    """
    try:
        # Bytes: a damaged line need not be text.
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    except OSError as error:
        raise CifmError(f"{path}: {error.strerror or error}", "move it elsewhere and resume again") from error
    # The last line has no end if the process was killed while it wrote it.
    whole = [line for line in lines if line.endswith(b"\n")]
    steps = [(line, _parse(line)) for line in whole]
    num_damaged = sum(content is None for _, content in steps)
    if num_damaged:
        logger.warning(f"{path}: {num_damaged} damaged line(s) left out")
    # A process that is killed here leaves the old metrics or the new ones.
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"".join(line for line, content in steps if content and _is_past(content, state)))


def _parse(line: bytes) -> dict[str, Any] | None:
    """The content of a line; None if it is damaged."""
    try:
        # Not with `parse_json`, as a validation loss may be NaN.
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and type(content.get("step")) is int else None


def _is_past(content: dict[str, Any], state: TrainState) -> bool:
    """Whether a line was written before a state was saved."""
    return bool(content["step"] <= (state.last_validated if "validation_loss" in content else state.step))
