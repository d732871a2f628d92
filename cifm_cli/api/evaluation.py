"""`cifm.evaluate`: a model compared with baselines, as tables."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cifm_cli import keys
from cifm_cli.api.slides import load, named_slides, open_with_split
from cifm_cli.errors import CifmError
from cifm_cli.evaluation.predictors.base import MODEL, ModelPredictor
from cifm_cli.evaluation.report.dataframes import paired_table, score_table
from cifm_cli.evaluation.report.files import per_cell, per_gene
from cifm_cli.evaluation.run import evaluate_slides
from cifm_cli.evaluation.setup import EvaluateConfig
from cifm_cli.inference.adaptation.option import check_adapt

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from cifm_cli.api.slides import Model
    from cifm_cli.data.in_memory import AnnDataSlide
    from cifm_cli.evaluation import run
    from cifm_cli.evaluation.evaluator import EvaluationResult
    from cifm_cli.inference.adaptation.adapt import Adapt

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """Scores of models and baselines on hidden cells.

    Args:
        metrics: The content of `metrics.json` (docs/evaluation.md), without provenance and without the relation of
            training slides to scored slides, which is known for files only.
        scores: One row per slide, geometry, gene set, predictor, form and metric: `value`.
        paired: One row per slide, geometry, gene set and metric: the model's best form minus the best baseline's best form
            (`difference`), with the 95 % interval of a paired spatial bootstrap (`low`, `high`) and p values.
        per_cell: One row per scored cell, predictor and form, with the cell's name (`cell`) and scores.
        per_gene: One row per gene, predictor and form, with scores.
    """

    metrics: dict[str, Any]
    scores: pd.DataFrame
    paired: pd.DataFrame
    per_cell: pd.DataFrame
    per_gene: pd.DataFrame


def evaluate(
    data: AnnData | Sequence[AnnData] | Mapping[str, AnnData],
    model: Model | Sequence[Model] | Mapping[str, Model],
    *,
    region: str | None = None,
    geometries: str | Sequence[str] = (),
    block_radii: Sequence[float] = (),
    num_folds: int | None = None,
    adapt: Adapt = "slide",
    annotator: str | None = None,
    trust_pickle: bool = False,
    layer: str | None = None,
    radius_um: float | None = None,
    seed: int = 0,
) -> Evaluation:
    """Compare models with baselines on the same hidden cells, as `cifm evaluate` does.

    Args:
        data: One slide, several, or slides by name. The regions are those of `obs["split"]`; a slide without this column
            gets the regional split of the paper, as in `cifm.train`.
        model: One model or the path of its run, several, or models by name. The first is called `model`, the others
            `model:NAME`.
        region: Region of hidden cells: `train`, `validation`, `test` or `all`; by default the recipe's, or `test`.
        geometries: `scattered` (5 % of the cells at a time), `region` (blocks) or `whole`, one or several; by default the
            recipe's, or `scattered` and `region`.
        block_radii: Sides of the blocks of `region`, in radii; by default the recipe's, or 5.
        num_folds: Largest number of folds per geometry; by default the recipe's, or as many as hide every cell once.
        adapt: `slide` to fit the models to the visible cells of each slide before they are scored (docs/adaptation.md), `none` to
            use them as trained.
        annotator: Also compare cell types of actual and predicted cells: `NAME` or `NAME:PATH`.
        trust_pickle: Read annotators that are stored as pickles. A pickle can run code.
        layer: Where the raw counts are: `X`, `raw`, or the name of a layer; by default the first that holds counts.
        radius_um: Radius of the graph, micrometres, if the recipe does not define it; by default that of the slide, or
            one derived from the spacing of the cells.
        seed: Seed of the folds, the random baselines and the bootstrap.

    Returns:
        The scores, as a dictionary and as tables.

    Raises:
        CifmError: A slide or model cannot be used, an argument is not one of those above, or the region is empty.

    Examples:
        >>> evaluation = cifm.evaluate(adata, model, geometries=["scattered"])
        >>> evaluation.paired.query("metric == 'spearman_cell' and genes == 'all'")
    """
    check_arguments(region, num_folds, adapt)
    models, adatas = _named_models(model, adapt), named_slides(data)
    slides = {name: open_with_split(adata, layer, radius_um, name) for name, adata in adatas.items()}
    config = EvaluateConfig(
        region=region or "",
        geometries=[geometries] if isinstance(geometries, str) else geometries,
        block_radii=block_radii,
        num_folds=num_folds,
        annotator=annotator,
        trust_pickle=trust_pickle,
        adapt=adapt,
        seed=seed,
    ).completed(models[0].model.checkpoint.recipe.evaluate)
    return _evaluate(slides, {name: adata.obs_names.to_numpy() for name, adata in adatas.items()}, models, config)


def _evaluate(
    slides: Mapping[str, AnnDataSlide],
    names: Mapping[str, NDArray[Any]],
    models: Sequence[ModelPredictor],
    config: EvaluateConfig,
) -> Evaluation:
    """Evaluate models on slides; `names` are the caller's names of the cells of each slide."""
    if config.region in (keys.TRAIN, keys.ALL):
        logger.warning(
            "region %s: scores of cells on which the model was trained do not show how well it predicts new cells",
            config.region,
        )
    evaluation = evaluate_slides([opened.slide for opened in slides.values()], models, config)
    for of_slide in evaluation.metrics["slides"].values():
        # The scenario compares the files of the scored slides with those of the training data; here there are no files.
        del of_slide["scenario"]
    return as_tables(evaluation, slides, names)


def as_tables(
    evaluation: run.Evaluation, slides: Mapping[str, AnnDataSlide], names: Mapping[str, NDArray[Any]]
) -> Evaluation:
    """The results with tables."""
    results = [result for of_slide in evaluation.results.values() for result in of_slide]
    return Evaluation(
        metrics=evaluation.metrics,
        scores=score_table(evaluation.metrics),
        paired=paired_table(evaluation.metrics),
        per_cell=pd.concat([_per_cell(result, slides, names) for result in results], ignore_index=True),
        per_gene=pd.concat(map(per_gene, results), ignore_index=True),
    )


def check_arguments(region: str | None, num_folds: int | None, adapt: str) -> None:
    """Refuse a region or a kind of adaptation that does not exist, and an evaluation without folds."""
    check_adapt(adapt)
    regions = (keys.TRAIN, keys.VALIDATION, keys.TEST, keys.ALL)
    if region and region not in regions:
        raise CifmError(f"region: {region}", f"known are {', '.join(regions)}")
    if num_folds is not None and num_folds < 1:
        raise CifmError(f"num_folds: {num_folds}", "give at least 1, or leave it out to hide every cell once")


def _per_cell(
    result: EvaluationResult, slides: Mapping[str, AnnDataSlide], names: Mapping[str, NDArray[Any]]
) -> pd.DataFrame:
    """Scores of the cells, with the caller's names and in the caller's order."""
    table = per_cell(result).drop(columns="barcode")
    slide = result.dataset.slide.name
    row = slides[slide].rows[table.pop("row").to_numpy()]
    table.insert(0, "cell", names[slide][row])
    return table.iloc[np.argsort(row, kind="stable")]


def _named_models(given: Model | Sequence[Model] | Mapping[str, Model], adapt: Adapt) -> list[ModelPredictor]:
    """Predictors of the models; the first is called `model`, the others `model:NAME`."""
    if isinstance(given, Mapping):
        models = {name: load(model) for name, model in given.items()}
    else:
        several = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
        loaded = [load(model) for model in several]
        names = [model.checkpoint.folder.name for model in loaded]
        models = dict(zip(names, loaded, strict=True))
        if len(models) < len(loaded):
            raise CifmError(
                f"two models are called {max(names, key=names.count)}", "give models by name: {name: model}"
            )
    if not models:
        raise CifmError("no model to evaluate", "give at least one model")
    return [
        ModelPredictor(MODEL if position == 0 else f"{MODEL}:{name}", model, adapt)
        for position, (name, model) in enumerate(models.items())
    ]
