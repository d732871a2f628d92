"""Checkpoints: safetensors with a JSON header (format, recipe, vocabulary, provenance). No pickle, any backend.

`model.safetensors` holds `header["cifm"]` = {"format", "recipe", "vocabulary", "provenance"} beside the weights.
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
from cifm_cli.workspace import atomic_path

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    from cifm_cli.recipe import Recipe

MODEL_FILE = "model.safetensors"
_HEADER = "cifm"


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and what is needed to use it.

    Args:
        network: In evaluation mode, on the CPU.
        recipe: The resolved recipe it was trained with.
        vocabulary: G Ensembl ids.
        provenance: Where it came from.
        folder: The run.
    """

    network: Ensemble
    recipe: Recipe
    vocabulary: tuple[str, ...]
    provenance: dict[str, Any]
    folder: Path


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], header: dict[str, Any]) -> None:
    """Write tensors and a JSON header as one safetensors file, whole or not at all.

    Args:
        path: The file.
        tensors: Name to tensor.
        header: JSON content.

    Raises:
        CifmError: The disk is full or may not be written.
    """
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(ready, temporary, metadata={_HEADER: json.dumps(header)})
        except SafetensorError as error:  # a full disk, to which `writing` has the answer
            raise OSError(str(error)) from error


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Args:
        path: The file.

    Returns:
        Tensors on the CPU, and the header.

    Raises:
        CifmError: The file is missing, damaged, or not ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    return tensors, _parse_header(path, metadata)


def _parse_header(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    if _HEADER not in metadata:
        raise CifmError(f"{path}: safetensors, but not a checkpoint of cifm", "name a run that `cifm train` wrote")
    try:
        header = dict(json.loads(metadata[_HEADER]))
    except (ValueError, TypeError) as error:  # a flipped bit
        raise _unreadable(path, error) from error
    if header.get("format") != keys.CHECKPOINT_FORMAT:
        raise CifmError(
            f"{path}: checkpoint format {header.get('format')}, this cifm reads {keys.CHECKPOINT_FORMAT}",
            "use the version of cifm that wrote it, or train again",
        )
    return header


def _unreadable(path: Path, error: Exception) -> CifmError:
    return CifmError(f"{path}: not a readable checkpoint ({error})", "train again, or copy the file anew")


def save_checkpoint(
    path: Path, network: Ensemble, recipe: Recipe, vocabulary: tuple[str, ...], provenance: dict[str, Any]
) -> None:
    """Write `model.safetensors`.

    Args:
        path: The file.
        network: Weights to store.
        recipe: Resolved recipe.
        vocabulary: G Ensembl ids.
        provenance: From `provenance.collect`.
    """
    header = {
        "format": keys.CHECKPOINT_FORMAT,
        "recipe": recipe.model_dump(mode="json", exclude_none=True),
        "vocabulary": list(vocabulary),
        "provenance": provenance,
    }
    save_tensors(path, network.stored_weights(), header)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read the model of a run.

    Args:
        folder: Holds `model.safetensors`.

    Returns:
        The checkpoint, on the CPU.

    Raises:
        CifmError: It is missing, damaged, of another format, or its weights don't fit its own recipe.
    """
    path = folder / MODEL_FILE
    tensors, header = load_tensors(path)
    resolved = recipe.parse(header["recipe"], str(path))
    vocabulary = tuple(header["vocabulary"])
    network = Ensemble(len(vocabulary), resolved)
    try:
        network.load_stored_weights(tensors)
    except RuntimeError as error:
        raise CifmError(f"{path}: the weights do not fit the recipe stored beside them", "train again") from error
    return Checkpoint(network.eval(), resolved, vocabulary, header["provenance"], folder)


def describe(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself, for `cifm inspect`.

    Args:
        path: `model.safetensors`.

    Returns:
        Parameters by part, vocabulary size, recipe, provenance.
    """
    tensors, header = load_tensors(path)
    parts: dict[str, int] = {}
    for name, tensor in tensors.items():
        part = name.split(".", 1)[0]
        parts[part] = parts.get(part, 0) + tensor.numel()
    return {
        "kind": "checkpoint",
        "format": header["format"],
        "parameters": {"total": sum(parts.values()), **parts},
        "genes": len(header["vocabulary"]),
        "recipe": header["recipe"],
        "provenance": header["provenance"],
    }
