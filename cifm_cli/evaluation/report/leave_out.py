"""A cross-validation over slides as a table with one row per slide, a verdict, and a section of the HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from cifm_cli.evaluation.comparison import favours_model
from cifm_cli.evaluation.metrics.expression import LOWER_IS_BETTER
from cifm_cli.evaluation.predictors.base import MODEL
from cifm_cli.evaluation.report.tables import percentage
from cifm_cli.evaluation.verdict import METRIC_NAMES, describe_decision, headline
from cifm_cli.report.html import Section
from cifm_cli.report.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

_METRICS: Final = ("mse", "deviance", "auroc", "pearson_gene")
_EXPLANATION: Final = (
    "Each slide was evaluated with a model that was trained on the slides of the other groups. Each row is the model minus "
    "the best baseline of the slide, which was tuned on the slide itself. Intervals of the means: groups are resampled, the "
    "slides of a group together, then blocks within each slide."
)


def slide_table(metrics: Mapping[str, Any], geometry: str) -> Table:
    """The model minus the best baseline on each slide; differences whose interval favours the model are marked."""
    group_of = {name: group for group, facts in metrics["leave_out"]["groups"].items() for name in facts["slides"]}
    rows, best = [], []
    for position, (name, of_slide) in enumerate(metrics["slides"].items()):
        found = of_slide["geometries"][geometry]
        row = [name, group_of[name]]
        for metric in _METRICS:
            pair = found["paired"][metric]
            row.append(f"{_difference(found, metric)} {describe_decision(pair, metric)}")
            if favours_model(pair, metric):
                best.append((position, len(row) - 1))
        against = found["paired"]["mse"]
        rows.append([*row, f"{against['best_baseline']}, {against['form']}"])
    columns = ["slide", metrics["leave_out"]["key"], *map(headline, _METRICS), "MSE against"]
    return Table(columns, rows, best)


def verdict(metrics: Mapping[str, Any], geometry: str) -> str:
    """The result over all slides in one line, against the best baseline of each slide."""
    facts, overall = metrics["leave_out"], metrics["overall"][geometry]
    num_slides, parts = len(metrics["slides"]), []
    for metric in _METRICS:
        pair = overall[metric]["each_slide"]
        size = f"{pair['difference']:+.4f} [{pair['low']:+.4f}, {pair['high']:+.4f}]"
        decision = describe_decision(pair, metric)
        parts.append(
            f"{METRIC_NAMES[metric]} {percentage(pair) if 'percent' in pair else size} ({decision}; better on "
            f"{pair['num_better']} of {num_slides})"
        )
    used = {of_slide["scenario"][MODEL]["adaptation"] for of_slide in metrics["slides"].values()}
    return (
        f"Leave one {facts['key']} out, {geometry}: {MODEL} ({' or '.join(sorted(map(str, used)))}) minus the best baseline of each slide, mean over {num_slides} "
        f"slides in {facts['num_groups']} groups: {', '.join(parts)}"
    )


def leave_out_section(metrics: Mapping[str, Any], geometry: str) -> Section:
    """The part of the page about all slides of a geometry."""
    facts = metrics["leave_out"]
    warnings = "".join(f"\n\nWarning: {warning}." for warning in facts["warnings"])
    heading = f"Leave one {facts['key']} out, {geometry}: {MODEL} against the best baseline of each slide"
    text = f"{verdict(metrics, geometry)}.\n\n{_EXPLANATION}{warnings}"
    return Section(heading, text, slide_table(metrics, geometry))


def _difference(found: Mapping[str, Any], metric: str) -> str:
    """The difference to the best baseline of a slide: in percent where lower is better, else as it is."""
    pair = found["paired"][metric]
    reference = found["predictors"][pair["best_baseline"]][pair["form"]][metric]
    if metric in LOWER_IS_BETTER and reference > 0:
        return f"{100 * pair['difference'] / reference:+.2f} %"
    return f"{pair['difference']:+.4f}"
