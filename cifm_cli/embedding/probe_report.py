"""The report of a probe: tables, charts and the sections of the HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli import keys
from cifm_cli.embedding.probe import METRICS
from cifm_cli.embedding.scoring import BALANCED_ACCURACY, ROC_AUC
from cifm_cli.report import plots
from cifm_cli.report.html import Image, Section
from cifm_cli.report.palette import sort_names
from cifm_cli.report.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.embedding.probe import ProbeResult

_TITLES = {ROC_AUC: "ROC-AUC", BALANCED_ACCURACY: "balanced accuracy"}


def summary_table(probe: ProbeResult) -> Table:
    """Tabulate both metrics of every set of features, with 95 % intervals.

    Args:
        probe: The result of a probe.

    Returns:
        The table; the best value of each metric is highlighted.
    """
    features = probe.content["features"]
    rows = [
        [name, str(facts.get("dimensions", "")), *(_format_interval(facts[metric]) for metric in METRICS)]
        for name, facts in features.items()
    ]
    # The first two columns are the name and the dimensions.
    best = [(_best(features, metric), 2 + j) for j, metric in enumerate(METRICS)]
    return Table(["features", "dimensions", *(_TITLES[metric] for metric in METRICS)], rows, best)


def comparison_table(probe: ProbeResult) -> Table:
    """Tabulate the difference of each embedding to the best baseline, on the same cells.

    Args:
        probe: The result of a probe.

    Returns:
        The table, one row for each embedding and metric.
    """
    rows = [
        [
            name,
            _TITLES[metric],
            pair["best_baseline"],
            f"{pair['difference']:+.3f} [{pair['low']:+.3f}, {pair['high']:+.3f}]",
        ]
        for name, metrics in probe.content["paired"].items()
        for metric, pair in metrics.items()
    ]
    return Table(["embedding", "metric", "best baseline", "difference"], rows)


def warning_table(warnings: Sequence[str]) -> Table:
    """Tabulate warnings, one in a row."""
    return Table(["warning"], [[f"{warning}."] for warning in warnings])


def explain(probe: ProbeResult) -> str:
    """Describe in a few sentences how the metrics were computed, and which cells were left out.

    Args:
        probe: The result of a probe.

    Returns:
        The sentences.
    """
    content = probe.content
    groups, left_out = content["groups"], content["left_out"]
    method = (
        f"{content['cells']:,} cells of {len(content['classes'])} classes, {content['folds']}-fold cross-validation "
        f"that holds out whole {groups['unit']}s ({groups['number']})"
    )
    if groups["unit"] == "block":
        method += f", {groups['block_um']:,.0f} µm wide, training cells at least {groups['buffer_um']:g} µm away"
    notes = [f"{method}. Intervals: 95 %, {content['resamples']:,} bootstrap resamples of {groups['unit']}s."]
    if left_out["sampled"]:
        notes.append(f"{left_out['sampled']:,} more labelled cells were left out by random sampling (--max-cells).")
    if left_out["missing"]:
        notes.append(f"{left_out['missing']:,} cells have no label.")
    if left_out["rare"]:
        notes.append(f"Classes with too few cells, left out: {', '.join(sorted(left_out['rare']))}.")
    not_converged = {
        name: facts["not_converged"] for name, facts in content["features"].items() if facts.get("not_converged")
    }
    if not_converged:
        folds = ", ".join(f"{name} ({number} folds)" for name, number in not_converged.items())
        notes.append(f"Stopped before converging: {folds}.")
    if content["label"] == keys.CLUSTER:
        notes.append("These clusters were computed from each cell's own expression, which is an advantage for it.")
    return " ".join(notes)


def draw_bars(probe: ProbeResult, metric: str) -> bytes:
    """Draw one metric of every set of features as a bar chart.

    Args:
        probe: The result of a probe.
        metric: One of `METRICS`.

    Returns:
        A PNG.
    """
    features = probe.content["features"]
    values = [features[name][metric] for name in features]
    # Balanced accuracy of any constant prediction is 1 / K.
    chance = 0.5 if metric == ROC_AUC else 1 / len(probe.content["classes"])
    return plots.bars(
        list(features),
        [each["value"] for each in values],
        [(each["low"], each["high"]) for each in values],
        f"{probe.content['label']}: {_TITLES[metric]} of held-out cells",
        label=f"{_TITLES[metric]} (dashed: chance)",
        reference=chance,
    )


def sections(probe: ProbeResult) -> list[Section]:
    """Assemble the sections of the HTML page.

    Args:
        probe: The result of a probe.

    Returns:
        The sections, in order.
    """
    features, classes = probe.content["features"], probe.labels.classes
    best = list(features)[_best(features, BALANCED_ACCURACY)]
    charts = [Image(draw_bars(probe, metric), f"{_TITLES[metric]} with 95 % intervals") for metric in METRICS]
    confusion = plots.heat_map(
        confusion_matrix(probe, best),
        classes,
        classes,
        "true class (rows), predicted class (columns)",
        label="fraction of the true class",
    )
    descriptions = [[name, str(facts["what"])] for name, facts in features.items()]
    warnings = probe.content["warnings"]
    return [
        *([Section("Warnings", table=warning_table(warnings))] if warnings else []),
        Section("Linear probe", explain(probe), summary_table(probe), charts),
        Section(
            "Embeddings and the best baseline",
            "Paired differences: the same cells in the same resamples.",
            comparison_table(probe),
        ),
        Section("Results by class", "ROC-AUC of each class against the rest.", _class_table(probe)),
        Section(
            f"Confusion matrix of {best}",
            "The features with the best balanced accuracy.",
            images=[Image(confusion, "Confusion matrix")],
        ),
        Section("Features", table=Table(["features", "description"], descriptions)),
    ]


def _class_table(probe: ProbeResult) -> Table:
    """ROC-AUC of each class, from each set of features."""
    features = probe.content["features"]
    fitted = [name for name in features if "roc_auc_by_class" in features[name]]
    rows = [
        [
            name,
            f"{probe.content['classes'][name]:,}",
            *(_format_area(features[each]["roc_auc_by_class"][name]) for each in fitted),
        ]
        for name in sort_names(probe.labels.classes)
    ]
    return Table(["class", "cells", *fitted], rows)


def confusion_matrix(probe: ProbeResult, name: str) -> NDArray[np.float64]:
    """Compute the confusion matrix of one set of features.

    Args:
        probe: The result of a probe.
        name: Name of the features.

    Returns:
        (K, K) fraction of each true class (rows) that is predicted as each class (columns).
    """
    predicted = probe.probabilities[name].argmax(axis=1)
    counts = np.zeros((len(probe.labels.classes),) * 2)
    np.add.at(counts, (probe.labels.codes, predicted), 1.0)
    # By the true class, as classes differ in size.
    counts /= counts.sum(axis=1, keepdims=True)
    return counts


def _best(features: dict[str, Any], metric: str) -> int:
    return int(np.argmax([facts[metric]["value"] for facts in features.values()]))


def _format_interval(metric: dict[str, float]) -> str:
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def _format_area(area: float | None) -> str:
    return "-" if area is None else f"{area:.3f}"
