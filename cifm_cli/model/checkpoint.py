"""Checkpoints: safetensors files with a JSON header. They contain no pickle and do not depend on the backend.

`model.safetensors` holds `header["cifm"]` = {"format", "recipe", "vocabulary", "provenance", "cells"} beside the weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cifm_cli import keys, recipe
from cifm_cli.errors import CifmError
from cifm_cli.model.ensemble import Ensemble
from cifm_cli.model.stored_sketches import HEADER_KEY, is_sketch, pack_sketches, unpack_sketches
from cifm_cli.workspace import atomic_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch

    from cifm_cli.data.cell_sketch import CellSketch
    from cifm_cli.recipe import Recipe

MODEL_FILE = "model.safetensors"
_HEADER = "cifm"


@dataclass(frozen=True)
class Checkpoint:
    """A trained model, with its recipe, vocabulary and provenance."""

    network: Ensemble  # the networks, in evaluation mode; on the CPU after loading
    recipe: Recipe  # the resolved recipe of the training
    vocabulary: tuple[str, ...]  # G Ensembl ids
    provenance: dict[str, Any]  # version, seed and inputs of the training, see `provenance.collect`
    folder: Path  # folder of the run
    # samples of the cells that the model was trained and validated on, also in the runs that its weights come from; none in
    # checkpoints of earlier versions
    sketches: tuple[CellSketch, ...] = ()


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], header: dict[str, Any]) -> None:
    """Write tensors and a JSON header as one safetensors file, whole or not at all.

    Args:
        path: The file.
        tensors: Name to tensor.
        header: Values that `json` can write.

    Raises:
        CifmError: The disk is full, or there is no permission to write.
    """
    # safetensors refuses tensors that are not contiguous.
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            # The header is one JSON string, because safetensors stores text values only.
            save_file(ready, temporary, metadata={_HEADER: json.dumps(header)})
        except SafetensorError as error:  # of a full disk; `atomic_path` explains an OSError to the user
            raise OSError(str(error)) from error


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a file that `save_tensors` wrote.

    Args:
        path: The file.

    Returns:
        Tensors on the CPU, and the header.

    Raises:
        CifmError: The file is missing or damaged, or `save_tensors` did not write it.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    return tensors, _parse_header(path, metadata)


def _parse_header(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """The header that `save_tensors` wrote, checked for its format."""
    # Other programs write safetensors files too, such as the public release of the paper.
    if _HEADER not in metadata:
        raise CifmError(f"{path}: safetensors, but not a checkpoint of cifm", "give a run that `cifm train` wrote")
    try:
        header = dict(json.loads(metadata[_HEADER]))
    except (ValueError, TypeError) as error:  # a damaged header
        raise _unreadable(path, error) from error
    if header.get("format") != keys.CHECKPOINT_FORMAT:
        raise CifmError(
            f"{path}: checkpoint format {header.get('format')}, this cifm reads {keys.CHECKPOINT_FORMAT}",
            "use the version of cifm that wrote it, or train again",
        )
    return header


def _unreadable(path: Path, error: Exception) -> CifmError:
    """Error for a missing or damaged file."""
    return CifmError(f"{path}: not a readable checkpoint ({error})", "train again, or copy the file anew")


def save_checkpoint(
    path: Path,
    network: Ensemble,
    recipe: Recipe,
    vocabulary: tuple[str, ...],
    provenance: dict[str, Any],
    sketches: Sequence[CellSketch] = (),
) -> None:
    """Write `model.safetensors`.

    Args:
        path: The file.
        network: The networks whose weights are stored.
        recipe: Resolved recipe.
        vocabulary: G Ensembl ids.
        provenance: From `provenance.collect`.
        sketches: Samples of the cells that the networks have seen.
    """
    cells, described = pack_sketches(sketches)
    header = {
        "format": keys.CHECKPOINT_FORMAT,
        "recipe": recipe.model_dump(mode="json", exclude_none=True),
        "vocabulary": list(vocabulary),
        "provenance": provenance,
        HEADER_KEY: described,
    }
    save_tensors(path, network.stored_weights() | cells, header)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read the model of a run.

    Args:
        folder: Folder that contains `model.safetensors`.

    Returns:
        The checkpoint, on the CPU.

    Raises:
        CifmError: The file is missing, damaged, or of another format, or its weights do not fit its recipe.
    """
    path = folder / MODEL_FILE
    tensors, header = load_tensors(path)
    resolved = recipe.parse(header["recipe"], str(path))
    vocabulary = tuple(header["vocabulary"])
    # The recipe in the header decides the architecture, not the names of the tensors.
    network = Ensemble(len(vocabulary), resolved)
    try:
        network.load_stored_weights({name: tensor for name, tensor in tensors.items() if not is_sketch(name)})
    # torch reports missing names and other shapes as RuntimeError.
    except RuntimeError as error:
        raise CifmError(f"{path}: the weights do not fit the recipe stored beside them", "train again") from error
    sketches = unpack_sketches(path, tensors, header, len(vocabulary))
    return Checkpoint(network.eval(), resolved, vocabulary, header["provenance"], folder, sketches)


def describe(path: Path) -> dict[str, Any]:
    """Summarise a checkpoint for `cifm inspect`.

    Args:
        path: The file `model.safetensors`.

    Returns:
        Number of parameters of each module, size of the vocabulary, recipe and provenance.
    """
    tensors, header = load_tensors(path)
    sizes: dict[str, int] = {}
    for name, tensor in tensors.items():
        if is_sketch(name):
            continue
        # The first word of a name is the module: `encoder`, `decoder`, `head` or, for the other members, `others`.
        module = name.split(".", 1)[0]
        sizes[module] = sizes.get(module, 0) + tensor.numel()
    return {
        "kind": "checkpoint",
        "format": header["format"],
        "parameters": {"total": sum(sizes.values()), **sizes},
        "genes": len(header["vocabulary"]),
        "recipe": header["recipe"],
        "provenance": header["provenance"],
    }
