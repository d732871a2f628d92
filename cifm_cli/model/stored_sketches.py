"""Sketches of the cells that a model has seen, as tensors and header of its checkpoint.

Checkpoints of earlier versions have none. S sketches are stored as `cells.<number>.counts`, `cells.<number>.places` and
`cells.<number>.expressed`, and the header holds slide, use and run of each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cifm_cli.data.cell_sketch import CellSketch
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

HEADER_KEY = "cells"
_PREFIX = "cells."
_TEXTS = ("slide", "use", "run")  # fields of a sketch that are in the header
_DTYPES = {"counts": torch.int64, "places": torch.int64, "expressed": torch.float16}


def pack_sketches(sketches: Sequence[CellSketch]) -> tuple[dict[str, torch.Tensor], list[dict[str, str]]]:
    """Turn sketches into tensors by name, and the value of `HEADER_KEY` in the header."""
    tensors = {}
    for number, sketch in enumerate(sketches):
        # safetensors has no unsigned type that all versions of torch support.
        tensors[f"{_PREFIX}{number}.counts"] = torch.from_numpy(sketch.counts.view(np.int64))
        tensors[f"{_PREFIX}{number}.places"] = torch.from_numpy(sketch.places.view(np.int64))
        tensors[f"{_PREFIX}{number}.expressed"] = torch.from_numpy(sketch.expressed)
    return tensors, [{name: getattr(sketch, name) for name in _TEXTS} for sketch in sketches]


def is_sketch(name: str) -> bool:
    """Whether a tensor of a checkpoint belongs to a sketch."""
    return name.startswith(_PREFIX)


def unpack_sketches(
    path: Path, tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any], num_genes: int
) -> tuple[CellSketch, ...]:
    """Read the sketches of a checkpoint.

    Args:
        path: The file, for messages.
        tensors: All tensors of the checkpoint.
        header: Its header.
        num_genes: G, size of its vocabulary.

    Returns:
        The sketches; none for a checkpoint of an earlier version.

    Raises:
        CifmError: They are damaged.
    """
    stored = header.get(HEADER_KEY, [])
    entries = stored if isinstance(stored, list) else [None]
    for entry in entries:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in _TEXTS):
            raise _damaged(path, f"header, {HEADER_KEY}")
    if unknown := [name for name in tensors if is_sketch(name) and not _is_numbered(name, len(entries))]:
        raise _damaged(path, unknown[0])
    sketches = []
    for number, entry in enumerate(entries):
        counts, places, expressed = (_array(path, tensors, number, part) for part in _DTYPES)
        if len(expressed) != num_genes:
            raise _damaged(path, f"{_PREFIX}{number}.expressed")
        arrays = counts.view(np.uint64), places.view(np.uint64), expressed
        sketches.append(CellSketch(entry["slide"], entry["use"], *arrays, entry["run"]))
    return tuple(sketches)


def _is_numbered(name: str, num_sketches: int) -> bool:
    """Whether a tensor belongs to one of the first sketches."""
    number, _, part = name.removeprefix(_PREFIX).partition(".")
    return number in map(str, range(num_sketches)) and part in _DTYPES


def _array(path: Path, tensors: Mapping[str, torch.Tensor], number: int, part: str) -> NDArray[Any]:
    """One array of a sketch."""
    name = f"{_PREFIX}{number}.{part}"
    tensor = tensors.get(name)
    if tensor is None or tensor.dtype != _DTYPES[part] or tensor.ndim != 1:
        raise _damaged(path, name)
    array: NDArray[Any] = tensor.numpy()
    # `overlap` searches in ascending checksums.
    if part != "expressed":
        checksums = array.view(np.uint64)
        if (checksums[1:] <= checksums[:-1]).any():
            raise _damaged(path, name)
    return array


def _damaged(path: Path, name: str) -> CifmError:
    return CifmError(
        f"{path}: damaged: {name} does not describe the cells of the training", "copy the file again, or train again"
    )
