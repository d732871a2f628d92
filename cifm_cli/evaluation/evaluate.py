"""The whole of `cifm evaluate`: open models and slides, hide, tune, score, and write what was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli import keys, provenance
from cifm_cli.data.slide import open_slide
from cifm_cli.errors import CifmError
from cifm_cli.evaluation import outputs
from cifm_cli.evaluation.agreement import find_annotator
from cifm_cli.evaluation.baselines import BASELINES
from cifm_cli.evaluation.judge import MODEL, judge
from cifm_cli.evaluation.predictors import BaselinePredictor, ModelPredictor, set_up_bench
from cifm_cli.evaluation.protocols import GEOMETRIES, hide
from cifm_cli.evaluation.summary import show
from cifm_cli.evaluation.tuning import NUM_ROUNDS
from cifm_cli.inference.engine import load_engine
from cifm_cli.report.terminal import say, warn

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.evaluation.judge import Verdict
    from cifm_cli.evaluation.predictors import Bench, Predictor
    from cifm_cli.evaluation.protocols import Round

MOST_VALUES = 30_000_000  # cells times genes scored at once unless the user says otherwise: 120 MB for each array


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Args:
        slides: Prepared slides.
        models: Runs; the first is `model` and sets radius and receptive field of the baselines.
        out: Folder to write to.
        region: `train`, `validation`, `test` or `all`.
        geometries: Of `protocols.GEOMETRIES`.
        num_rounds: Most rounds of each geometry; absent: all, unless that is too much for memory.
        annotator: `markers` or `markers:FILE.tsv`; absent: no typing.
        save_predictions: Also write predictions of every scored cell.
        backend: `auto` or a registered name.
        device: `auto` or a torch device.
        seed: Of masks, random baselines and bootstrap.
    """

    slides: Sequence[Path]
    models: Sequence[Path]
    out: Path
    region: str = keys.TEST
    geometries: Sequence[str] = GEOMETRIES
    num_rounds: int | None = None
    annotator: str | None = None
    save_predictions: bool = False
    backend: str = "auto"
    device: str = "auto"
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
            MODEL if position == 0 else f"{MODEL}:{run.name}", load_engine(run, request.backend, request.device)
        )
        for position, run in enumerate(request.models)
    ]
    first = models[0].engine
    say(f"backend {first.backend.name} ({first.backend.version()}), {first.device}")
    origin = provenance.collect(
        "evaluate",
        seed=request.seed,
        inputs=[*request.slides, *(run / "model.safetensors" for run in request.models)],
        backend=first.backend.name,
        device=str(first.device),
        models={model.name: str(run) for model, run in zip(models, request.models, strict=True)},
        region=request.region,
        annotator=request.annotator,
    )
    verdicts: dict[str, list[Verdict]] = {}
    result: dict[str, Any] = {"slides": {}, "provenance": origin}
    for path in request.slides:
        slide = open_slide(path)
        verdicts[slide.name], facts = _evaluate_slide(request, slide, models)
        result["slides"][slide.name] = facts
    outputs.write(request.out, result, verdicts, save_predictions=request.save_predictions)
    say(f"report and tables: {request.out}")
    return result


def _evaluate_slide(
    request: Request, slide: Slide, models: Sequence[ModelPredictor]
) -> tuple[list[Verdict], dict[str, Any]]:
    """Score one slide in every geometry, and tell it."""
    rows = slide.region(request.region)
    if not len(rows):
        raise CifmError(
            f"slide {slide.name}: no cells in its {request.region} region", "evaluate all of its cells: --region all"
        )
    bench = set_up_bench(slide, [model.engine for model in models], request.seed)
    tuned_on, tuning_rows = _tuning_region(slide, request.region)
    predictors: list[Predictor] = [*models, *map(BaselinePredictor, BASELINES)]
    keep = [model.name for model in models] + ["weighted_knn"] if request.save_predictions else []
    annotator = find_annotator(request.annotator, bench) if request.annotator else None
    verdicts = []
    for geometry in request.geometries:
        rounds = _rounds(request, bench, geometry, rows)
        tuning_rounds = hide(geometry, bench.slide.xy_um, tuning_rows, bench.radius_um, request.seed)
        tuning_rounds = _affordable(tuning_rounds, bench)[:NUM_ROUNDS]
        if not rounds or not tuning_rounds:
            raise CifmError(
                f"slide {slide.name}: too few cells to hide some in the {geometry} geometry",
                "evaluate a larger slide, or all of its cells: --region all",
            )
        verdicts.append(judge(bench, geometry, predictors, rounds, tuning_rounds, keep, annotator))
        show(verdicts[-1], request.region)
    facts = {
        "region": request.region,
        "tuned_on": tuned_on,
        "num_genes": len(bench.columns),
        "radius_um": bench.radius_um,
        "geometries": {verdict.geometry: verdict.facts() for verdict in verdicts},
    }
    return verdicts, facts


def _tuning_region(slide: Slide, scored: str) -> tuple[str, Rows]:
    """Validation, unless it is scored or empty: then the training region."""
    if scored != keys.VALIDATION and len(slide.region(keys.VALIDATION)):
        return keys.VALIDATION, slide.region(keys.VALIDATION)
    why = "is what is scored" if scored == keys.VALIDATION else "has no cells"
    warn(f"slide {slide.name}: its validation region {why}; baselines and gates are tuned on the training region")
    return keys.TRAIN, slide.region(keys.TRAIN)


def _rounds(request: Request, bench: Bench, geometry: str, rows: Rows) -> list[Round]:
    """As many rounds as were asked for, or as fit in memory."""
    rounds = hide(geometry, bench.slide.xy_um, rows, bench.radius_um, request.seed)
    if request.num_rounds is not None:
        return rounds[: request.num_rounds]
    affordable = _affordable(rounds, bench)
    if len(affordable) < len(rounds):
        scored = sum(len(part.hidden) for part in affordable)
        say(f"{bench.slide.name}, {geometry}: scoring {scored:,} of {len(rows):,} cells; more with --rounds")
    return affordable


def _affordable(rounds: list[Round], bench: Bench) -> list[Round]:
    """The first rounds, as long as cells times genes stay within bounds; at least one."""
    values = np.cumsum([len(part.hidden) * len(bench.columns) for part in rounds])
    return rounds[: max(1, int(np.searchsorted(values, MOST_VALUES, side="right")))]


def _refuse_repeats(what: str, names: Sequence[str]) -> None:
    """Results are told apart by name."""
    for name in names:
        if names.count(name) > 1:
            raise CifmError(f"two {what} are called {name}", "rename one of them, or evaluate them one by one")
