"""A probe for people: the table, the picture and the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli import keys
from cifm_cli.embedding.probe import METRICS
from cifm_cli.embedding.scoring import BALANCED_ACCURACY, ROC_AUC
from cifm_cli.report import plots
from cifm_cli.report.html import Image, Section, Table
from cifm_cli.report.palette import sort_names

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.embedding.probe import Probe

_TITLES = {ROC_AUC: "ROC-AUC", BALANCED_ACCURACY: "balanced accuracy"}


def summary_table(probe: Probe) -> Table:
    """Every description of the cells with both metrics and their 95 % intervals."""
    features = probe.content["features"]
    rows = [
        [name, str(found.get("dimensions", ""))] + [_interval(found[m]) for m in METRICS]
        for name, found in features.items()
    ]
    best = [(_best(features, metric), 2 + j) for j, metric in enumerate(METRICS)]
    return Table(["features", "dimensions", *(_TITLES[metric] for metric in METRICS)], rows, best)


def explain(probe: Probe) -> str:
    """How the numbers came about, in a few sentences."""
    content = probe.content
    groups, left_out = content["groups"], content["left_out"]
    how = f"{content['cells']:,} cells of {len(content['classes'])} classes, {content['folds']}-fold cross-validation that holds out whole {groups['unit']}s ({groups['number']})"
    if groups["unit"] == "block":
        how += f", {groups['block_um']:,.0f} µm wide, training cells at least {groups['buffer_um']:g} µm away"
    notes = [f"{how}. Intervals: 95 %, {content['resamples']:,} bootstrap resamples of {groups['unit']}s."]
    if left_out["sampled"]:
        notes.append(f"{left_out['sampled']:,} more labelled cells were left out by random sampling (--max-cells).")
    if left_out["missing"]:
        notes.append(f"{left_out['missing']:,} cells carry no label.")
    if left_out["rare"]:
        notes.append(f"Classes with too few cells, left out: {', '.join(sorted(left_out['rare']))}.")
    stopped = {
        name: found["not_converged"] for name, found in content["features"].items() if found.get("not_converged")
    }
    if stopped:
        notes.append(f"Stopped before converging: {', '.join(f'{name} ({n} folds)' for name, n in stopped.items())}.")
    if content["label"] == keys.CLUSTER:
        notes.append("These clusters were computed from each cell's own expression, which therefore has a head start.")
    return " ".join(notes)


def comparison_table(probe: Probe) -> Table:
    """Each embedding minus the best baseline, on the same cells."""
    rows = [
        [
            name,
            _TITLES[metric],
            found["best_baseline"],
            f"{found['difference']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]",
        ]
        for name, metrics in probe.content["paired"].items()
        for metric, found in metrics.items()
    ]
    return Table(["embedding", "metric", "best baseline", "difference"], rows)


def draw_bars(probe: Probe, metric: str) -> bytes:
    """One metric of every description of the cells, as PNG."""
    features = probe.content["features"]
    found = [features[name][metric] for name in features]
    chance = 0.5 if metric == ROC_AUC else 1 / len(probe.content["classes"])
    return plots.bars(
        list(features),
        [one["value"] for one in found],
        [(one["low"], one["high"]) for one in found],
        f"{probe.content['label']}: {_TITLES[metric]} of held-out cells",
        label=f"{_TITLES[metric]} (dashed: chance)",
        reference=chance,
    )


def sections(probe: Probe) -> list[Section]:
    """The parts of the page."""
    features, classes = probe.content["features"], probe.labels.classes
    best = list(features)[_best(features, BALANCED_ACCURACY)]
    charts = [Image(draw_bars(probe, metric), f"{_TITLES[metric]} with 95 % intervals") for metric in METRICS]
    confusion = plots.heat_map(
        confusion_matrix(probe, best),
        classes,
        classes,
        "true class (rows), predicted class (columns)",
        label="share of the true class",
    )
    named = [name for name in features if "roc_auc_by_class" in features[name]]
    by_class = [
        [
            one,
            f"{probe.content['classes'][one]:,}",
            *(_area(features[name]["roc_auc_by_class"][one]) for name in named),
        ]
        for one in sort_names(classes)
    ]
    return [
        Section("What a linear classifier reads", explain(probe), summary_table(probe), charts),
        Section(
            "Embeddings beside the best baseline",
            "Paired: both on the same cells, in the same resamples.",
            comparison_table(probe),
        ),
        Section(
            "Class by class", "ROC-AUC of each class against the rest.", Table(["class", "cells", *named], by_class)
        ),
        Section(
            f"Confusion of {best}",
            "The description with the best balanced accuracy.",
            images=[Image(confusion, "Confusion matrix")],
        ),
        Section(
            "What the features are",
            table=Table(["features", "what"], [[n, str(found["what"])] for n, found in features.items()]),
        ),
    ]


def confusion_matrix(probe: Probe, name: str) -> NDArray[np.float64]:
    """Share of each true class (rows) that is predicted as each class (columns), (K, K)."""
    predicted = probe.probabilities[name].argmax(axis=1)
    counts = np.zeros((len(probe.labels.classes),) * 2)
    np.add.at(counts, (probe.labels.codes, predicted), 1.0)
    counts /= counts.sum(axis=1, keepdims=True)
    return counts


def _best(features: dict[str, Any], metric: str) -> int:
    return int(np.argmax([found[metric]["value"] for found in features.values()]))


def _interval(found: dict[str, float]) -> str:
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _area(found: float | None) -> str:
    return "-" if found is None else f"{found:.3f}"
