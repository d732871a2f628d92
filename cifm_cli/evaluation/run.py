"""The evaluation as a whole: open models and slides, and evaluate every predictor."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cifm_cli import provenance
from cifm_cli.celltype.registry import model_files
from cifm_cli.data.slide import open_slide
from cifm_cli.errors import CifmError
from cifm_cli.evaluation.comparison import overall
from cifm_cli.evaluation.metrics import calibration, expression, gene_sets, noise_ceiling
from cifm_cli.evaluation.parallel import evaluation_pool, load_models, order_tasks
from cifm_cli.evaluation.predictors.base import MODEL
from cifm_cli.evaluation.report.tables import describe_overall, overall_table, result_tables
from cifm_cli.evaluation.setup import set_up
from cifm_cli.evaluation.slide_checks import check_setup
from cifm_cli.evaluation.verdict import describe_verdict
from cifm_cli.path_text import file_name, path_text
from cifm_cli.report.terminal import progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from cifm_cli.data.slide import Slide
    from cifm_cli.evaluation.comparison import Comparison
    from cifm_cli.evaluation.evaluator import EvaluationResult, Evaluator, PredictorResult
    from cifm_cli.evaluation.parallel import EvaluationTask
    from cifm_cli.evaluation.predictors.base import ModelPredictor
    from cifm_cli.evaluation.setup import EvaluateConfig, SlideSetup
    from cifm_cli.evaluation.slide_checks import SlideChecks
    from cifm_cli.processes import WorkerPool
    from cifm_cli.report.table import Table

    ShowTable = Callable[[str, Table], None]

logger = logging.getLogger(__name__)

SEED_NOTE = (
    "one draw of masks, of the random baselines and of the bootstrap; results of other seeds are other draws on the same "
    "model and tissue, not replicates of either"
)


@dataclass(frozen=True)
class Evaluation:
    """The results on all slides."""

    metrics: dict[str, Any]  # the content of `metrics.json`
    results: dict[str, list[EvaluationResult]]  # slide name to its results, one for each geometry


def evaluate(config: EvaluateConfig, show_table: ShowTable = lambda *_: None) -> Evaluation:
    """Open the models and slides of a config, and score the models beside the baselines on the same hidden cells.

    Args:
        config: The user's choices.
        show_table: Called with the title and content of each table as soon as it is known.

    Returns:
        Metrics, which contain the provenance, and results; `report.files.write` writes both.

    Raises:
        CifmError: A slide or model can't be used, or the region is empty.
        BackendUnavailableError: There is no such backend here.
    """
    refuse_duplicates("slides", [file_name(path) for path in config.slides])
    refuse_duplicates("runs", [run.name for run in config.models])
    models = load_models(config)
    first = models[0].model
    config = config.completed(first.checkpoint.recipe.evaluate)
    logger.info("backend %s (%s), %s", first.backend.name, first.backend.version(), first.device)
    origin = provenance.collect(
        "evaluate",
        seed=config.seed,
        inputs=[
            *config.slides,
            *(run / "model.safetensors" for run in config.models),
            *model_files(config.annotator),
        ],
        backend=first.backend.name,
        device=str(first.device),
        precision=first.precision,
        models={model.name: path_text(run) for model, run in zip(models, config.models, strict=True)},
        region=config.region,
        rounds=config.num_folds,
        adapt=config.adapt,
        annotator=config.annotator,
    )
    digests = {file_name(path): origin["inputs"][path_text(path)] for path in config.slides}
    evaluation = evaluate_slides(map(open_slide, config.slides), models, config, digests, show_table)
    origin["adaptation"] = adaptation_choices(evaluation)
    leading = {key: evaluation.metrics[key] for key in ("verdict", "slides", "definitions")}
    return replace(evaluation, metrics={**leading, "provenance": origin, **evaluation.metrics})


def evaluate_slides(
    slides: Iterable[Slide],
    models: Sequence[ModelPredictor],
    config: EvaluateConfig,
    digests: Mapping[str, str] | None = None,
    show_table: ShowTable = lambda *_: None,
) -> Evaluation:
    """Score models beside the baselines on slides, without writing anything.

    Args:
        slides: Slides with different names; with several processes they must have files.
        models: The first is called `model` and sets radius and receptive field of the baselines.
        config: The user's choices, completed; its `slides` and `models` are not used.
        digests: Slide name to the SHA-256 of its file, by which training slides are recognised.
        show_table: Called with the title and content of each table as soon as it is known.

    Returns:
        Metrics and results.

    Raises:
        CifmError: A slide can't be used, or its region is empty.
    """
    scored = score_slides(slides, models, config, digests, show_table)
    return with_verdict(compare_slides(scored, config.seed, show_table) if len(scored.results) > 1 else scored)


def adaptation_choices(evaluation: Evaluation) -> dict[str, Any]:
    """What the adaptations of the models chose, for the provenance: by slide, geometry and model.

    Args:
        evaluation: The results.

    Returns:
        Entries of adapted models only. Where the folds of a geometry have adaptations of their own, that of the last fold.
    """
    return {
        name: {result.geometry: result.adaptations for result in of_slide}
        for name, of_slide in evaluation.results.items()
        if any(result.adaptations for result in of_slide)
    }


def with_verdict(evaluation: Evaluation) -> Evaluation:
    """The same with the entry `verdict` of the metrics; several slides must have been compared."""
    return replace(evaluation, metrics={"verdict": describe_verdict(evaluation.metrics), **evaluation.metrics})


def score_slides(
    slides: Iterable[Slide],
    models: Sequence[ModelPredictor],
    config: EvaluateConfig,
    digests: Mapping[str, str] | None = None,
    show_table: ShowTable = lambda *_: None,
) -> Evaluation:
    """Do what `evaluate_slides` does, without the comparison over all slides."""
    return _Run(models, config, digests or {}, show_table).evaluate(slides)


def compare_slides(
    evaluation: Evaluation,
    seed: int,
    show_table: ShowTable = lambda *_: None,
    groups: Mapping[str, str] | None = None,
) -> Evaluation:
    """Compare the model with the best baseline over several slides.

    Args:
        evaluation: The results on at least two slides.
        seed: The user's seed.
        show_table: As in `evaluate_slides`.
        groups: Name of a slide to its group; the slides of a group are resampled together. None: each is a group.

    Returns:
        The same with the entry `overall` of the metrics.
    """
    results = evaluation.results
    group_of_slide = None if groups is None else [groups[name] for name in results]
    found = overall(_by_geometry(results), seed, group_of_slide)
    for geometry, paired in found.items():
        title = f"{describe_overall(geometry, paired)}: {MODEL} minus the best baseline, mean over slides"
        show_table(title, overall_table(paired))
    return replace(evaluation, metrics={**evaluation.metrics, "overall": found})


@dataclass(frozen=True)
class _Run:
    """One evaluation."""

    models: Sequence[ModelPredictor]
    config: EvaluateConfig
    digests: Mapping[str, str]
    show_table: ShowTable

    def evaluate(self, slides: Iterable[Slide]) -> Evaluation:
        """Set up all slides, then evaluate one after the other."""
        setups = [set_up(self.config, slide, self.models) for slide in slides]
        checks: dict[str, SlideChecks] = {}
        for setup in setups:  # every plan first: an error on the last slide must not cost the work on the others
            for note in setup.notes:
                logger.warning(note)
            plans = [setup.planner.plan(geometry) for geometry in self.config.geometry_names]
            digest = self.digests.get(setup.name)
            checks[setup.name] = check_setup(setup, plans, self.models, digest, self.config.adapt)
        for warning in (warning for each in checks.values() for warning in each.warnings):
            logger.warning(warning)
        results: dict[str, list[EvaluationResult]] = {}
        metrics: dict[str, Any] = {"slides": {}, "definitions": definitions()}
        with evaluation_pool(self.config) if self.config.num_processes > 1 else nullcontext() as pool:
            for setup in setups:
                results[setup.name] = self._evaluate_slide(setup, pool)
                metrics["slides"][setup.name] = self._slide_facts(setup, checks[setup.name], results[setup.name])
        return Evaluation(metrics, results)

    def _evaluate_slide(
        self, setup: SlideSetup, pool: WorkerPool[EvaluationTask, PredictorResult] | None
    ) -> list[EvaluationResult]:
        """Evaluate every predictor in every geometry."""
        results = []
        for geometry in self.config.geometry_names:
            plan = setup.planner.plan(geometry)
            for is_warning, note in plan.notes:
                logger.log(logging.WARNING if is_warning else logging.INFO, note)
            evaluator = setup.evaluator(geometry, plan)
            by_name = _evaluate_in_pool(setup, evaluator, pool) if pool else _evaluate_in_turn(setup, evaluator)
            # A pool returns results in the order of completion; tables list models first, then baselines.
            for predictor in setup.predictors:
                evaluator.result.add(by_name[predictor.name])
            results.append(evaluator.result)
            for title, table in result_tables(evaluator.result, self.config.region):
                self.show_table(title, table)
            setup.dataset.clear_caches()
        return results

    def _slide_facts(
        self, setup: SlideSetup, checks: SlideChecks, results: Sequence[EvaluationResult]
    ) -> dict[str, Any]:
        """The part of `metrics.json` about one slide."""
        dataset = setup.dataset
        return {
            "region": self.config.region,
            "tuned_on": setup.planner.tuned,
            **checks.to_json(),
            "num_genes": dataset.num_genes,
            "genes": self.models[0].model.overlap_facts(dataset.slide),
            "radius_um": dataset.radius_um,
            "geometries": {result.geometry: result.to_json() for result in results},
        }


def _evaluate_in_turn(setup: SlideSetup, evaluator: Evaluator) -> dict[str, PredictorResult]:
    """Evaluate the predictors in this process."""
    results = {}
    where = f"{setup.name}, {evaluator.result.geometry}"
    with progress(where, sum(map(evaluator.num_passes, setup.predictors))) as advance:
        for predictor in setup.predictors:
            advance(0, f"{where}: {predictor.name}")
            results[predictor.name] = evaluator.evaluate(predictor, advance)
    return results


def _evaluate_in_pool(
    setup: SlideSetup, evaluator: Evaluator, pool: WorkerPool[EvaluationTask, PredictorResult]
) -> dict[str, PredictorResult]:
    """Evaluate the predictors in the processes of a pool."""
    results = {}
    geometry = evaluator.result.geometry
    tasks = order_tasks(setup.dataset.slide.file, geometry, [predictor.name for predictor in setup.predictors])
    with progress(f"{setup.name}, {geometry}", len(tasks)) as advance:
        for task, result in pool.run(tasks):
            results[task.predictor] = result
            advance()
    return results


def _by_geometry(results: Mapping[str, Sequence[EvaluationResult]]) -> dict[str, list[Comparison]]:
    """Geometry to the comparison on each slide."""
    comparisons: dict[str, list[Comparison]] = {}
    for of_slide in results.values():
        for result in of_slide:
            comparisons.setdefault(result.geometry, []).append(result.comparison)
    return comparisons


def definitions() -> dict[str, Any]:
    """Definitions of the numbers in `metrics.json`, which contains them."""
    return {
        "metrics": expression.DEFINITIONS,
        "subsets": gene_sets.DEFINITIONS,
        "ceiling": noise_ceiling.DEFINITION,
        "calibration": calibration.DEFINITION,
        "p": "two-sided, from the bootstrap; p_holm is corrected for the number of metrics (Holm)",
        "seed": SEED_NOTE,
    }


def refuse_duplicates(what: str, names: Sequence[str]) -> None:
    """Raise a `CifmError` if a name occurs twice, as results are distinguished by name."""
    for name in names:
        if names.count(name) > 1:
            raise CifmError(f"two {what} are called {name}", "rename one of them, or evaluate them one by one")
