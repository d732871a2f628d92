"""Linear probes: how well a linear classifier predicts a label from the embeddings, compared with plain expression."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cifm_cli.embedding.classifier import cross_validate
from cifm_cli.embedding.features import collect_features
from cifm_cli.embedding.labels import LabelChoice
from cifm_cli.embedding.probe_cells import ProbeTask, choose_cells
from cifm_cli.embedding.probe_summary import MAJORITY, METRICS, ProbeResult, summarise
from cifm_cli.embedding.repeated_cells import repeat_notes
from cifm_cli.embedding.sides import choose_sides
from cifm_cli.report.terminal import progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cifm_cli.data.writers.embedded import EmbeddedSlide

__all__ = [
    "MAJORITY",
    "METRICS",
    "ProbeConfig",
    "ProbeResult",
    "ProbeTask",
    "choose_cells",
    "probe_slides",
    "run_probe",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProbeConfig:
    """What is probed, and how."""

    label: LabelChoice  # the label
    train_on: tuple[str, ...] = ()  # names or patterns of the slides, samples or platforms to train on
    test_on: tuple[str, ...] = ()  # the same for the test; both empty for a cross-validation over all slides
    num_folds: int = 5  # folds of a cross-validation
    max_cells: int = 20_000  # larger data are sampled down to this number of cells; across slides, each side
    seed: int = 0  # seed of the sample, the folds and the intervals


def probe_slides(
    slides: Sequence[EmbeddedSlide], column: str, *, num_folds: int, max_cells: int, seed: int
) -> ProbeResult:
    """Probe embedded slides for a label, by cross-validation.

    Args:
        slides: Embedded slides.
        column: The label: an obs column, condition, tissue or sample of the slides, or `FILE.csv:COLUMN`.
        num_folds: Number of folds of the cross-validation.
        max_cells: Larger data are sampled down to this number of cells.
        seed: Seed of the sample, the folds and the intervals.

    Returns:
        Metrics of every set of features, with intervals.

    Raises:
        CifmError: The label cannot be probed, or the slides cannot be combined.
    """
    return run_probe(slides, ProbeConfig(LabelChoice(column), num_folds=num_folds, max_cells=max_cells, seed=seed))


def run_probe(slides: Sequence[EmbeddedSlide], config: ProbeConfig) -> ProbeResult:
    """Probe embedded slides for a label.

    Args:
        slides: Embedded slides.
        config: The label, the slides to train and to test on, and the seed.

    Returns:
        Metrics of every set of features, with intervals.

    Raises:
        CifmError: The label cannot be probed, or the slides cannot be combined or divided into sides.
    """
    sides = choose_sides(slides, config.train_on, config.test_on) if config.train_on or config.test_on else None
    task = choose_cells(slides, config.label, config.max_cells, config.seed, sides, config.num_folds)
    features = collect_features(task.slides, task.rows)
    cells, splits = task.cells, task.split(config.num_folds, config.seed)
    warnings = repeat_notes(task.slides, task.rows, splits)
    for warning in warnings:
        logger.warning(warning)
    with progress("probing", len(features) * len(splits)) as advance:
        fits = {
            each.name: cross_validate(each.values, cells, splits, config.seed, advance, each.num_components)
            for each in features
        }
    return summarise(task, features, fits, splits, config.seed, warnings)
