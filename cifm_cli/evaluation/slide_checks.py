"""Everything that a user should know about a slide before its scores are read: its relation to the models, and warnings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli.evaluation.content_checks import check_against_training, check_slide
from cifm_cli.evaluation.folds import hidden_rows
from cifm_cli.evaluation.transfer import NO_ADAPTATION, transfer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cifm_cli.evaluation.folds import FoldPlan
    from cifm_cli.evaluation.predictors.base import ModelPredictor
    from cifm_cli.evaluation.setup import SlideSetup


@dataclass(frozen=True)
class SlideChecks:
    """What is known about a slide beside its scores, for `metrics.json`."""

    scenario: dict[str, dict[str, Any]]  # model to its relation to the slide
    facts: dict[str, Any]  # numbers that the warnings follow from
    warnings: list[str]  # each as a sentence without a full stop

    def to_json(self) -> dict[str, Any]:
        """The part of `metrics.json`."""
        return {"scenario": self.scenario, "warnings": self.warnings, "checks": self.facts}


def check_setup(
    setup: SlideSetup,
    plans: Sequence[FoldPlan],
    models: Sequence[ModelPredictor],
    digest: str | None,
    adapt: str = NO_ADAPTATION,
) -> SlideChecks:
    """Check a slide before it is evaluated.

    Args:
        setup: The slide.
        plans: The folds of each geometry.
        models: The models.
        digest: SHA-256 of the slide's file; None for a slide that has no file.
        adapt: How the models are adapted to the slide, as in `EvaluateConfig`.

    Returns:
        Relations and warnings.
    """
    slide, seed = setup.dataset.slide, setup.dataset.seed
    scored = np.unique(np.concatenate([hidden_rows(plan.scored) for plan in plans]))
    of_slide, content = check_slide(slide, scored, seed)
    scenario, facts, warnings = {}, {}, list(of_slide.warnings)
    for predictor in models:
        checkpoint = predictor.model.checkpoint
        kind = adapt if predictor.adapts else NO_ADAPTATION
        relation = transfer(slide, digest, checkpoint.provenance, scored, checkpoint.recipe.data, kind)
        found = check_against_training(slide, scored, content, checkpoint, relation)
        num_trained = max(relation.facts["trained_cells_scored"], found.facts["trained_cells"] or 0)
        scenario[predictor.name] = {**relation.facts, "trained_cells_scored": num_trained}
        facts[predictor.name] = found.facts
        notes = [*relation.notes, *found.warnings]
        # Of several models, a warning says which one it is about.
        warnings += notes if len(models) == 1 else [f"{predictor.name}: {note}" for note in notes]
    return SlideChecks(scenario, {**of_slide.facts, "models": facts}, warnings)
