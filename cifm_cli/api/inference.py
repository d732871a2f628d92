"""`cifm.embed`, `cifm.predict` and `cifm.annotate`: results stored in the AnnData of the caller."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from cifm_cli import keys, provenance
from cifm_cli.api.slides import load, open_adata, parse_locations, predicted_genes, record_provenance, result_provenance
from cifm_cli.celltype.annotate import annotate as annotate_cells
from cifm_cli.celltype.taxonomy import lineage_of, require_tissue
from cifm_cli.embedding.embed import SLOTS, embed_cells
from cifm_cli.errors import CifmError
from cifm_cli.inference.adaptation.option import adaptation_facts, check_adapt, open_adapted
from cifm_cli.inference.predict import point_estimate
from cifm_cli.inference.predict_slide import predict_blocks, predict_locations

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from cifm_cli.api.slides import Model
    from cifm_cli.data.in_memory import AnnDataSlide
    from cifm_cli.data.slide import Slide
    from cifm_cli.inference.adaptation.adapt import Adapt
    from cifm_cli.inference.encode import Level
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.inference.prediction import Prediction

    Estimate = Callable[[Prediction], NDArray[np.float32]]


def embed(
    adata: AnnData,
    model: Model,
    levels: Level | Sequence[Level] = ("microenvironment", "cell"),
    *,
    adapt: Adapt = "slide",
    layer: str | None = None,
    radius_um: float | None = None,
    seed: int = 0,
    copy: bool = False,
) -> AnnData:
    """Embed every cell with its neighbours and without them, as `cifm embed` does.

    Args:
        adata: N cells.
        model: A model, or the path of a training run.
        levels: `microenvironment` for a cell and the cells around it, `cell` for the cell alone; one of them or both
            (docs/embedding.md).
        adapt: `slide` to fit the model to the cells of `adata` before it is used (docs/adaptation.md), `none` to use it as
            trained.
        layer: Where the raw counts are: `X`, `raw`, or the name of a layer; by default the first that holds counts.
        radius_um: Radius of the graph, micrometres, if the recipe does not define it; by default that of the slide, or
            one derived from the spacing of the cells.
        seed: Seed of the adaptation.
        copy: Return a copy instead of changing `adata`.

    Returns:
        `adata`, or the copy, with (N, D) embeddings in `obsm["X_cifm"]` (microenvironment) and `obsm["X_cifm_cell"]`
        (cell), and their provenance in `uns["cifm"]["embedding"]`.

    Raises:
        CifmError: The counts, genes or coordinates cannot be used, or the model knows none of the genes.

    Examples:
        >>> cifm.embed(adata, "runs/latest")
        >>> sc.pp.neighbors(adata, use_rep="X_cifm")
        >>> sc.tl.umap(adata)
    """
    levels = [levels] if isinstance(levels, str) else levels
    if not levels or (unknown := set(levels) - set(SLOTS)):
        raise CifmError(f"levels: {', '.join(sorted(unknown)) if levels else 'none'}", f"known are {', '.join(SLOTS)}")
    check_adapt(adapt)
    opened = open_adata(adata, layer, radius_um)
    trained = load(model)
    loaded, slide = open_adapted(trained, opened.slide, adapt, seed, profiles_only=True)
    embeddings = embed_cells(loaded, slide, [level for level in SLOTS if level in levels])
    result = adata.copy() if copy else adata
    for level, values in embeddings.items():
        result.obsm[SLOTS[level]] = opened.in_caller_order(values)
    facts = {"genes": trained.overlap_facts(opened.slide), **adaptation_facts(loaded, adapt, seed)}
    record_provenance(result, keys.EMBEDDING, result_provenance("embed", loaded, slide, **facts))
    return result


def predict(
    adata: AnnData,
    model: Model,
    at: ArrayLike | pd.DataFrame | None = None,
    form: Literal["mean", "median", "gated"] = "mean",
    *,
    threshold: float = 0.5,
    adapt: Adapt = "slide",
    layer: str | None = None,
    radius_um: float | None = None,
    seed: int = 0,
    copy: bool = False,
) -> AnnData:
    """Predict log-normalised expression from the surrounding cells, as `cifm predict` does.

    Args:
        adata: N cells and G genes.
        model: A model, or the path of a training run.
        at: (Q, 2) locations in micrometres, or a DataFrame with the columns `x_um` and `y_um` (or `x` and `y`). By
            default every cell of `adata` is predicted while its own counts are hidden, 5 % of the cells at a time.
        form: `mean`; `median`, which is zero where P(expressed) is at most 1/2; or `gated`, the mean where P(expressed)
            is above `threshold` and zero elsewhere.
        threshold: Threshold of P(expressed) for `gated`.
        adapt: As in `cifm.embed`.
        layer: Where the raw counts are: `X`, `raw`, or the name of a layer; by default the first that holds counts.
        radius_um: Radius of the graph, micrometres, if the recipe does not define it; by default that of the slide, or
            one derived from the spacing of the cells.
        seed: Seed of the adaptation, and of the order in which cells are hidden.
        copy: Return a copy instead of changing `adata`; no effect with `at`.

    Returns:
        Without `at`: `adata`, or the copy, with (N, G) dense layers `cifm_<form>` (the prediction) and `cifm_expressed`
        (P(expressed)); both are NaN for genes that the model does not know. With `at`: a new AnnData of Q locations and
        the genes of `adata` that the model knows, with the prediction in `X`, P(expressed) in the layer
        `cifm_expressed`, and the locations in `obsm["spatial"]`.

    Raises:
        CifmError: The counts, genes, coordinates or locations cannot be used, or the model knows none of the genes.

    Examples:
        >>> cifm.predict(adata, model, form="gated")
        >>> sc.pl.embedding(adata, "spatial", color="CD3D", layer="cifm_gated")
        >>> grid = cifm.predict(adata, model, at=[[100.0, 250.0], [110.0, 250.0]])
    """
    check_adapt(adapt)
    trained, opened = load(model), open_adata(adata, layer, radius_um)
    estimate = point_estimate(trained, form, threshold)
    places = None if at is None else parse_locations(at)
    loaded, slide = open_adapted(trained, opened.slide, adapt, seed)
    opened = opened._replace(slide=slide)
    facts = {"form": form, "threshold": threshold if form == "gated" else None, **adaptation_facts(loaded, adapt, seed)}
    origin = result_provenance("predict", loaded, slide, seed=seed, genes=trained.overlap_facts(slide), **facts)
    if places is not None:
        result = _predict_at(adata, loaded, opened.slide, places, estimate)
    else:
        values, expressed = _predict_cells(adata, loaded, opened, estimate, seed)
        result = adata.copy() if copy else adata
        result.layers[f"cifm_{form}"], result.layers[keys.EXPRESSED] = values, expressed
    record_provenance(result, keys.PREDICTION, origin)
    return result


def _predict_at(
    adata: AnnData, model: LoadedModel, slide: Slide, at: tuple[NDArray[np.float64], list[str]], estimate: Estimate
) -> AnnData:
    """Predict at (Q, 2) locations with names: a new AnnData of Q locations and the genes of `adata` that the model knows."""
    var, panel_column = predicted_genes(adata, slide, model)
    locations_um, names = at
    prediction = predict_locations(model, slide, locations_um)
    result = AnnData(
        estimate(prediction)[:, panel_column],
        obs=pd.DataFrame(index=pd.Index(names, dtype=object)),
        var=adata.var.iloc[var].copy(),
        layers={keys.EXPRESSED: prediction.expressed[:, panel_column]},
    )
    result.obsm[keys.SPATIAL] = locations_um
    return result


def _predict_cells(
    adata: AnnData, model: LoadedModel, opened: AnnDataSlide, estimate: Estimate, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(N, G) predictions and (N, G) P(expressed) of the cells, each while it is hidden."""
    var, panel_column = predicted_genes(adata, opened.slide, model)
    # A layer must have all genes of `adata`; those that the model does not know stay NaN.
    values, expressed = (np.full(adata.shape, np.nan, dtype=np.float32) for _ in range(2))
    for rows, prediction in predict_blocks(model, opened.slide, seed):
        cells = np.ix_(opened.rows[rows], var)
        values[cells] = estimate(prediction)[:, panel_column]
        expressed[cells] = prediction.expressed[:, panel_column]
    return values, expressed


def annotate(
    adata: AnnData,
    annotator: str = "markers",
    *,
    tissue: str | None = None,
    layer: str | None = None,
    trust_pickle: bool = False,
    seed: int = 0,
    copy: bool = False,
) -> AnnData:
    """Assign cell types, as `cifm annotate apply` does.

    Args:
        adata: N cells.
        annotator: `NAME` or `NAME:PATH`, of the annotators that `cifm annotate list` lists.
        tissue: Tissue, such as `breast`, whose types are assigned; by default that of a prepared slide.
        layer: Where the raw counts are: `X`, `raw`, or the name of a layer; by default the first that holds counts.
        trust_pickle: Read annotators that are stored as pickles. A pickle can run code.
        seed: Seed of the sample of cells to which an annotator is fitted.
        copy: Return a copy instead of changing `adata`.

    Returns:
        `adata`, or the copy, with the categorical column `obs["cifm_cell_type"]` (`unassigned` for cells without a clear
        type), its lineage `obs["cifm_cell_lineage"]`, and the confidence `obs["cifm_cell_type_score"]`, from 0 to 1.

    Raises:
        CifmError: There is no such annotator or tissue, or it cannot be used with these genes.

    Examples:
        >>> cifm.annotate(adata)
        >>> sc.pl.embedding(adata, "spatial", color="cifm_cell_type")
    """
    opened = open_adata(adata, layer, None)
    require_tissue(tissue or "", "tissue=")
    annotation = annotate_cells(opened.slide, annotator, seed=seed, trust_pickle=trust_pickle, tissue=tissue)
    result = adata.copy() if copy else adata
    types = pd.Categorical(opened.in_caller_order(annotation.labels), categories=list(annotation.names))
    result.obs[keys.CELL_TYPE] = types.remove_unused_categories()
    result.obs[keys.CELL_LINEAGE] = pd.Categorical([lineage_of(name) for name in types])
    result.obs[keys.CELL_TYPE_SCORE] = opened.in_caller_order(annotation.scores)
    record_provenance(result, keys.ANNOTATION, provenance.collect("annotate", seed=seed, annotator=annotator))
    return result
