"""What is evaluated: the user's choices, and one slide with the predictors and folds that belong to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cifm_cli.errors import CifmError
from cifm_cli.evaluation.dataset import open_dataset
from cifm_cli.evaluation.evaluator import Evaluator, open_result
from cifm_cli.evaluation.fold_plan import FoldPlanner, tuning_region
from cifm_cli.evaluation.folds import geometry_names
from cifm_cli.evaluation.metrics.cell_types import annotator_for
from cifm_cli.evaluation.predictors.base import BaselinePredictor
from cifm_cli.evaluation.predictors.registry import all_baselines

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cifm_cli.celltype.base import Annotator
    from cifm_cli.data.slide import Slide
    from cifm_cli.evaluation.dataset import EvaluationDataset
    from cifm_cli.evaluation.folds import FoldPlan
    from cifm_cli.evaluation.predictors.base import ModelPredictor, Predictor
    from cifm_cli.recipe_sections import EvaluateRecipe, Precision

SAVED_BASELINE = "weighted_knn"  # its predictions are saved beside those of the models


@dataclass(frozen=True)
class EvaluateConfig:
    """The user's choices; `completed` fills in what they leave open from the recipe."""

    slides: Sequence[Path] = ()  # prepared slides
    models: Sequence[Path] = ()  # runs; the first is `model` and sets radius and receptive field of the baselines
    region: str = ""  # `train`, `validation`, `test` or `all`; empty: the recipe's
    geometries: Sequence[str] = ()  # of `folds.KINDS`; empty: the recipe's
    block_radii: Sequence[float] = ()  # sides of the blocks of `region`, in radii; empty: the recipe's
    num_folds: int | None = None  # most folds of each geometry; absent: the recipe's, or as many as fit into memory
    annotator: str | None = None  # `NAME` or `NAME:PATH`; absent: the recipe's, or no cell types
    trust_pickle: bool = False  # whether an annotator may be a pickle
    save_predictions: bool = False  # also write predictions of every scored cell
    backend: str = "auto"  # `auto` or a registered name
    device: str = "auto"  # `auto` or a torch device
    precision: Precision = "float32"  # of matrix products
    seed: int = 0  # of folds, random baselines and bootstrap
    num_processes: int = 1  # processes that share the predictors; the numbers are the same, bit for bit
    adapt: str = "none"  # `slide`: the models are adapted to the visible cells of each slide; `none`: used as trained

    def completed(self, recipe: EvaluateRecipe) -> EvaluateConfig:
        """The same choices, with those of a recipe where the user made none."""
        return replace(
            self,
            region=self.region or recipe.region,
            geometries=self.geometries or recipe.geometries,
            block_radii=self.block_radii or recipe.block_radii,
            num_folds=self.num_folds or recipe.rounds,
            annotator=self.annotator or recipe.annotator,
        )

    @property
    def geometry_names(self) -> list[str]:
        """Every geometry by its name in the results, once."""
        return geometry_names(self.geometries, self.block_radii)


@dataclass(frozen=True)
class SlideSetup:
    """One slide with all predictors."""

    dataset: EvaluationDataset
    predictors: list[Predictor]  # models first, then baselines
    planner: FoldPlanner
    annotator: Annotator | None  # assigns cell types, where the user asked for them
    save: tuple[str, ...]  # names of the predictors whose predictions are saved
    notes: tuple[str, ...]  # warnings for the user

    @property
    def name(self) -> str:
        """Name of the slide."""
        return self.dataset.slide.name

    def predictor(self, name: str) -> Predictor:
        """The predictor of a name."""
        return next(predictor for predictor in self.predictors if predictor.name == name)

    def evaluator(self, geometry: str, plan: FoldPlan) -> Evaluator:
        """Prepare the evaluation of a geometry."""
        self.dataset.plans[geometry] = plan
        result = open_result(self.dataset, geometry, plan.scored, self.annotator)
        return Evaluator(result, plan.scored, plan.tuning, self.save)


def set_up(config: EvaluateConfig, slide: Slide, models: Sequence[ModelPredictor]) -> SlideSetup:
    """Prepare the evaluation of a slide.

    Args:
        config: The user's choices, completed.
        slide: The slide.
        models: The first sets radius and receptive field of the baselines.

    Returns:
        The setup.

    Raises:
        CifmError: The slide can't be used, or its region is empty.
    """
    if not len(slide.region(config.region)):
        raise CifmError(
            f"slide {slide.name}: no cells in its {config.region} region", "evaluate all of its cells: --region all"
        )
    adapted = all(predictor.adapts for predictor in models)
    dataset = open_dataset(slide, [predictor.model for predictor in models], config.seed, adapted=adapted)
    tuned_on, note = tuning_region(slide, config.region)
    planner = FoldPlanner(dataset, config.region, tuned_on, config.num_folds)
    annotator = None
    if config.annotator:
        annotator = annotator_for(config.annotator, dataset, trust_pickle=config.trust_pickle)
    predictors: list[Predictor] = [*models, *map(BaselinePredictor, all_baselines())]
    save = (*(model.name for model in models), SAVED_BASELINE) if config.save_predictions else ()
    return SlideSetup(dataset, predictors, planner, annotator, save, (note,) if note else ())
