"""The cross-validation as a whole: train and evaluate for each group, then compare over all slides."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli import keys, provenance
from cifm_cli.celltype.base import TYPING_SUM
from cifm_cli.celltype.registry import model_files
from cifm_cli.cross_validation.groups import SlideGroup, group_slides
from cifm_cli.cross_validation.plan import Plan
from cifm_cli.cross_validation.training import is_finished, is_started, train_without
from cifm_cli.data.slide import open_slide
from cifm_cli.errors import CifmError, StopRequested
from cifm_cli.evaluation.dataset import EvaluationDataset
from cifm_cli.evaluation.folds import WHOLE
from cifm_cli.evaluation.metrics.cell_types import annotator_for
from cifm_cli.evaluation.parallel import load_models
from cifm_cli.evaluation.report.leave_out import slide_table, verdict
from cifm_cli.evaluation.run import (
    Evaluation,
    adaptation_choices,
    compare_slides,
    refuse_duplicates,
    score_slides,
    with_verdict,
)
from cifm_cli.model.checkpoint import MODEL_FILE
from cifm_cli.path_text import file_name, path_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from cifm_cli.evaluation.run import ShowTable
    from cifm_cli.evaluation.setup import EvaluateConfig
    from cifm_cli.recipe import Recipe

logger = logging.getLogger(__name__)

FOLDER = "leave_out"  # of the trainings, in the output folder of the evaluation
MIN_GROUPS = 5  # with fewer groups, an interval over groups is unreliable


@dataclass(frozen=True)
class LeaveOutConfig:
    """The user's choices."""

    key: str  # key by which slides are grouped: `slide`, or one that they store, such as `sample`
    recipe: Recipe  # of every training
    folder: Path  # folder of the trainings
    evaluation: EvaluateConfig  # the slides and how they are evaluated; its `models` are not used
    groups: Mapping[str, str] | None = None  # name of each slide to its group; None: the groups that the slides store


def leave_out(config: LeaveOutConfig, show_table: ShowTable = lambda *_: None) -> Evaluation:
    """Leave each group of slides out once: train on the others, and evaluate the slides of the group.

    Groups that were trained before are not trained again, and interrupted trainings are continued.

    Args:
        config: The user's choices.
        show_table: Called with the title and content of each table as soon as it is known.

    Returns:
        Metrics and results of all slides, as `evaluate` returns them, with the entries `leave_out` and `overall`.

    Raises:
        CifmError: Slides can't be grouped or used, or the folder holds trainings of other slides or of another recipe.
        BackendUnavailableError: There is no such backend here.
    """
    evaluation = _complete(config.evaluation, config.recipe)
    slides, seed = evaluation.slides, evaluation.seed
    refuse_duplicates("slides", [file_name(path) for path in slides])
    for path in slides:  # before any training, as an error on the last slide must not cost the work on the others
        _check_slide(path, evaluation)
    groups = group_slides(slides, config.key, config.groups)
    origin = provenance.collect(
        "evaluate",
        seed=seed,
        inputs=[*slides, *model_files(evaluation.annotator)],
        region=evaluation.region,
        annotator=evaluation.annotator,
        leave_out=config.key,
        adapt=evaluation.adapt,
    )
    digests = {file_name(path): origin["inputs"][path_text(path)] for path in slides}
    Plan(config.key, seed, config.recipe, groups, digests).store(config.folder)
    _log_work(groups, config)
    warnings = _warnings(groups, config.key)
    for warning in warnings:
        logger.warning(warning)
    scored: list[Evaluation] = []
    described: dict[str, Any] = {"key": config.key, "num_groups": len(groups), "warnings": warnings, "groups": {}}
    with _naming_lost_scores(scored):
        for group in groups:
            run, training = train_without(group, slides, config.folder, config.recipe, evaluation)
            of_group = replace(evaluation, slides=group.slides, models=[run])
            models, names = load_models(of_group), [file_name(path) for path in group.slides]
            logger.info(
                f"{group.label}: scoring {', '.join(names)}; {_num_slides(scored)} of {len(slides)} slides are scored"
            )
            scored.append(score_slides(map(open_slide, group.slides), models, of_group, digests, show_table))
            model = models[0].model
            origin["inputs"][path_text(run / MODEL_FILE)] = provenance.hash_file(run / MODEL_FILE)
            origin |= {"backend": model.backend.name, "device": str(model.device), "precision": model.precision}
            described["groups"][group.name] = {"slides": names, "run": path_text(run), "training": training}
    merged = _merge(scored, [file_name(path) for path in slides])
    origin["adaptation"] = adaptation_choices(merged)
    merged = replace(merged, metrics={**merged.metrics, "provenance": origin, "leave_out": described})
    by_slide = {file_name(path): group.name for group in groups for path in group.slides}
    compared = with_verdict(compare_slides(merged, seed, show_table, by_slide))
    for geometry in compared.metrics["overall"]:
        show_table(verdict(compared.metrics, geometry), slide_table(compared.metrics, geometry))
    return compared


def _complete(evaluation: EvaluateConfig, recipe: Recipe) -> EvaluateConfig:
    """Fill in what the user left open. All cells of a slide that was left out are new to its model, so all are scored."""
    region = evaluation.region or keys.ALL
    if region == keys.ALL and WHOLE in evaluation.geometries:
        raise CifmError(
            "--region all leaves no visible cells in the geometry whole",
            "choose another region, or --geometry scattered",
        )
    completed = replace(evaluation, region=region).completed(recipe.evaluate)
    if region != keys.ALL:
        return completed
    # A recipe is written for the test region of its training slides, where this geometry is possible.
    return replace(completed, geometries=[name for name in completed.geometries if name != WHOLE] or ["scattered"])


def _check_slide(path: Path, evaluation: EvaluateConfig) -> None:
    """Check that a slide can be read, trained on and scored, as far as this is known without a model."""
    slide = open_slide(path, hold=False)
    for name in (keys.TRAIN, evaluation.region):
        if not len(slide.region(name)):
            raise CifmError(
                f"slide {slide.name}: no cells in its {name} region",
                "leave this slide out, or prepare it with another --split",
            )
    if evaluation.annotator:
        every_gene = np.arange(slide.num_genes)
        dataset = EvaluationDataset(slide, every_gene, TYPING_SUM, slide.radius_um, slide.radius_um, evaluation.seed)
        annotator_for(evaluation.annotator, dataset, trust_pickle=evaluation.trust_pickle)


@contextmanager
def _naming_lost_scores(scored: Sequence[Evaluation]) -> Iterator[None]:
    """Say what an interruption costs: trainings are stored, but scores are only in memory until all slides are scored."""
    try:
        yield
    except (KeyboardInterrupt, StopRequested):
        logger.info(f"the scores of {_num_slides(scored)} slides are lost: the same command computes them again")
        raise


def _num_slides(scored: Sequence[Evaluation]) -> int:
    return sum(len(each.results) for each in scored)


def _log_work(groups: Sequence[SlideGroup], config: LeaveOutConfig) -> None:
    """Log how many models will be trained."""
    runs = [config.folder / group.folder for group in groups]
    finished, started = (sum(map(check, runs)) for check in (is_finished, is_started))
    limit = config.recipe.train.max_minutes
    each = f", at most {limit:g} minutes each" if limit else f", {config.recipe.train.steps:,} steps each"
    names = ", ".join(f"{group.label} ({len(group.slides)} slide(s))" for group in groups)
    logger.info(f"{len(groups)} trainings{each}, one without each {config.key}: {names}")
    if finished or started:
        logger.info(f"{finished} of them finished before, {started} continue, in {config.folder}")


def _warnings(groups: Sequence[SlideGroup], key: str) -> list[str]:
    """What limits the meaning of the result."""
    warnings = []
    if len(groups) < MIN_GROUPS:
        warnings.append(
            f"the intervals over slides come from {len(groups)} groups; with fewer than {MIN_GROUPS} they are too narrow"
        )
    if key == keys.SAMPLE and all(group.name == file_name(group.slides[0]) for group in groups):
        warnings.append(
            "every slide is a sample of its own, the default of `cifm prepare`; slides of one patient must have the same "
            "--sample, or the model is trained on the patient that is left out"
        )
    return warnings


def _merge(evaluations: Sequence[Evaluation], names: Sequence[str]) -> Evaluation:
    """The results of all groups, in the order of the slides."""
    facts: Mapping[str, Any] = {name: of for each in evaluations for name, of in each.metrics["slides"].items()}
    results = {name: of for each in evaluations for name, of in each.results.items()}
    metrics = {"slides": {name: facts[name] for name in names}, "definitions": evaluations[0].metrics["definitions"]}
    return Evaluation(metrics, {name: results[name] for name in names})
