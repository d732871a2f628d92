"""The whole of `cifm evaluate`: open models and slides, hide, tune, score, and write what was found."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli import provenance
from cifm_cli.celltype.registry import model_files
from cifm_cli.errors import CifmError
from cifm_cli.evaluation import breakdown, ceiling, metrics, outputs, subsets
from cifm_cli.evaluation.judge import run_trial
from cifm_cli.evaluation.overall import overall
from cifm_cli.evaluation.scenario import scenario
from cifm_cli.evaluation.stage import set_stage
from cifm_cli.evaluation.summary import show, show_overall
from cifm_cli.evaluation.together import assemble
from cifm_cli.report.terminal import say

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cifm_cli.evaluation.judge import Verdict
    from cifm_cli.evaluation.predictors import ModelPredictor
    from cifm_cli.evaluation.stage import Request, Stage
    from cifm_cli.evaluation.together import Crew

SEED_NOTE = (
    "one draw of masks, of the random baselines and of the bootstrap; results of other seeds are other draws on the same "
    "model and tissue, not replicates of either"
)


def evaluate(request: Request) -> dict[str, Any]:
    """Score models beside the baselines, on the same hidden cells.

    Args:
        request: What to score.

    Returns:
        The content of `metrics.json`.

    Raises:
        CifmError: A slide or model can't be used, the region is empty, or the results can't be written.
        BackendUnavailableError: There is no such backend here.
    """
    _refuse_repeats("slides", [path.stem for path in request.slides])
    _refuse_repeats("runs", [run.name for run in request.models])
    outputs.check_folder(request.out)
    models = request.load_models()
    first = models[0].engine
    request = request.completed(first.checkpoint.recipe.evaluate)
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
    # All of them before anybody works: what is wrong with the last is not to cost the work on the others.
    stages = {path: set_stage(request, path, models) for path in request.slides}
    for stage in stages.values():
        stage.check(request)
    verdicts: dict[str, list[Verdict]] = {}
    result: dict[str, Any] = {"slides": {}, "definitions": definitions(), "provenance": origin}
    with assemble(request) as crew:
        for path, stage in stages.items():
            name = stage.bench.slide.name
            verdicts[name] = _judge_slide(request, path, stage, crew)
            result["slides"][name] = _facts(request, stage, origin["inputs"][path.as_posix()], models, verdicts[name])
    if len(verdicts) > 1:
        result["overall"] = overall(verdicts, request.seed)
        show_overall(result["overall"])
    outputs.write(request.out, result, verdicts, save_predictions=request.save_predictions)
    say(f"report and tables: {request.out}")
    return result


def _judge_slide(request: Request, path: Path, stage: Stage, crew: Crew | None) -> list[Verdict]:
    """Judge one slide in every geometry, and tell it."""
    if crew:
        crew.begin(path, request.geometry_names, [predictor.name for predictor in stage.predictors])
    verdicts = []
    for geometry in request.geometry_names:
        trial = stage.open_trial(request, geometry)
        examine = partial(crew.examine, path, trial) if crew else trial.examine
        verdicts.append(run_trial(trial, stage.predictors, examine))
        show(verdicts[-1], request.region)
        stage.bench.forget()
    return verdicts


def _facts(
    request: Request, stage: Stage, digest: str, models: Sequence[ModelPredictor], verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    """The part of `metrics.json` that tells of one slide."""
    bench = stage.bench
    scored = np.unique(np.concatenate([verdict.rows for verdict in verdicts]))

    def how_new(model: ModelPredictor) -> dict[str, Any]:
        known = model.engine.checkpoint
        return scenario(bench.slide, digest, known.provenance, scored, known.recipe.data.validation_slides)

    return {
        "region": request.region,
        "tuned_on": stage.tuned_on,
        "scenario": {model.name: how_new(model) for model in models},
        "num_genes": len(bench.columns),
        "radius_um": bench.radius_um,
        "geometries": {verdict.geometry: verdict.facts() for verdict in verdicts},
    }


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
