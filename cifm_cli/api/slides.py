"""What the functions of the API share: slides from AnnData objects, models, locations, genes and provenance.

Letters: N cells, P genes that slide and model share, Q locations.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from cifm_cli import keys, provenance, workspace
from cifm_cli.data.in_memory import AnnDataSlide, gene_columns, read_split, slide_from_anndata
from cifm_cli.data.prepare.splits import SplitConfig
from cifm_cli.data.readers.locations import locations_from_table
from cifm_cli.errors import CifmError
from cifm_cli.inference import loaded_model
from cifm_cli.inference.loaded_model import LoadedModel
from cifm_cli.model.checkpoint import MODEL_FILE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from cifm_cli.data.slide import Slide
    from cifm_cli.recipe_sections import Precision

Model = LoadedModel | str | Path
"""A loaded model, or the path of a training run."""

logger = logging.getLogger(__name__)


def load_model(
    run: str | Path = workspace.LATEST,
    *,
    device: str = "auto",
    backend: str = "auto",
    precision: Precision = "float32",
) -> LoadedModel:
    """Load the model of a training run.

    Args:
        run: Folder of the run, or its `model.safetensors`.
        device: `auto`, `cpu`, `cuda` or another torch device.
        backend: Implementation of the graph network: `auto`, or a name that `cifm backends` lists.
        precision: Precision of matrix products; bfloat16 needs hardware support.

    Returns:
        The model, for the other functions of this module.

    Raises:
        CifmError: There is no model, or no such device.
        BackendUnavailableError: There is no such backend.

    Examples:
        >>> model = cifm.load_model("runs/latest", device="cuda")
    """
    return loaded_model.load_model(workspace.run_folder(Path(run)), backend, device, precision)


def load(model: Model) -> LoadedModel:
    """Load a model that is given by the path of its run."""
    if isinstance(model, LoadedModel):
        return model
    if not isinstance(model, str | Path):
        raise CifmError(
            f"expected a model or the path of a training run, got {type(model).__name__}",
            "load one with cifm.load_model(run)",
        )
    return load_model(model)


def open_adata(adata: AnnData, layer: str | None, radius_um: float | None, name: str | None = None) -> AnnDataSlide:
    """Make a slide from an AnnData, and log the notes about it."""
    if not isinstance(adata, AnnData):
        raise CifmError(f"expected an AnnData, got {type(adata).__name__}", "read it with anndata.read_h5ad(path)")
    require_positive(radius_um=radius_um)
    about = adata.uns.get(keys.CIFM, {})
    sample = about.get(keys.SAMPLE) if isinstance(about, Mapping) else None
    opened = slide_from_anndata(adata, name=name or str(sample or "adata"), radius_um=radius_um, layer=layer)
    for note in opened.notes:  # for instance, which layer the counts were taken from
        logger.warning(note)
    return opened


def require_positive(**values: object) -> None:
    """Refuse an argument that is neither None nor a positive number, such as a number that was read as text.

    Args:
        values: Values by the name of the argument.

    Raises:
        CifmError: One of them is something else.
    """
    for name, value in values.items():
        # A bool is an integer to Python; `not >` refuses NaN too.
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if value is not None and not (is_number and 0 < float(value) < np.inf):  # type: ignore[arg-type]
            raise CifmError(f"{name}: {value!r} is not a positive number", f"give a number, such as {name}=20.0")


def open_with_split(adata: AnnData, layer: str | None, radius_um: float | None, name: str) -> AnnDataSlide:
    """Make a slide with the regions of `obs["split"]`, or with the regional split of the paper."""
    opened = open_adata(adata, layer, radius_um, name)
    if keys.SPLIT in adata.obs:
        split = read_split(adata)[opened.rows]
    else:
        split = SplitConfig().regions(opened.slide.xy_um, opened.slide.radius_um)
    return opened._replace(slide=replace(opened.slide, split=split))


def optional_path(path: str | Path | None) -> Path | None:
    """Convert a path unless it is None."""
    return None if path is None else Path(path)


def predicted_genes(adata: AnnData, slide: Slide, model: LoadedModel) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions in `adata.var` of the genes that the model knows, and their columns in a prediction."""
    # From a column of adata.var to a column of the slide, and from there to a column of the prediction.
    in_panel = np.full(slide.num_genes, -1)
    panel = model.panel(slide)
    in_panel[panel.columns] = np.arange(panel.num_genes)
    slide_column = gene_columns(adata, slide)
    column = np.where(slide_column >= 0, in_panel[slide_column], -1)
    known = np.flatnonzero(column >= 0)
    return known, column[known]


def var_of_panel(adata: AnnData, slide: Slide, model: LoadedModel) -> pd.DataFrame:
    """(P, ...) the caller's annotation of the genes that slide and model share, in the order of the panel."""
    var, column = predicted_genes(adata, slide, model)
    _, first = np.unique(column, return_index=True)  # features of one gene were summed; the first stands for it
    annotation: pd.DataFrame = adata.var.iloc[var[first]].copy()
    return annotation


def parse_locations(at: ArrayLike | pd.DataFrame) -> tuple[NDArray[np.float64], list[str]]:
    """(Q, 2) micrometres, and Q names."""
    if isinstance(at, pd.DataFrame):
        return locations_from_table(at, "at", str), at.index.astype(str).tolist()
    hint = "give an array of shape (Q, 2), in micrometres"
    try:
        locations = np.asarray(at, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise CifmError(f"at: not an array of numbers ({error})", hint) from error
    if locations.ndim != 2 or locations.shape[1] != 2 or not len(locations):
        raise CifmError(f"at: an array of shape {locations.shape}", hint)
    if not np.isfinite(locations).all():
        raise CifmError("at: a location is not finite", hint)
    return locations, [f"place_{number}" for number in range(1, len(locations) + 1)]


def result_provenance(command: str, model: LoadedModel, slide: Slide, **facts: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON values
    """Provenance of a result: the model, the recipe and the radius."""
    checkpoint = model.checkpoint
    weights = checkpoint.folder / MODEL_FILE  # removed, if `train` used a temporary folder
    return provenance.collect(
        command,
        model={
            "run": checkpoint.folder.name,
            "sha256": provenance.hash_file(weights) if weights.is_file() else None,
        },
        recipe=checkpoint.recipe.model_dump(mode="json", exclude_none=True),
        radius_um=checkpoint.recipe.data.radius_um or slide.radius_um,
        backend=model.backend.name,
        device=str(model.device),
        precision=model.precision,
        **facts,
    )


def record_provenance(adata: AnnData, key: str, origin: dict[str, Any]) -> None:
    """Store the provenance of a result in `uns["cifm"]`."""
    adata.uns[keys.CIFM] = {**adata.uns.get(keys.CIFM, {}), key: json.dumps(origin, allow_nan=False)}


def named_slides(data: AnnData | Sequence[AnnData] | Mapping[str, AnnData]) -> dict[str, AnnData]:
    """Slides by name; slides that are given without a name are called slide_1, slide_2, ..."""
    if isinstance(data, Mapping):
        slides = dict(data)
    else:
        several = [data] if isinstance(data, AnnData) else list(data)
        slides = {f"slide_{number}": adata for number, adata in enumerate(several, start=1)}
    if not slides:
        raise CifmError("no slides", "give at least one AnnData")
    if bad := next((name for name in slides if not name or "/" in name), None):
        raise CifmError(f"slide name {bad!r} cannot name a file", "use letters, digits, - and _")
    return slides
