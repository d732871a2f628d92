"""The evaluation's report: headline with intervals first, then everything beside the baselines, then where it errs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.evaluation.judge import MODEL
from cifm_cli.evaluation.summary import describe, paired_table, score_table
from cifm_cli.report import plots
from cifm_cli.report.html import Image, Section, Table

if TYPE_CHECKING:
    from cifm_cli.evaluation.judge import Verdict

_SHOWN = "spearman_cell", "mse", "pearson_cell"  # metrics drawn as bars
_NUM_BINS = 6  # of the distance to the nearest visible cell, with as many cells each
_WORST = 10  # genes listed from either end


def sections(verdict: Verdict, region: str) -> list[Section]:
    """What the report says of one slide and geometry.

    Args:
        verdict: Of the judge.
        region: What was scored.

    Returns:
        Headline, scores, and where the model errs.
    """
    title = f"{verdict.bench.slide.name}, {verdict.geometry}"
    blocks = f"{verdict.resampler.num_blocks} spatial blocks of {verdict.resampler.side_um:.0f} µm"
    return [
        Section(
            f"{title}: the model against the best baseline",
            f"{describe(verdict, region)}.\n\nEach side in its better form. Intervals: paired bootstrap over {blocks}.",
            Table(*paired_table(verdict)),
        ),
        Section(
            f"{title}: all predictors",
            "mean: the expected expression. gated: zero where the predicted share of expressing cells is low; the "
            "threshold is chosen for each predictor on cells that are not scored. A constant has correlation 0.",
            Table(*score_table(verdict)),
            [_bars(verdict, metric) for metric in _SHOWN],
        ),
        Section(
            f"{title}: where the model errs", "", _gene_table(verdict), [_by_distance(verdict), _error_map(verdict)]
        ),
    ]


def _bars(verdict: Verdict, metric: str) -> Image:
    """Every predictor in its better form."""
    best = {name: verdict.scores[name][verdict.best_form(name, metric)] for name in verdict.scores}
    labels = [f"{name}, {verdict.best_form(name, metric)}" for name in best]
    ends = [np.percentile(found.draws[metric], (2.5, 97.5)) for found in best.values()]
    image = plots.bars(
        labels,
        [found.metrics[metric] for found in best.values()],
        [(float(low), float(high)) for low, high in ends],
        metric,
        label="with its 95 % interval over blocks",
    )
    return Image(image, f"{metric} of every predictor in its better form")


def _by_distance(verdict: Verdict) -> Image:
    """Squared error against the distance to the nearest visible cell, in bins of as many cells."""
    order = np.array_split(np.argsort(verdict.distance_um, kind="stable"), _NUM_BINS)
    bins = [part for part in order if len(part)]
    series = {
        name: [float(forms["mean"].per_cell["mse"][part].mean()) for part in bins]
        for name, forms in verdict.scores.items()
        if name not in ("uniform", "bernoulli", "zeros")
    }
    image = plots.curves(
        [float(np.median(verdict.distance_um[part])) for part in bins],
        series,
        "squared error by distance",
        x_label="distance to the nearest visible cell, µm",
        y_label="MSE",
    )
    return Image(image, "squared error of the mean forms by distance to the nearest visible cell")


def _error_map(verdict: Verdict) -> Image:
    """Where the model does better or worse than the best baseline."""
    baseline = verdict.best_baseline("mse")
    ours, theirs = (verdict.scores[name][verdict.best_form(name, "mse")].per_cell["mse"] for name in (MODEL, baseline))
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
    baseline = verdict.scores[verdict.best_baseline("pearson_gene")]["mean"].per_gene
    expressed = np.flatnonzero(verdict.truth.by_gene.any(axis=1))
    order = expressed[np.argsort(-model["pearson"][expressed], kind="stable")]
    shown = np.unique(np.concatenate([order[:_WORST], order[-_WORST:]]))
    rows = [
        [verdict.bench.symbols[gene], *(f"{part['pearson'][gene]:.3f}" for part in (model, baseline))]
        for gene in sorted(shown, key=lambda gene: -model["pearson"][gene])
    ]
    return Table(["best and worst genes", "Pearson, model", f"{verdict.best_baseline('pearson_gene')}"], rows)
