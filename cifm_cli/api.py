"""The Python API: AnnData objects in, AnnData objects out. Import it as `import cifm_cli as cifm`.

Every function accepts what `cifm.prepare` or `cifm prepare` made, and any AnnData with raw counts (in `X`, `raw` or a
layer), cell centres in micrometres in `obsm["spatial"]`, and genes by Ensembl id or symbol in `var`. Results keep the
order and the names of the caller's cells. They are stored in the given object, unless `copy=True`; functions that make
new cells return a new object. No file is written unless the caller asks for it. Messages are logged with `logging`
under the name `cifm_cli`; errors that the caller can fix are `CifmError`, with a message and a hint.

Letters: N cells, G genes of `adata`, D features, Q positions.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from cifm_cli import keys, provenance, workspace
from cifm_cli import recipe as recipes
from cifm_cli.celltype.annotate import annotate_slide, open_for_slide
from cifm_cli.data.in_memory import AnnDataSlide, gene_columns, slide_from_anndata
from cifm_cli.data.prepare.pipeline import prepare_to_anndata
from cifm_cli.data.prepare.splits import Split
from cifm_cli.data.readers.base import PrepareConfig
from cifm_cli.data.writers.from_slide import write_slide
from cifm_cli.data.writers.predicted import places_from_table
from cifm_cli.embedding.embed import SLOTS
from cifm_cli.errors import CifmError
from cifm_cli.inference import loaded_model
from cifm_cli.inference.encode import encode_blocks
from cifm_cli.inference.loaded_model import LoadedModel
from cifm_cli.inference.predict import estimator
from cifm_cli.inference.predict_slide import infer_blocks, infer_places
from cifm_cli.model.checkpoint import MODEL_FILE
from cifm_cli.recipe import Recipe
from cifm_cli.simulation.config import InjectionConfig, ReferenceFile, SimulateConfig
from cifm_cli.simulation.outputs import to_anndata
from cifm_cli.simulation.simulate import simulate as run_simulation
from cifm_cli.training.launch import launch
from cifm_cli.training.session import Setup

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from cifm_cli.data.slide import Slide
    from cifm_cli.inference.encode import Level
    from cifm_cli.recipe_sections import Precision
    from cifm_cli.simulation.config import Form
    from cifm_cli.simulation.window import Box

__all__ = ["LoadedModel", "annotate", "embed", "load_model", "predict", "prepare", "simulate", "train"]

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

    Example:
        >>> model = cifm.load_model("runs/latest", device="cuda")
    """
    return loaded_model.load_model(workspace.run_folder(Path(run)), backend, device, precision)


def prepare(
    path: str | Path,
    *,
    name: str | None = None,
    platform: str | None = None,
    bin_um: int = 8,
    radius_um: float | None = None,
    microns_per_pixel: float | None = None,
    layer: str | None = None,
    condition: str = "",
    tissue: str = "",
    sample: str | None = None,
    gene_table: str | Path | None = None,
    orthologs: str | Path | None = None,
    cells: str | Path | None = None,
    keep: Sequence[str] = (),
    crop_um: Box | None = None,
    split: Literal["regional", "strips", "blocks"] = "regional",
    split_gap_um: float | None = None,
    seed: int = 0,
) -> AnnData:
    """Read a download, filter its cells and genes, check its units, and split it into regions, as `cifm prepare` does.

    Args:
        path: Output folder of Visium, Visium HD or Xenium, an `.h5ad` with `obsm["spatial"]`, a SpatialData `.zarr`, or
            a matrix of counts (with `cells`).
        name: Name of the slide; that of the download by default.
        platform: Reader to use; detected by default.
        bin_um: Bin size of a Visium HD download, micrometres.
        radius_um: Radius of the graph; that of the platform, or one derived from the spacing of the cells, by default.
        microns_per_pixel: Scale of the coordinates, if they are not micrometres.
        layer: Where an `.h5ad` has its raw counts: `X`, `raw`, or the name of a layer.
        condition: Free text, such as `tumour`.
        tissue: Free text, such as `pancreas`.
        sample: Sample of the slide; its name by default.
        gene_table: CSV of Ensembl ids and symbols that extends the packaged table.
        orthologs: CSV of Ensembl ids of another species and of human.
        cells: CSV of cells and their centres, if `path` is a matrix of counts.
        keep: What is not filtered: `mitochondrial`, `outside-tissue`.
        crop_um: Only cells in this rectangle: x0, y0, x1, y1 in micrometres.
        split: `regional` as in the paper, `strips` of y, or random `blocks`.
        split_gap_um: Least distance between regions of strips and blocks; 6 radii by default.
        seed: Seed of the random blocks.

    Returns:
        The prepared slide: raw counts, `obs["split"]`, `obsm["spatial"]` in micrometres, `uns["cifm"]`.

    Raises:
        CifmError: The download is not recognised or damaged, or has no counts or no coordinates in micrometres.

    Example:
        >>> adata = cifm.prepare("downloads/xenium_pancreas", tissue="pancreas")
        >>> adata.write_h5ad("prepared/pancreas.h5ad")  # what `cifm prepare` writes
    """
    config = PrepareConfig(
        name=name,
        platform=platform,
        bin_um=bin_um,
        condition=condition,
        tissue=tissue,
        sample=sample,
        radius_um=radius_um,
        microns_per_pixel=microns_per_pixel,
        layer=layer,
        gene_table=_optional_path(gene_table),
        orthologs=_optional_path(orthologs),
        cells=_optional_path(cells),
        keep=tuple(keep),
        crop=crop_um,
        split=Split(split, split_gap_um, seed),
    )
    adata = prepare_to_anndata(Path(path), config)
    report = json.loads(adata.uns[keys.CIFM][keys.REPORT])
    for note in report["notes"]:
        logger.info(note)
    for warning in report["warnings"]:
        logger.warning(warning)
    return adata


def embed(
    adata: AnnData,
    model: Model,
    levels: Sequence[Level] = ("microenvironment", "cell"),
    *,
    layer: str | None = None,
    radius_um: float | None = None,
    copy: bool = False,
) -> AnnData:
    """Embed every cell with its neighbours and without them, as `cifm embed` does.

    Args:
        adata: N cells.
        model: A model, or the path of a training run.
        levels: `microenvironment` for the encoder output of a cell among its neighbours, `cell` for the output without
            edges between cells; one of them or both.
        layer: Where the raw counts are: `X`, `raw`, or the name of a layer; found by default.
        radius_um: Radius of the graph, if neither model nor slide defines one.
        copy: Return a copy instead of changing `adata`.

    Returns:
        `adata`, or the copy, with (N, D) embeddings in `obsm["X_cifm"]` (microenvironment) and `obsm["X_cifm_cell"]`
        (cell), and their provenance in `uns["cifm"]["embedding"]`.

    Raises:
        CifmError: The counts, genes or coordinates cannot be used, or the model knows none of the genes.

    Example:
        >>> cifm.embed(adata, "runs/latest")
        >>> sc.pp.neighbors(adata, use_rep="X_cifm")
        >>> sc.tl.umap(adata)
    """
    if not levels or (unknown := set(levels) - set(SLOTS)):
        raise CifmError(f"levels: {', '.join(sorted(unknown)) if levels else 'none'}", f"known are {', '.join(SLOTS)}")
    loaded, opened = _load(model), _open(adata, layer, radius_um)
    slide = loaded.fit_slide(opened.slide)
    width = loaded.checkpoint.recipe.model.width
    features = {level: np.empty((slide.num_cells, width), dtype=np.float32) for level in SLOTS if level in levels}
    for block in encode_blocks(loaded, slide, list(features)):
        for level, rows in block.features.items():
            features[level][block.rows] = rows
    result = adata.copy() if copy else adata
    for level, values in features.items():
        result.obsm[SLOTS[level]] = opened.in_caller_order(values)
    _record(result, keys.EMBEDDING, _origin("embed", loaded, slide))
    return result


def predict(
    adata: AnnData,
    model: Model,
    at: ArrayLike | pd.DataFrame | None = None,
    form: Literal["mean", "median", "gated"] = "mean",
    *,
    threshold: float = 0.5,
    layer: str | None = None,
    radius_um: float | None = None,
    seed: int = 0,
    copy: bool = False,
) -> AnnData:
    """Predict log-normalised expression from the surrounding cells, as `cifm predict` does.

    Args:
        adata: N cells and G genes.
        model: A model, or the path of a training run.
        at: (Q, 2) positions in micrometres, or a DataFrame with the columns `x_um` and `y_um` (or `x` and `y`). By
            default every cell of `adata` is predicted while its own counts are hidden, 5 % of the cells at a time.
        form: `mean`; `median`, which is zero where P(expressed) is at most 1/2; or `gated`, the mean where P(expressed)
            is above `threshold` and zero elsewhere.
        threshold: Threshold of P(expressed) for `gated`.
        layer: Where the raw counts are: `X`, `raw`, or the name of a layer; found by default.
        radius_um: Radius of the graph, if neither model nor slide defines one.
        seed: Seed of the order in which cells are hidden.
        copy: Return a copy instead of changing `adata`; no effect with `at`.

    Returns:
        Without `at`: `adata`, or the copy, with (N, G) dense layers `cifm_<form>` (the prediction) and `cifm_expressed`
        (P(expressed)); both are NaN for genes that the model does not know. With `at`: a new AnnData of Q positions and
        the genes of `adata` that the model knows, with the prediction in `X`, P(expressed) in the layer
        `cifm_expressed`, and the positions in `obsm["spatial"]`.

    Raises:
        CifmError: The counts, genes, coordinates or positions cannot be used, or the model knows none of the genes.

    Example:
        >>> cifm.predict(adata, model, form="gated")
        >>> sc.pl.embedding(adata, "spatial", color="CD3D", layer="cifm_gated")
        >>> grid = cifm.predict(adata, model, at=[[100.0, 250.0], [110.0, 250.0]])
    """
    loaded, opened = _load(model), _open(adata, layer, radius_um)
    slide = loaded.fit_slide(opened.slide)
    estimate = estimator(loaded, form, threshold)
    var, panel_column = _predicted_genes(adata, slide, loaded)
    origin = _origin("predict", loaded, slide, seed=seed, form=form, threshold=threshold if form == "gated" else None)
    if at is not None:
        positions, names = _positions(at)
        prediction = infer_places(loaded, slide, positions)
        values, expressed = estimate(prediction)[:, panel_column], prediction.expressed[:, panel_column]
        obs = pd.DataFrame(index=pd.Index(names, dtype=object))
        result = AnnData(values, obs=obs, var=adata.var.iloc[var].copy(), layers={keys.EXPRESSED: expressed})
        result.obsm[keys.SPATIAL] = positions
    else:
        values, expressed = (np.full(adata.shape, np.nan, dtype=np.float32) for _ in range(2))
        for rows, prediction in infer_blocks(loaded, slide, seed):
            cells = np.ix_(opened.rows[rows], var)
            values[cells] = estimate(prediction)[:, panel_column]
            expressed[cells] = prediction.expressed[:, panel_column]
        result = adata.copy() if copy else adata
        result.layers[f"cifm_{form}"], result.layers[keys.EXPRESSED] = values, expressed
    _record(result, keys.PREDICTION, origin)
    return result


def annotate(
    adata: AnnData,
    annotator: str = "markers",
    *,
    layer: str | None = None,
    trust_pickle: bool = False,
    seed: int = 0,
    copy: bool = False,
) -> AnnData:
    """Assign cell types, as `cifm annotate apply` does.

    Args:
        adata: N cells.
        annotator: `NAME` or `NAME:PATH`, of the annotators that `cifm annotate list` lists.
        layer: Where the raw counts are: `X`, `raw`, or the name of a layer; found by default.
        trust_pickle: Read annotators that are stored as pickles. A pickle can run code.
        seed: Seed of the sample of cells to which an annotator is fitted.
        copy: Return a copy instead of changing `adata`.

    Returns:
        `adata`, or the copy, with the categorical column `obs["cifm_cell_type"]` (`unassigned` for cells without a clear
        type) and the confidence `obs["cifm_cell_type_score"]`, from 0 to 1.

    Raises:
        CifmError: There is no such annotator, or it cannot be used with these genes.

    Example:
        >>> cifm.annotate(adata)
        >>> sc.pl.embedding(adata, "spatial", color="cifm_cell_type")
    """
    opened = _open(adata, layer, None)
    slide = opened.slide
    fitted = open_for_slide(annotator, slide, np.arange(slide.num_cells), seed, trust_pickle=trust_pickle)
    annotation = annotate_slide(fitted, slide)
    result = adata.copy() if copy else adata
    types = pd.Categorical(opened.in_caller_order(annotation.labels), categories=list(annotation.names))
    result.obs[keys.CELL_TYPE] = types.remove_unused_categories()
    result.obs[keys.CELL_TYPE_SCORE] = opened.in_caller_order(annotation.scores)
    _record(result, keys.ANNOTATION, provenance.collect("annotate", seed=seed, annotator=annotator))
    return result


def simulate(
    adata: AnnData,
    model: Model,
    inject: str,
    *,
    count: int | None = None,
    steps: int | None = None,
    update_fraction: float = 0.1,
    form: Form = "state",
    replicates: int = 1,
    crop_um: Box | None = None,
    max_cells: int = 10_000,
    markers: str | Path | None = None,
    reference: str | Path | None = None,
    reference_label: str = "cell_type",
    layer: str | None = None,
    radius_um: float | None = None,
    seed: int = 0,
) -> AnnData:
    """Inject cells into a tissue and let the model update the others step by step, as `cifm simulate` does.

    The same tissue is simulated on the same schedule without injected cells (the control). Interpret the difference
    between both arms, not the change since the first step.

    Args:
        adata: N cells.
        model: A model, or the path of a training run.
        inject: Cell type to inject, such as `tcell`.
        count: Number of injected cells; 2 % of the simulated cells by default.
        steps: Number of steps; two updates of every cell by default.
        update_fraction: Fraction of the cells that one step updates.
        form: What an updated cell becomes: `state`, `sample`, `mean` or `gated`; see docs/simulation.md.
        replicates: Number of repetitions, with other positions and another schedule.
        crop_um: Only cells in this rectangle are simulated: x0, y0, x1, y1 in micrometres.
        max_cells: Largest number of simulated cells; they fill a square in the middle of the tissue.
        markers: TSV of marker genes (columns `cell_type` and `symbol`) that extends the packaged table.
        reference: `.h5ad` of labelled cells to copy; by default, cells of `adata` are copied.
        reference_label: Column of the reference's `obs` with cell types.
        layer: Where the raw counts are: `X`, `raw`, or the name of a layer; found by default.
        radius_um: Radius of the graph, if neither model nor slide defines one.
        seed: Seed of all random draws.

    Returns:
        A new AnnData with the first replicate: the simulated cells of `adata`, then the injected cells. Counts in the layers
        `initial`, `control` and `treated` (also `X`); `obs` columns `injected`, `type_before`, `type_after` and
        `type_after_control`; `obsm["spatial"]`. `uns["cifm"]` holds DataFrames of all replicates: `composition` (by arm,
        replicate, step and type), `transitions` (by arm, replicate, first and last type) and `change` (treated minus
        control, by type).

    Raises:
        CifmError: The counts, genes or coordinates cannot be used, or there is no such cell type or no cell of it.

    Example:
        >>> trajectory = cifm.simulate(adata, model, "tcell", replicates=5)
        >>> trajectory.uns["cifm"]["change"]
        >>> sc.pl.embedding(trajectory, "spatial", color=["type_before", "type_after"])
    """
    loaded, opened = _load(model), _open(adata, layer, radius_um)
    slide = loaded.fit_slide(opened.slide)
    config = SimulateConfig(
        InjectionConfig(inject, count, ReferenceFile(Path(reference), reference_label) if reference else None),
        steps=steps,
        update_fraction=update_fraction,
        form=form,
        replicates=replicates,
        crop_um=crop_um,
        max_cells=max_cells,
        markers=_optional_path(markers),
        seed=seed,
    )
    result = run_simulation(loaded, slide, config)
    rows = opened.rows[result.experiment.window.rows]
    trajectory = to_anndata(result, adata.obs_names[rows].tolist(), _origin("simulate", loaded, slide, seed=seed))
    injected = np.arange(len(rows), trajectory.n_obs)
    trajectory = trajectory[np.concatenate([np.argsort(rows), injected])].copy()
    trajectory.var = _var_of_panel(adata, slide, loaded)
    change = pd.DataFrame.from_dict(result.facts()["change"], orient="index").drop(columns="replicates")
    trajectory.uns[keys.CIFM] |= {
        "composition": result.composition(),
        "transitions": result.transitions(),
        "change": change.astype(float),
    }
    return trajectory


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
        out: Folder of the run; by default, a temporary folder that is removed.
        settings: Keys of the recipe to change, such as `{"train.steps": 500}`; not for a `Recipe`.
        init: A training run from whose weights to start.
        layer: Where the raw counts are: `X`, `raw`, or the name of a layer; found by default.
        radius_um: Radius of the graph, if neither recipe nor slide defines one.
        device: `auto`, `cpu`, `cuda` or another torch device.
        backend: Implementation of the graph network: `auto`, or a name that `cifm backends` lists.
        seed: Seed of all random draws.

    Returns:
        The trained model, loaded on the device.

    Raises:
        CifmError: The recipe has mistakes, a slide cannot be used, or the folder is not empty.
        BackendUnavailableError: There is no such backend.

    Example:
        >>> model = cifm.train("xenium", [first, second], out="runs/two_slides", settings={"train.max_minutes": 20})
    """
    resolved = _resolve_recipe(recipe, settings or {})
    slides = _named_slides(data)
    with tempfile.TemporaryDirectory(prefix="cifm_") as folder:
        paths = []
        for name, adata in slides.items():
            opened = _open(adata, layer, radius_um, name)
            slide = opened.slide
            if keys.SPLIT not in adata.obs:
                slide = replace(slide, split=Split().regions(slide.xy_um, slide.radius_um))
            paths.append(Path(folder, "slides", f"{name}.h5ad"))
            write_slide(paths[-1], slide, adata.obs_names[opened.rows].tolist(), opened.rows)
        run = Path(folder, "run") if out is None else Path(out)
        launch(
            Setup(
                recipe=resolved,
                slides=paths,
                folder=run,
                init=None if init is None else workspace.run_folder(Path(init)),
                device=device,
                backend=backend,
                seed=seed,
            )
        )
        return load_model(run, device=device, backend=backend, precision=resolved.train.precision)


def _load(model: Model) -> LoadedModel:
    return model if isinstance(model, LoadedModel) else load_model(model)


def _open(adata: AnnData, layer: str | None, radius_um: float | None, name: str | None = None) -> AnnDataSlide:
    """Make a slide from an AnnData, and log the notes about it."""
    if not isinstance(adata, AnnData):
        raise CifmError(f"expected an AnnData, got {type(adata).__name__}", "read it with anndata.read_h5ad(path)")
    about = adata.uns.get(keys.CIFM, {})
    sample = about.get(keys.SAMPLE) if isinstance(about, Mapping) else None
    opened = slide_from_anndata(adata, name=name or str(sample or "adata"), radius_um=radius_um, layer=layer)
    for note in opened.notes:
        logger.warning(note)
    return opened


def _optional_path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _predicted_genes(adata: AnnData, slide: Slide, model: LoadedModel) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions in `adata.var` of the genes that the model knows, and their columns in a prediction."""
    in_panel = np.full(slide.num_genes, -1)
    panel = model.panel(slide)
    in_panel[panel.columns] = np.arange(panel.num_genes)
    slide_column = gene_columns(adata, slide)
    column = np.where(slide_column >= 0, in_panel[slide_column], -1)
    known = np.flatnonzero(column >= 0)
    return known, column[known]


def _var_of_panel(adata: AnnData, slide: Slide, model: LoadedModel) -> pd.DataFrame:
    """(P, ...) the caller's annotation of the genes that slide and model share, in the order of the panel."""
    var, column = _predicted_genes(adata, slide, model)
    _, first = np.unique(column, return_index=True)  # a gene that occurs twice was summed
    annotation: pd.DataFrame = adata.var.iloc[var[first]].copy()
    return annotation


def _positions(at: ArrayLike | pd.DataFrame) -> tuple[NDArray[np.float64], list[str]]:
    """(Q, 2) micrometres, and Q names."""
    if isinstance(at, pd.DataFrame):
        return places_from_table(at, "at", str), at.index.astype(str).tolist()
    hint = "give an array of shape (Q, 2), in micrometres"
    try:
        positions = np.asarray(at, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise CifmError(f"at: not an array of numbers ({error})", hint) from error
    if positions.ndim != 2 or positions.shape[1] != 2 or not len(positions):
        raise CifmError(f"at: an array of shape {positions.shape}", hint)
    if not np.isfinite(positions).all():
        raise CifmError("at: a position is not finite", hint)
    return positions, [f"place_{number}" for number in range(1, len(positions) + 1)]


def _origin(command: str, model: LoadedModel, slide: Slide, **facts: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON values
    """Provenance of a result: the model, the recipe and the radius."""
    checkpoint = model.checkpoint
    weights = checkpoint.folder / MODEL_FILE
    return provenance.collect(
        command,
        model={
            "run": checkpoint.folder.name,
            "sha256": provenance.hash_file(weights) if weights.is_file() else None,
        },
        recipe=checkpoint.recipe.model_dump(mode="json", exclude_none=True),
        radius_um=slide.radius_um,
        backend=model.backend.name,
        device=str(model.device),
        precision=model.precision,
        **facts,
    )


def _record(adata: AnnData, key: str, origin: dict[str, Any]) -> None:
    """Store the provenance of a result in `uns["cifm"]`."""
    adata.uns[keys.CIFM] = {**adata.uns.get(keys.CIFM, {}), key: json.dumps(origin, allow_nan=False)}


def _resolve_recipe(recipe: str | Path | Recipe, settings: Mapping[str, object]) -> Recipe:
    if not isinstance(recipe, Recipe):
        changes = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        return recipes.load(recipes.find(str(recipe)), changes)
    if settings:
        raise CifmError("settings given for a Recipe object", "change the recipe itself, or give its name or path")
    return recipe


def _named_slides(data: AnnData | Sequence[AnnData] | Mapping[str, AnnData]) -> dict[str, AnnData]:
    """Slides by name; names are made up where none are given."""
    if isinstance(data, Mapping):
        slides = dict(data)
    else:
        several = [data] if isinstance(data, AnnData) else list(data)
        slides = {f"slide_{number}": adata for number, adata in enumerate(several, start=1)}
    if not slides:
        raise CifmError("no slides to train on", "give at least one AnnData")
    if bad := next((name for name in slides if not name or "/" in name), None):
        raise CifmError(f"slide name {bad!r} cannot name a file", "use letters, digits, - and _")
    return slides
