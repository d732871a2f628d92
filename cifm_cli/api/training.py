"""`cifm.train`: from AnnData objects to a model."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cifm_cli import recipe as recipes
from cifm_cli import workspace
from cifm_cli.api.slides import load_model, named_slides, open_with_split
from cifm_cli.data.writers.from_slide import write_slide
from cifm_cli.errors import CifmError
from cifm_cli.model_card.card import write_card
from cifm_cli.recipe import Recipe
from cifm_cli.training.config import TrainConfig
from cifm_cli.training.launch import launch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    from cifm_cli.data.in_memory import AnnDataSlide
    from cifm_cli.inference.loaded_model import LoadedModel


def train(
    recipe: str | Path | Recipe,
    data: AnnData | Sequence[AnnData] | Mapping[str, AnnData],
    *,
    out: str | Path | None = None,
    settings: Mapping[str, object] | None = None,
    init: str | Path | None = None,
    layer: str | None = None,
    radius_um: float | None = None,
    device: str = "auto",
    backend: str = "auto",
    seed: int = 0,
) -> LoadedModel:
    """Train a model, as `cifm train` does.

    Args:
        recipe: Name of a shipped recipe, such as `xenium`, path of a recipe file, or a `Recipe`.
        data: One slide, several, or slides by name. Cells are divided into regions by `obs["split"]`; a slide without this
            column gets the regional split of the paper.
        out: Folder of the run, with its model card; by default, a temporary folder that is removed.
        settings: Keys of the recipe to change, such as `{"train.steps": 500}`; not for a `Recipe`.
        init: A training run from whose weights to start.
        layer: Where the raw counts are: `X`, `raw`, or the name of a layer; by default the first that holds counts.
        radius_um: Radius of the graph, micrometres, if the recipe does not define it; by default that of the slide, or
            one derived from the spacing of the cells.
        device: `auto`, `cpu`, `cuda` or another torch device.
        backend: Implementation of the graph network: `auto`, or a name that `cifm backends` lists.
        seed: Seed of all random draws.

    Returns:
        The trained model, loaded on the device.

    Raises:
        CifmError: The recipe has mistakes, a slide cannot be used, or the folder is not empty.
        BackendUnavailableError: There is no such backend.

    Examples:
        >>> model = cifm.train("xenium", [first, second], out="runs/two_slides", settings={"train.max_minutes": 20})
    """
    resolved = resolve_recipe(recipe, settings or {})
    slides = named_slides(data)
    with tempfile.TemporaryDirectory(prefix="cifm_") as folder:
        # Training reads tiles from files, so that a corpus may be larger than memory; slides in memory are written first.
        paths = _write_slides(Path(folder, "slides"), slides, layer, radius_um)
        run = Path(folder, "run") if out is None else Path(out)
        launch(
            TrainConfig(
                recipe=resolved,
                slides=paths,
                folder=run,
                init=None if init is None else workspace.run_folder(Path(init)),
                device=device,
                backend=backend,
                seed=seed,
            )
        )
        if out is not None:
            write_card(run)
        return load_model(run, device=device, backend=backend, precision=resolved.train.product_precision)


def _write_slides(
    folder: Path, slides: Mapping[str, AnnData], layer: str | None, radius_um: float | None
) -> list[Path]:
    """Write slides as prepared slides, and return their paths."""
    return [
        write_opened(folder / f"{name}.h5ad", adata, open_with_split(adata, layer, radius_um, name))
        for name, adata in slides.items()
    ]


def write_opened(path: Path, adata: AnnData, opened: AnnDataSlide) -> Path:
    """Write a slide with the caller's names of the cells, and return the path."""
    write_slide(path, opened.slide, adata.obs_names[opened.rows].tolist(), opened.rows)
    return path


def resolve_recipe(recipe: str | Path | Recipe, settings: Mapping[str, object]) -> Recipe:
    """The recipe of a name or a path with some keys changed, or the given one."""
    if not isinstance(recipe, Recipe):
        changes = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        return recipes.load(recipes.find(str(recipe)), changes)
    if settings:
        raise CifmError("settings were given for a Recipe object", "change the recipe itself, or give its name or path")
    return recipe
