"""Sketches of the cells that a model has seen, as tensors and header of its checkpoint.

Sketch number n is stored as the tensors `cells.<n>.counts`, `cells.<n>.places` and `cells.<n>.expressed`, and the cell states
of a slide that was trained on as `cells.<n>.states`; the header holds slide, use and run of each. Checkpoints of earlier
versions have no sketches, or no states.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cifm_cli.data.cell_sketch import NUM_COUNTS, NUM_PLACES, CellSketch
from cifm_cli.stored_json import StoredObject, Text
from cifm_cli.tensor_files import Layout

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

HEADER_KEY = "cells"
_PREFIX = "cells."
_SIZES = {"counts": NUM_COUNTS, "places": NUM_PLACES}  # largest lengths of the checksums
_NOT_MEASURED = -1.0  # in a file, because values there are finite


class StoredSketch(StoredObject):
    """What the header contains about a sketch."""

    slide: Text
    use: Text
    run: Text


def pack_sketches(sketches: Sequence[CellSketch]) -> tuple[dict[str, torch.Tensor], list[dict[str, str]]]:
    """Turn sketches into tensors by name, and the value of `HEADER_KEY` in the header."""
    tensors = {}
    for number, sketch in enumerate(sketches):
        expressed = np.where(sketch.is_measured, sketch.expressed, np.float16(_NOT_MEASURED))
        # Copied, because safetensors refuses tensors that share memory. As signed numbers, because not every version of torch has tensors of unsigned ones.
        tensors[f"{_PREFIX}{number}.counts"] = torch.tensor(sketch.counts.view(np.int64))
        tensors[f"{_PREFIX}{number}.places"] = torch.tensor(sketch.places.view(np.int64))
        tensors[f"{_PREFIX}{number}.expressed"] = torch.tensor(expressed)
        if sketch.states is not None:
            tensors[f"{_PREFIX}{number}.states"] = torch.tensor(sketch.states)
    return tensors, [StoredSketch(slide=each.slide, use=each.use, run=each.run).model_dump() for each in sketches]


def is_sketch(name: str) -> bool:
    """Whether a tensor of a checkpoint belongs to a sketch."""
    return name.startswith(_PREFIX)


def sketch_layout(stored: Mapping[str, Layout], num_sketches: int, num_genes: int) -> dict[str, Layout]:
    """Find the tensors that the sketches of a checkpoint need.

    Args:
        stored: Types and shapes of its tensors.
        num_sketches: Number of sketches in its header.
        num_genes: G, size of its vocabulary.

    Returns:
        Name to type and shape; checksums may have any number up to that of a full sketch, and states any number.
    """
    expected = {}
    for number in range(num_sketches):
        for part, size in _SIZES.items():
            name = f"{_PREFIX}{number}.{part}"
            shape = stored[name].shape if name in stored else ()
            expected[name] = Layout("I64", shape if len(shape) == 1 and shape[0] <= size else (size,))
        expected[f"{_PREFIX}{number}.expressed"] = Layout("F16", (num_genes,))
        states = f"{_PREFIX}{number}.states"
        if states in stored:
            shape = stored[states].shape
            fits = len(shape) == 2 and shape[0] > 0 and shape[1] <= num_genes
            expected[states] = Layout("F32", shape if fits else (1, num_genes))
    return expected


def states_problem(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Describe cell states in a file that have other genes than their sketch; None without any."""
    for name, expressed in tensors.items():
        states = tensors.get(f"{name.removesuffix('expressed')}states")
        if is_sketch(name) and name.endswith(".expressed") and states is not None:
            num_measured = int((expressed >= 0).sum())
            if states.shape[1] != num_measured:
                return f"cell states of slide {name.split('.')[1]} have {states.shape[1]} genes, not {num_measured}"
    return None


def unpack_sketches(
    tensors: Mapping[str, torch.Tensor], entries: Sequence[Mapping[str, str]]
) -> tuple[CellSketch, ...]:
    """Read the sketches of a checkpoint.

    Args:
        tensors: Its tensors, which have the types and shapes of `sketch_layout`.
        entries: What its header contains about each sketch.

    Returns:
        The sketches.
    """
    sketches = []
    for number, entry in enumerate(entries):
        arrays: dict[str, NDArray[Any]] = {
            part: tensors[f"{_PREFIX}{number}.{part}"].numpy() for part in (*_SIZES, "expressed")
        }
        # `overlap` needs ascending checksums, also in a file that another program wrote.
        counts, places = (np.unique(arrays[part].view(np.uint64)) for part in _SIZES)
        expressed = np.where(arrays["expressed"] < 0, np.float16(np.nan), arrays["expressed"])
        states = tensors[name].numpy() if (name := f"{_PREFIX}{number}.states") in tensors else None
        sketches.append(CellSketch(entry["slide"], entry["use"], counts, places, expressed, entry["run"], states))
    return tuple(sketches)
