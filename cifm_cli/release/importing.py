"""The import of a release: from its folder to the folder of a run, whole or not at all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from cifm_cli import provenance
from cifm_cli import recipe as recipes
from cifm_cli.errors import CifmError
from cifm_cli.model.checkpoint import MODEL_FILE, save_checkpoint
from cifm_cli.model.ensemble import Ensemble
from cifm_cli.release.files import find_files, read_arguments, read_channels
from cifm_cli.release.names import read_names
from cifm_cli.release.weights import read_tensors, sort_tensors, to_network
from cifm_cli.system_files import without_system_files
from cifm_cli.workspace import atomic_path

if TYPE_CHECKING:
    from pathlib import Path

    from cifm_cli.recipe import Recipe
    from cifm_cli.release.files import ReleaseFiles
    from cifm_cli.release.weights import ReleaseWeights

RECIPE_FILE = "recipe.toml"
TARGET_SUM = 10_000.0  # of the notebook of the release
_RADIUS = "radius"  # in the name of the argument that gives the radius
# Arguments that repeat a size, by the names that are known.
_WIDTH_ARGUMENTS, _CHANNEL_ARGUMENTS = ("hidden_dim", "hidden"), ("in_dim",)
# Of a fine-tuning that starts from the imported model; the release does not train.
_TRAINING = {"steps": 2_000, "learning_rate": 1e-4, "warmup_steps": 100, "weight_decay": 0.0}
_TILE_CELLS = 256  # a tile of training has a halo of 80 um, and features of 1,024 numbers


@dataclass(frozen=True)
class ImportedRelease:
    """What was imported."""

    folder: Path  # folder of the run
    num_weights: int
    num_channels: int
    num_genes: int  # channels that have an Ensembl id of their own
    recipe: Recipe
    unused: list[str]  # names of tensors that nothing reads

    def to_json(self) -> dict[str, Any]:
        """Facts for `--json`."""
        model = self.recipe.model
        return {
            "run": self.folder.as_posix(),
            "parameters": self.num_weights,
            "channels": self.num_channels,
            "genes": self.num_genes,
            "width": model.width,
            "encoder_layers": model.encoder_layers,
            "decoder_layers": model.decoder_layers,
            "mlp_layers": model.mlp_layers,
            "radius_um": self.recipe.data.radius_um,
            "unused": self.unused,
        }


def import_release(
    folder: Path, out: Path, *, names: Path | None = None, radius_um: float | None = None
) -> ImportedRelease:
    """Turn the public release into a run that all commands take.

    Args:
        folder: Folder of the release.
        out: Folder of the run; it must be empty or missing.
        names: JSON file with names of modules that differ from the known ones.
        radius_um: Radius of the graph; that in the arguments of the release when absent.

    Returns:
        What was imported.

    Raises:
        CifmError: A file is missing, damaged or unlike what is known of the release, or `out` is not empty.
    """
    if out.exists() and (not out.is_dir() or without_system_files(out.iterdir())):
        raise CifmError(f"{out}: already exists", "choose another --out")
    known = read_names(names)
    files = find_files(folder)
    arguments, channels = read_arguments(files.arguments), read_channels(files.channels)
    weights = sort_tensors(files.weights, read_tensors(files.weights), known)
    _check_arguments(files, arguments, weights, len(channels))
    radius_um = _choose_radius(files, arguments, radius_um)
    recipe = _make_recipe(weights, radius_um)
    kept = [number for number, gene in enumerate(channels) if gene]
    with torch.device("meta"):  # without memory: its weights are those that are loaded
        network = Ensemble(len(kept), recipe)
    network.load_stored_weights(to_network(weights, torch.tensor(kept), radius_um), assign=True)
    origin = provenance.collect(
        "import-release",
        release={
            "files": {path.name: provenance.hash_file(path) for path in vars(files).values()},
            "arguments": arguments,
            "radius_um": radius_um,
            "channels": len(channels),
            "channels_without_own_gene": len(channels) - len(kept),
            "unused_tensors": weights.unused,
        },
    )
    with atomic_path(out) as temporary:
        temporary.mkdir()
        (temporary / RECIPE_FILE).write_text(recipes.to_toml(recipe), encoding="utf8")
        vocabulary = tuple(gene for gene in channels if gene)
        save_checkpoint(temporary / MODEL_FILE, network, recipe, vocabulary, origin)
    num_weights = sum(weight.numel() for weight in network.parameters())
    return ImportedRelease(out, num_weights, len(channels), len(kept), recipe, weights.unused)


def _make_recipe(weights: ReleaseWeights, radius_um: float) -> Recipe:
    """The recipe of the imported model."""
    model = {key: value for key, value in weights.model_recipe().items() if value is not None}
    content = {
        "description": "The paper's public release, imported",
        "data": {"radius_um": radius_um, "target_sum": TARGET_SUM, "tile_cells": _TILE_CELLS},
        "model": model,
        "mask": {"share": 0.05},
        "objective": {"name": "balanced_mse"},
        "train": _TRAINING,
    }
    return recipes.parse(content, "the release")


def _choose_radius(files: ReleaseFiles, arguments: dict[str, Any], given: float | None) -> float:
    """The radius that the user gives, or that of the arguments."""
    if given is not None:
        return given
    found = {
        float(value)
        for name, value in arguments.items()
        if _RADIUS in name.lower() and isinstance(value, int | float) and not isinstance(value, bool)
    }
    if len(found) != 1 or not 0 < (radius := found.pop()) < math.inf:
        raise CifmError(f"{files.arguments}: does not name one radius of the graph", "give it with --radius-um")
    return radius


def _check_arguments(
    files: ReleaseFiles, arguments: dict[str, Any], weights: ReleaseWeights, num_channels: int
) -> None:
    """Check that the three files are of one release."""
    if num_channels != weights.num_channels:
        raise CifmError(
            f"{files.channels}: {num_channels:,} channels, but the weights have {weights.num_channels:,}",
            "give the three files of one release",
        )
    sizes = {_WIDTH_ARGUMENTS: weights.width, _CHANNEL_ARGUMENTS: weights.num_channels}
    for names, size in sizes.items():
        for name in names:
            if arguments.get(name, size) != size:
                raise CifmError(
                    f"{files.arguments}: {name} is {arguments[name]!r:.40}, but the weights have {size:,}",
                    "give the three files of one release",
                )
