"""Checkpoints: safetensors files with a JSON header. They contain no pickle and do not depend on the backend.

`model.safetensors` holds `header["cifm"]` = {"format", "recipe", "vocabulary", "provenance", "cells", "sha256"} beside the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from cifm_cli import keys, recipe
from cifm_cli.errors import CifmError
from cifm_cli.model.ensemble import Ensemble
from cifm_cli.model.readout import (
    Readout,
    is_readout,
    pack_readout,
    readout_layout,
    readout_problem,
    unpack_readout,
)
from cifm_cli.model.slide_parameters import POOLED, parameters_problem
from cifm_cli.model.stored_layout import network_layout
from cifm_cli.model.stored_sketches import (
    HEADER_KEY,
    StoredSketch,
    is_sketch,
    pack_sketches,
    sketch_layout,
    states_problem,
    unpack_sketches,
)
from cifm_cli.stored_json import Names, StoredObject
from cifm_cli.tensor_files import FileKind, open_tensors, save_tensors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch

    from cifm_cli.data.cell_sketch import CellSketch
    from cifm_cli.recipe import Recipe

MODEL_FILE = "model.safetensors"


Region = Literal["train", "validation", "test", "buffer"]


class StoredInit(StoredObject):
    """The run that weights were initialised from, as far as it is used."""

    run: str | None = None
    inputs: dict[str, str] = Field(default_factory=dict)
    # path of each input to the regions that were trained on; earlier versions, which store none, trained on `train`
    trained_regions: dict[str, list[Region]] = Field(default_factory=dict)
    platforms: list[str] = Field(default_factory=list)


class StoredProvenance(StoredObject):
    """The provenance of a model, as far as it is used; see `provenance.collect`."""

    inputs: dict[str, str] = Field(default_factory=dict)  # path and SHA-256 of each training slide
    platforms: list[str] = Field(default_factory=list)
    init: StoredInit | None = None


class CheckpointHeader(StoredObject):
    """The header of a checkpoint."""

    recipe: dict[str, Any]
    vocabulary: Annotated[Names, Field(min_length=1)]  # G Ensembl ids
    provenance: StoredProvenance
    cells: list[StoredSketch] = Field(default_factory=list)  # sketches of the cells that the model has seen
    sha256: str | None = None  # checksum of the content; None in files of earlier versions


CHECKPOINT = FileKind("checkpoint", keys.CHECKPOINT_FORMAT, CheckpointHeader, "copy the file again, or train again")


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
    readout: Readout | None = (
        None  # of embeddings; None in checkpoints of earlier versions, and of a run that is not complete
    )


def save_checkpoint(
    path: Path,
    network: Ensemble,
    recipe: Recipe,
    vocabulary: tuple[str, ...],
    provenance: dict[str, Any],
    sketches: Sequence[CellSketch] = (),
    readout: Readout | None = None,
) -> None:
    """Write `model.safetensors`.

    Args:
        path: The file.
        network: The networks whose weights are stored.
        recipe: Resolved recipe.
        vocabulary: G Ensembl ids.
        provenance: From `provenance.collect`.
        sketches: Samples of the cells that the networks have seen.
        readout: Fitted to the networks.
    """
    cells, described = pack_sketches(sketches)
    header = {
        "format": keys.CHECKPOINT_FORMAT,
        "recipe": recipe.model_dump(mode="json", exclude_none=True),
        "vocabulary": list(vocabulary),
        "provenance": provenance,
        HEADER_KEY: described,
    }
    save_tensors(path, network.stored_weights() | cells | pack_readout(readout), header)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read the model of a run.

    Args:
        folder: Folder that contains `model.safetensors`.

    Returns:
        The checkpoint, on the CPU.

    Raises:
        CifmError: The file is missing, damaged, or of another format, or its weights do not fit its recipe.
    """
    tensors, header, resolved = _read(folder / MODEL_FILE)
    vocabulary = tuple(header["vocabulary"])
    # The recipe in the header decides the architecture, not the names of the tensors.
    network = Ensemble(len(vocabulary), resolved)
    network.load_stored_weights({name: tensor for name, tensor in tensors.items() if _is_weight(name)})
    sketches = unpack_sketches(tensors, header.get(HEADER_KEY, []))
    readout = unpack_readout(tensors)
    return Checkpoint(network.eval(), resolved, vocabulary, header["provenance"], folder, sketches, readout)


def _is_weight(name: str) -> bool:
    """Whether a tensor belongs to the networks."""
    return not (is_sketch(name) or is_readout(name))


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any], Recipe]:
    """Tensors, header and recipe of a checkpoint whose parts fit each other."""
    with open_tensors(path, CHECKPOINT) as file:
        resolved = recipe.parse(file.header["recipe"], str(path))
        misfit = "the weights do not fit the recipe stored beside them"
        num_genes, sketches = len(file.header["vocabulary"]), file.header.get(HEADER_KEY, [])
        try:
            layout = network_layout(num_genes, resolved, len(file.layouts))
        except ValueError as error:
            raise CifmError(f"{path}: {misfit}: {error}", CHECKPOINT.hint) from error
        added = sketch_layout(file.layouts, len(sketches), num_genes)
        added |= readout_layout(file.layouts, num_genes, resolved.model.width)
        file.require({**layout, **added}, misfit)
        tensors = file.load()
        file.verify(tensors)
        if problem := parameters_problem(tensors, POOLED) or readout_problem(tensors) or states_problem(tensors):
            raise CifmError(f"{path}: {problem}", CHECKPOINT.hint)
    return tensors, file.header, resolved


def describe(path: Path) -> dict[str, Any]:
    """Check a checkpoint and summarise it for `cifm inspect`.

    Args:
        path: The file `model.safetensors`.

    Returns:
        Number of parameters of each module, size of the vocabulary, recipe and provenance.

    Raises:
        CifmError: As `load_checkpoint`.
    """
    tensors, header, _ = _read(path)
    sizes: dict[str, int] = {}
    for name, tensor in tensors.items():
        if not _is_weight(name):
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
