"""The regions of each slide that a model was trained on, also in the runs that its weights come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cifm_cli import keys
from cifm_cli.path_text import file_name, path_from_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cifm_cli.recipe_sections import DataRecipe


def regions_of_file(provenance: Mapping[str, Any], data: DataRecipe, digest: str | None) -> list[str]:
    """Find the regions of a slide that a model was trained on.

    Args:
        provenance: Of the model.
        data: The section of its recipe.
        digest: SHA-256 of the slide's file; None for a slide that has no file.

    Returns:
        Names of regions, in the order of `keys.REGIONS`.
    """
    init: Mapping[str, Any] = provenance.get("init") or {}
    # Earlier versions, which store no regions, trained on the region `train`.
    stored: Mapping[str, list[str]] = init.get("trained_regions", {})
    trained = [data.trained_regions(file_name(path_from_text(path))) for path in _paths(provenance, digest)]
    trained += [tuple(stored.get(path, [keys.TRAIN])) for path in _paths(init, digest)]
    return [name for name in keys.REGIONS if any(name in regions for regions in trained)]


def trained_regions(provenance: Mapping[str, Any], data: DataRecipe) -> dict[str, list[str]]:
    """List the regions that a model was trained on, for the provenance of a run that starts from its weights.

    Args:
        provenance: Of the model.
        data: The section of its recipe.

    Returns:
        Path of each slide of its run, and of the runs before it, to the names of regions.
    """
    inputs = {**(provenance.get("init") or {}).get("inputs", {}), **provenance.get("inputs", {})}
    return {path: regions_of_file(provenance, data, digest) for path, digest in inputs.items()}


def _paths(run: Mapping[str, Any], digest: str | None) -> list[str]:
    """Inputs of a run that have the content of a file."""
    return [path for path, other in run.get("inputs", {}).items() if other == digest]
