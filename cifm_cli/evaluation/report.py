"""The evaluation's report: headline with intervals first, then everything beside the baselines, then where it errs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli import keys
from cifm_cli.evaluation.board import MEAN, MODEL
from cifm_cli.evaluation.breakdown import by_distance, distance_bins
from cifm_cli.evaluation.distribution_report import distribution_section
from cifm_cli.evaluation.scenario import describe_scenario
from cifm_cli.evaluation.summary import (
    ceiling_table,
    describe,
    describe_overall,
    overall_table,
    paired_table,
    score_table,
    subset_table,
)
from cifm_cli.evaluation.type_report import typing_section
from cifm_cli.report import plots
from cifm_cli.report.html import Image, Section, Table

if TYPE_CHECKING:
    from cifm_cli.evaluation.judge import Verdict

_SHOWN = "spearman_cell", "mse", "pearson_cell"  # metrics drawn as bars
_BY_DISTANCE = "mse", "pearson"  # columns per cell drawn against the distance
_NOT_DRAWN = "uniform", "bernoulli", "zeros"
_CEILING = (
    "Counts are few: each cell's counts are dealt out to two halves, and one half predicts the other. The ceiling is about "
    "what a predictor that knew every cell's true profile would reach."
)
_SUBSETS = "Genes chosen on the training cells: those that differ most between groups of cells, and the most variable."
_WORST = 10  # genes listed from either end


def sections(verdict: Verdict, facts: dict[str, Any]) -> list[Section]:
    """What the report says of one slide and geometry.

    Args:
        verdict: Of the judge.
        facts: What `metrics.json` says of the slide.

    Returns:
        Headline, scores, what noise leaves, and where the model errs.
    """
    title = f"{verdict.bench.slide.name}, {verdict.geometry}"
    board = verdict.board
    blocks = f"{verdict.resampler.num_blocks} spatial blocks of {verdict.resampler.side_um:.0f} µm"
    return [
        Section(
            f"{title}: the model against the best baseline",
            f"{describe(verdict, facts['region'])}.\n\n{_setting(verdict, facts)}\n\nEach side in its better form. Intervals: paired bootstrap over {blocks}.",
            Table(*paired_table(board)),
        ),
        *(
            Section(
                f"{title}: {name} against {rival or 'the best baseline'}", "", Table(*paired_table(board, name, rival))
            )
            for name in board.further_models()
            for rival in (None, MODEL)
        ),
        Section(
            f"{title}: all predictors",
            "mean: the expected expression. gated: zero where the predicted share of expressing cells is low; the "
            "threshold is chosen for each predictor on cells that are not scored. A constant has correlation 0.",
            Table(*score_table(verdict)),
            [_bars(verdict, metric) for metric in _SHOWN],
        ),
        Section(f"{title}: what noise leaves to be predicted", _CEILING, Table(*ceiling_table(verdict))),
        *([Section(f"{title}: some genes", _SUBSETS, Table(*subset_table(verdict)))] if verdict.subsets else []),
        Section(
            f"{title}: where the model errs",
            "",
            _gene_table(verdict),
            [*(_by_distance(verdict, column) for column in _BY_DISTANCE), _error_map(verdict), _reliability(verdict)],
        ),
        *(distribution_section(name, found, title) for name, found in verdict.distributions.items()),
        *([typing_section(verdict.types, title)] if verdict.types else []),
    ]


def overall_section(geometry: str, found: dict[str, dict[str, Any]]) -> Section:
    """The model against the best baseline over several slides.

    Args:
        geometry: Its name.
        found: Metric to the comparison.

    Returns:
        The headline.
    """
    return Section(
        describe_overall(geometry, found),
        "Mean difference over slides, the model minus the best baseline. Intervals: slides are drawn, then blocks within each.",
        Table(*overall_table(found)),
    )


def _setting(verdict: Verdict, facts: dict[str, Any]) -> str:
    """On what everybody was scored and tuned, and how new the slide was to each model: a paragraph for each."""
    region, num_scored = facts["region"], len(verdict.rows)
    num_cells = len(verdict.bench.slide.region(region))
    where = f"the {num_cells:,} cells of " + ("the slide" if region == keys.ALL else f"its {region} region")
    left_out = " Cells that everybody was tuned on are not scored." if region == keys.ALL else ""
    text = [f"Scored: {num_scored:,} of {where}. Everybody was tuned on its {facts['tuned_on']} region.{left_out}"]
    if num_scored < num_cells:
        text[0] += " The intervals tell of the cells that were scored, not of the others."
    text += [f"{name}: {describe_scenario(found)}." for name, found in facts["scenario"].items()]
    return "\n\n".join(text)


def _bars(verdict: Verdict, metric: str) -> Image:
    """Every predictor in its better form."""
    best = {name: verdict.scores[name][verdict.board.best_form(name, metric)] for name in verdict.scores}
    labels = [f"{name}, {verdict.board.best_form(name, metric)}" for name in best]
    ends = [np.percentile(found.draws[metric], (2.5, 97.5)) for found in best.values()]
    image = plots.bars(
        labels,
        [found.metrics[metric] for found in best.values()],
        [(float(low), float(high)) for low, high in ends],
        metric,
        label="with its 95 % interval over blocks",
    )
    return Image(image, f"{metric} of every predictor in its better form")


def _by_distance(verdict: Verdict, column: str) -> Image:
    """A score of the mean forms against the distance to the nearest visible cell."""
    edges_um, place = distance_bins(verdict.distance_um, verdict.bench.radius_um)
    means = {name: forms[MEAN] for name, forms in verdict.scores.items() if name not in _NOT_DRAWN}
    found = by_distance(means, edges_um, place)
    number = found["num_cells"]
    x = (np.bincount(place, weights=verdict.distance_um) / number).tolist()
    series = {name: columns[column] for name, columns in found["predictors"].items()}
    what = f"{column} by distance"
    drawn = plots.curves(x, series, what, x_label="distance to the nearest visible cell, µm", y_label=column)
    return Image(
        drawn, f"{what} to the nearest visible cell, mean forms; cells in the bins: {', '.join(map(str, number))}"
    )


def _reliability(verdict: Verdict) -> Image:
    """Whether a gene is expressed as often as the model says."""
    found = verdict.calibration[MODEL]
    predicted, actual = found["reliability"]["predicted"], found["reliability"]["actual"]
    image = plots.curves(
        predicted,
        {"expressed": actual, "perfect": predicted},
        "calibration of P(expressed)",
        x_label="predicted share",
        y_label="expressed",
    )
    return Image(
        image, f"share of entries that are expressed, by the model's prediction; mean error {found['ece']:.4f}"
    )


def _error_map(verdict: Verdict) -> Image:
    """Where the model does better or worse than the best baseline."""
    baseline = verdict.board.best_baseline("mse")
    ours, theirs = (
        verdict.scores[name][verdict.board.best_form(name, "mse")].per_cell["mse"] for name in (MODEL, baseline)
    )
    difference = ours - theirs
    limit = float(np.percentile(np.abs(difference), 95)) or 1.0
    image = plots.tissue_map(
        verdict.bench.slide.xy_um[verdict.rows],
        difference,
        f"squared error of the model minus that of {baseline}",
        label="below zero the model is better",
        limits=(-limit, limit),
    )
    return Image(image, f"squared error of the model minus that of {baseline}, cell by cell")


def _gene_table(verdict: Verdict) -> Table:
    """Genes that the model predicts best and worst, among those that are expressed at all."""
    model = verdict.scores[MODEL]["mean"].per_gene
    baseline = verdict.scores[verdict.board.best_baseline("pearson_gene")]["mean"].per_gene
    expressed = np.flatnonzero(verdict.truth.by_gene.any(axis=1))
    order = expressed[np.argsort(-model["pearson"][expressed], kind="stable")]
    shown = np.unique(np.concatenate([order[:_WORST], order[-_WORST:]]))
    rows = [
        [verdict.bench.symbols[gene], *(f"{part['pearson'][gene]:.3f}" for part in (model, baseline))]
        for gene in sorted(shown, key=lambda gene: -model["pearson"][gene])
    ]
    return Table(["best and worst genes", "Pearson, model", f"{verdict.board.best_baseline('pearson_gene')}"], rows)
