"""What is judged: what the user asked for, the models, and one slide with all that every process needs to judge on it."""

from __future__ import annotations

from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from io import StringIO
from typing import TYPE_CHECKING

from cifm_cli.data.slide import open_slide
from cifm_cli.errors import CifmError
from cifm_cli.evaluation.agreement import find_annotator
from cifm_cli.evaluation.baselines import all_baselines
from cifm_cli.evaluation.bench import set_up_bench
from cifm_cli.evaluation.board import MODEL
from cifm_cli.evaluation.judge import open_verdict
from cifm_cli.evaluation.plan import plan_rounds, tuning_region
from cifm_cli.evaluation.predictors import BaselinePredictor, ModelPredictor
from cifm_cli.evaluation.protocols import geometry_names
from cifm_cli.evaluation.trial import Trial
from cifm_cli.inference.loaded_model import load_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cifm_cli.celltype.base import Annotator
    from cifm_cli.evaluation.bench import Bench
    from cifm_cli.evaluation.predictors import Predictor
    from cifm_cli.recipe_sections import EvaluateRecipe, Precision


@dataclass(frozen=True)
class Request:
    """What the user asked for; `completed` by the recipe in what it leaves open.

    Args:
        slides: Prepared slides.
        models: Runs; the first is `model` and sets radius and receptive field of the baselines.
        out: Folder to write to.
        region: `train`, `validation`, `test` or `all`; empty: the recipe's.
        geometries: Of `protocols.KINDS`; empty: the recipe's.
        block_radii: Sides of the blocks of `region`, in radii; empty: the recipe's.
        num_rounds: Most rounds of each geometry; absent: the recipe's, or all, unless that is too much for memory.
        annotator: `NAME` or `NAME:PATH`; absent: the recipe's, or no typing.
        trust_pickle: Whether an annotator may be a pickle.
        save_predictions: Also write predictions of every scored cell.
        backend: `auto` or a registered name.
        device: `auto` or a torch device.
        precision: Of matrix products.
        seed: Of masks, random baselines and bootstrap.
        devices: How many processes judge together; the numbers are the same, bit for bit.
    """

    slides: Sequence[Path]
    models: Sequence[Path]
    out: Path
    region: str = ""
    geometries: Sequence[str] = ()
    block_radii: Sequence[float] = ()
    num_rounds: int | None = None
    annotator: str | None = None
    trust_pickle: bool = False
    save_predictions: bool = False
    backend: str = "auto"
    device: str = "auto"
    precision: Precision = "float32"
    seed: int = 0
    devices: int = 1

    def completed(self, recipe: EvaluateRecipe) -> Request:
        """The same, with the recipe's word where the user gave none."""
        return replace(
            self,
            region=self.region or recipe.region,
            geometries=self.geometries or recipe.geometries,
            block_radii=self.block_radii or recipe.block_radii,
            num_rounds=self.num_rounds or recipe.rounds,
            annotator=self.annotator or recipe.annotator,
        )

    @property
    def geometry_names(self) -> list[str]:
        """Every geometry by its name in the results, once."""
        return list(dict.fromkeys(geometry_names(self.geometries, self.block_radii)))

    def load_models(self, device: str | None = None) -> list[ModelPredictor]:
        """Load the models, on the device that the user named unless there is another.

        Raises:
            CifmError: A checkpoint can't be used, or there is no such device.
            BackendUnavailableError: There is no such backend here.
        """
        return [
            ModelPredictor(
                MODEL if position == 0 else f"{MODEL}:{run.name}",
                load_model(run, self.backend, device or self.device, self.precision),
            )
            for position, run in enumerate(self.models)
        ]


@dataclass(frozen=True)
class Stage:
    """One slide, and everybody who infers its hidden cells.

    Args:
        bench: The slide and what is scored.
        predictors: Models first, then baselines.
        tuned_on: The region that everybody is tuned on.
        annotator: Types cells, where one was asked for.
    """

    bench: Bench
    predictors: list[Predictor]
    tuned_on: str
    annotator: Annotator | None

    def predictor(self, name: str) -> Predictor:
        """One of the predictors."""
        return next(predictor for predictor in self.predictors if predictor.name == name)

    def check(self, request: Request) -> None:
        """Plan every geometry once, silently, so that one that can't be is refused before any other is judged.

        Raises:
            CifmError: There are too few cells.
        """
        with redirect_stderr(StringIO()):  # `open_trial` says it
            for geometry in request.geometry_names:
                plan_rounds(self.bench, geometry, request.region, self.tuned_on, request.num_rounds)

    def open_trial(self, request: Request, geometry: str) -> Trial:
        """Hide cells.

        Raises:
            CifmError: There are too few.
        """
        tuning, rounds = plan_rounds(self.bench, geometry, request.region, self.tuned_on, request.num_rounds)
        models = [predictor.name for predictor in self.predictors if isinstance(predictor, ModelPredictor)]
        keep = [*models, "weighted_knn"] if request.save_predictions else []
        return Trial(open_verdict(self.bench, geometry, rounds, self.annotator), rounds, tuning, keep)


def set_stage(request: Request, path: Path, models: Sequence[ModelPredictor]) -> Stage:
    """Open a slide for the models.

    Args:
        request: What to score.
        path: The prepared slide.
        models: The first sets radius and reach.

    Returns:
        The stage.

    Raises:
        CifmError: The slide can't be used, or its region is empty.
    """
    slide = open_slide(path)
    if not len(slide.region(request.region)):
        raise CifmError(
            f"slide {slide.name}: no cells in its {request.region} region", "evaluate all of its cells: --region all"
        )
    bench = set_up_bench(slide, [model.engine for model in models], request.seed)
    tuned_on = tuning_region(slide, request.region)
    annotator = None
    if request.annotator:
        annotator = find_annotator(request.annotator, bench, trust_pickle=request.trust_pickle)
    return Stage(bench, [*models, *map(BaselinePredictor, all_baselines())], tuned_on, annotator)
