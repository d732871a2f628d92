"""The whole of `cifm evaluate`: open models and slides, hide, tune, score, and write what was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cifm_cli import keys, provenance
from cifm_cli.celltype.registry import model_files
from cifm_cli.data.slide import open_slide
from cifm_cli.errors import CifmError
from cifm_cli.evaluation import breakdown, ceiling, metrics, outputs, subsets
from cifm_cli.evaluation.agreement import find_annotator
from cifm_cli.evaluation.baselines import all_baselines
from cifm_cli.evaluation.board import MODEL
from cifm_cli.evaluation.judge import judge
from cifm_cli.evaluation.overall import overall
from cifm_cli.evaluation.plan import plan_rounds, tuning_region
from cifm_cli.evaluation.predictors import BaselinePredictor, ModelPredictor, set_up_bench
from cifm_cli.evaluation.protocols import BLOCK_RADII, GEOMETRIES, geometry_names
from cifm_cli.evaluation.scenario import scenario
from cifm_cli.evaluation.summary import show
from cifm_cli.inference.engine import load_engine
from cifm_cli.report.terminal import say

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cifm_cli.data.slide import Slide
    from cifm_cli.evaluation.judge import Verdict
    from cifm_cli.evaluation.predictors import Predictor
    from cifm_cli.recipe_sections import Precision

SEED_NOTE = (
    "one draw of masks, of the random baselines and of the bootstrap; results of other seeds are other draws on the same "
    "model and tissue, not replicates of either"
)


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Args:
        slides: Prepared slides.
        models: Runs; the first is `model` and sets radius and receptive field of the baselines.
        out: Folder to write to.
        region: `train`, `validation`, `test` or `all`.
        geometries: Of `protocols.KINDS`.
        block_radii: Sides of the blocks of `region`, in radii.
        num_rounds: Most rounds of each geometry; absent: all, unless that is too much for memory.
        annotator: `NAME` or `NAME:PATH`; absent: no typing.
        trust_pickle: Whether an annotator may be a pickle.
        save_predictions: Also write predictions of every scored cell.
        backend: `auto` or a registered name.
        device: `auto` or a torch device.
        precision: Of matrix products.
        seed: Of masks, random baselines and bootstrap.
    """

    slides: Sequence[Path]
    models: Sequence[Path]
    out: Path
    region: str = keys.TEST
    geometries: Sequence[str] = GEOMETRIES
    block_radii: Sequence[float] = (BLOCK_RADII,)
    num_rounds: int | None = None
    annotator: str | None = None
    trust_pickle: bool = False
    save_predictions: bool = False
    backend: str = "auto"
    device: str = "auto"
    precision: Precision = "float32"
    seed: int = 0


def evaluate(request: Request) -> dict[str, Any]:
    """Score models beside the baselines, on the same hidden cells.

    Args:
        request: What to score.

    Returns:
        The content of `metrics.json`.

    Raises:
        CifmError: A slide or model can't be used, or the region is empty.
        BackendUnavailableError: There is no such backend here.
    """
    _refuse_repeats("slides", [path.stem for path in request.slides])
    _refuse_repeats("runs", [run.name for run in request.models])
    models = [
        ModelPredictor(
            MODEL if position == 0 else f"{MODEL}:{run.name}",
            load_engine(run, request.backend, request.device, request.precision),
        )
        for position, run in enumerate(request.models)
    ]
    first = models[0].engine
    say(f"backend {first.backend.name} ({first.backend.version()}), {first.device}")
    origin = provenance.collect(
        "evaluate",
        seed=request.seed,
        inputs=[
            *request.slides,
            *(run / "model.safetensors" for run in request.models),
            *model_files(request.annotator),
        ],
        backend=first.backend.name,
        device=str(first.device),
        precision=first.precision,
        models={model.name: str(run) for model, run in zip(models, request.models, strict=True)},
        region=request.region,
        annotator=request.annotator,
    )
    verdicts: dict[str, list[Verdict]] = {}
    result: dict[str, Any] = {"slides": {}, "definitions": definitions(), "provenance": origin}
    for path in request.slides:
        slide = open_slide(path)
        verdicts[slide.name], facts = _evaluate_slide(request, slide, origin["inputs"][path.as_posix()], models)
        result["slides"][slide.name] = facts
    if len(verdicts) > 1:
        result["overall"] = overall(verdicts, request.seed)
    outputs.write(request.out, result, verdicts, save_predictions=request.save_predictions)
    say(f"report and tables: {request.out}")
    return result


def _evaluate_slide(
    request: Request, slide: Slide, digest: str, models: Sequence[ModelPredictor]
) -> tuple[list[Verdict], dict[str, Any]]:
    """Score one slide in every geometry, and tell it."""
    if not len(slide.region(request.region)):
        raise CifmError(
            f"slide {slide.name}: no cells in its {request.region} region", "evaluate all of its cells: --region all"
        )
    bench = set_up_bench(slide, [model.engine for model in models], request.seed)
    tuned_on = tuning_region(slide, request.region)
    predictors: list[Predictor] = [*models, *map(BaselinePredictor, all_baselines())]
    keep = [model.name for model in models] + ["weighted_knn"] if request.save_predictions else []
    annotator = None
    if request.annotator:
        annotator = find_annotator(request.annotator, bench, trust_pickle=request.trust_pickle)
    verdicts = []
    for geometry in geometry_names(request.geometries, request.block_radii):
        tuning, rounds = plan_rounds(bench, geometry, request.region, tuned_on, request.num_rounds)
        verdicts.append(judge(bench, geometry, predictors, rounds, tuning, keep, annotator))
        show(verdicts[-1], request.region)
    facts = {
        "region": request.region,
        "tuned_on": tuned_on,
        "scenario": {model.name: scenario(slide, digest, model.engine.checkpoint.provenance) for model in models},
        "num_genes": len(bench.columns),
        "radius_um": bench.radius_um,
        "geometries": {verdict.geometry: verdict.facts() for verdict in verdicts},
    }
    return verdicts, facts


def definitions() -> dict[str, Any]:
    """What the numbers of `metrics.json` are, beside them."""
    return {
        "metrics": metrics.DEFINITIONS,
        "subsets": subsets.DEFINITIONS,
        "ceiling": ceiling.DEFINITION,
        "calibration": breakdown.DEFINITION,
        "p": "two-sided, from the bootstrap; p_holm is corrected for the number of metrics (Holm)",
        "seed": SEED_NOTE,
    }


def _refuse_repeats(what: str, names: Sequence[str]) -> None:
    """Results are told apart by name."""
    for name in names:
        if names.count(name) > 1:
            raise CifmError(f"two {what} are called {name}", "rename one of them, or evaluate them one by one")
