"""`cifm.leave_out`: cross-validation over slides or patients."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cifm_cli.api.evaluation import Evaluation, as_tables, check_arguments
from cifm_cli.api.slides import named_slides, open_with_split
from cifm_cli.api.training import resolve_recipe, write_opened
from cifm_cli.cross_validation.groups import SLIDE
from cifm_cli.cross_validation.run import LeaveOutConfig
from cifm_cli.cross_validation.run import leave_out as run
from cifm_cli.errors import CifmError
from cifm_cli.evaluation.setup import EvaluateConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    from cifm_cli.inference.adaptation.adapt import Adapt
    from cifm_cli.recipe import Recipe


def leave_out(
    recipe: str | Path | Recipe,
    data: Sequence[AnnData] | Mapping[str, AnnData],
    groups: Mapping[str, str] | None = None,
    *,
    out: str | Path | None = None,
    settings: Mapping[str, object] | None = None,
    region: str | None = None,
    geometries: str | Sequence[str] = (),
    num_folds: int | None = None,
    adapt: Adapt = "slide",
    layer: str | None = None,
    radius_um: float | None = None,
    device: str = "auto",
    backend: str = "auto",
    seed: int = 0,
) -> Evaluation:
    """Leave each slide or group of slides out once, train on the others and evaluate it: `cifm evaluate --leave-out`.

    Args:
        recipe: Name, path or content of the recipe of every training.
        data: At least two slides, or slides by name.
        groups: Name of each slide to its group, such as its patient; by default every slide is a group.
        out: Folder of the trainings, by default a temporary one. Trainings of the same slides, groups and recipe are continued.
        settings: Keys of the recipe to change, such as `{"train.steps": 500}`; not for a `Recipe`.
        region: Region of hidden cells, as in `cifm.evaluate`; by default `all`.
        geometries: As in `cifm.evaluate`.
        num_folds: As in `cifm.evaluate`.
        adapt: As in `cifm.evaluate`; the trainings do not depend on it.
        layer: As in `cifm.evaluate`.
        radius_um: As in `cifm.evaluate`.
        device: `auto`, `cpu`, `cuda` or another torch device.
        backend: Implementation of the graph network: `auto`, or a name that `cifm backends` lists.
        seed: Seed of the trainings, the folds, the random baselines and the bootstrap.

    Returns:
        The scores of all slides. `metrics["overall"]` is the mean over slides, with intervals over groups, and
        `metrics["leave_out"]` describes the trainings.

    Raises:
        CifmError: A slide cannot be used, there are not at least two groups, or an argument is not one of those above.
        BackendUnavailableError: There is no such backend.

    Examples:
        >>> evaluation = cifm.leave_out("visium", {"a1": a1, "a2": a2, "b": b}, {"a1": "A", "a2": "A", "b": "B"})
        >>> evaluation.metrics["overall"]["scattered"]["mse"]["percent"]
    """
    check_arguments(region, num_folds, adapt)
    resolved, adatas = resolve_recipe(recipe, settings or {}), named_slides(data)
    _check_groups(groups, adatas)
    slides = {name: open_with_split(adata, layer, radius_um, name) for name, adata in adatas.items()}
    names = [geometries] if isinstance(geometries, str) else geometries
    with tempfile.TemporaryDirectory(prefix="cifm_") as folder:
        paths = [write_opened(Path(folder, "slides", f"{name}.h5ad"), adatas[name], slides[name]) for name in slides]
        evaluation = EvaluateConfig(
            paths, (), region or "", names, num_folds=num_folds, adapt=adapt, backend=backend, device=device, seed=seed
        )
        runs = Path(folder, "runs") if out is None else Path(out)
        found = run(LeaveOutConfig(SLIDE if groups is None else "group", resolved, runs, evaluation, groups))
        return as_tables(found, slides, {name: adata.obs_names.to_numpy() for name, adata in adatas.items()})


def _check_groups(groups: Mapping[str, str] | None, slides: Mapping[str, AnnData]) -> None:
    """Refuse groups of other slides."""
    if groups is not None and set(groups) != set(slides):
        raise CifmError(
            f"groups: names {', '.join(groups)}, the slides are {', '.join(slides)}", "give one for each slide"
        )
