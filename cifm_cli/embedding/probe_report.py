"""The report of a probe: tables, charts and the sections of the HTML page."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli.embedding.evidence import format_interval
from cifm_cli.embedding.features import BASELINES
from cifm_cli.embedding.folds import SAMPLE
from cifm_cli.embedding.probe_summary import MAJORITY, METRICS
from cifm_cli.embedding.scoring import BALANCED_ACCURACY, BRIER, LOWER_IS_BETTER, ROC_AUC
from cifm_cli.report import matrix_plots
from cifm_cli.report.estimates import Estimate, draw_calibration, draw_estimates
from cifm_cli.report.html import Section, draw_image
from cifm_cli.report.palette import COLOURS, sort_names
from cifm_cli.report.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.embedding.probe_summary import ProbeResult
    from cifm_cli.report.canvas import ImageFormat

_TITLES = {ROC_AUC: "ROC-AUC", BALANCED_ACCURACY: "balanced accuracy", BRIER: "Brier score"}
_HEADS = {**_TITLES, BRIER: "Brier score (lower is better)"}
_GREY = "#777777"
_WORDS = {
    "linear probe": "a classifier that weighs the features of a cell and adds them up; what it finds is easy to read off them",
    "held-out cells": "cells that the classifier was not trained on; scores are of these only",
    "ROC-AUC": "probability that a cell of a class has a higher probability of it than a cell of another one; 0.5 is chance",
    "balanced accuracy": "fraction of right classes, each class counted alike however many cells it has",
    "Brier score": "mean squared error of the probabilities; lower is better",
    "calibration": "whether what has a probability of 30 % is the case in 30 % of the cells",
    "95 % interval": "range of a score when whole blocks, slides or samples are drawn again and again",
    "paired difference": "difference of two features on the same cells in each draw; one whose interval excludes 0 is shown",
    MAJORITY: "the frequencies of the classes, without looking at a cell",
}
_MAX_TITLE = 60  # characters of a label in the title of a figure
_MAX_SLIDES = 60  # rows of the table of slides on the page


def summary_table(probe: ProbeResult) -> Table:
    """Tabulate the metrics of every set of features, with 95 % intervals.

    Args:
        probe: The result of a probe.

    Returns:
        The table; the best value of each metric is highlighted.
    """
    features = probe.content["features"]
    rows = [
        [name, _dimensions(facts), *(format_interval(facts[metric]) for metric in METRICS)]
        for name, facts in features.items()
    ]
    # The first two columns are the name and the dimensions.
    best = [(_best(features, metric), 2 + j) for j, metric in enumerate(METRICS)]
    return Table(["features", "dimensions", *(_HEADS[metric] for metric in METRICS)], rows, best)


def _dimensions(facts: dict[str, Any]) -> str:
    """Number of features, and of those that they were reduced to."""
    if "dimensions" not in facts:
        return ""
    reduced = facts["reduced_to"]
    return f"{facts['dimensions']:,}" + ("" if reduced is None else f" to {reduced:,}")


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
            format_interval(pair, sign="+"),
        ]
        for name, metrics in probe.content["paired"].items()
        for metric, pair in metrics.items()
    ]
    return Table(["embedding", "metric", "best baseline", "difference"], rows)


def other_table(probe: ProbeResult) -> Table:
    """Tabulate the difference of each embedding to each of the other features, on the same cells.

    Args:
        probe: The result of a probe.

    Returns:
        The table, one row for each embedding and other features.
    """
    rows = [
        [name, other, *(format_interval(metrics[metric]["others"][other], sign="+") for metric in METRICS)]
        for name, metrics in probe.content["paired"].items()
        for other in metrics[ROC_AUC]["others"]
    ]
    return Table(["embedding", "minus", *(_HEADS[metric] for metric in METRICS)], rows)


def slide_table(probe: ProbeResult) -> Table:
    """Tabulate scores within each slide, or mean probabilities where every slide has one class.

    Args:
        probe: The result of a probe.

    Returns:
        The table, one row for each slide with held-out cells.
    """
    content = probe.content
    names = list(content["features"])
    with_slides = "slides" in content["features"][names[0]]
    target = probe.labels.classes[-1]
    rows = []
    for slide in content["by_slide"]:
        classes = {name: number for name, number in slide["classes"].items() if number}
        scores = [
            slide["features"][name]["mean_probability"][target] if with_slides else slide["features"][name][ROC_AUC]
            for name in names
        ]
        label = next(iter(classes)) if with_slides else str(len(classes))
        rows.append([slide["slide"], slide["sample"], label, f"{slide['cells']:,}", *map(_format_area, scores)])
    return Table(["slide", "sample", "class" if with_slides else "classes", "cells", *names], rows)


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
    if content["design"] == "train_and_test":
        train, test = (content["sides"][side] for side in ("train", "test"))
        method = (
            f"Trained on {train['cells']:,} cells ({_count(train)}) and tested on {test['cells']:,} cells ({_count(test)}), "
            f"{len(content['classes'])} classes"
        )
    elif groups["unit"] != SAMPLE:
        method += f", {groups['block_um']:,.0f} µm wide, training cells at least {groups['buffer_um']:g} µm away"
    notes = [f"{method}. Intervals: 95 %, {content['resamples']:,} bootstrap resamples of {groups['unit']}s."]
    if left_out["sampled"]:
        notes.append(f"{left_out['sampled']:,} more labelled cells were left out by random sampling (--max-cells).")
    if left_out["missing"]:
        notes.append(f"{left_out['missing']:,} cells have no label, or one that is ignored.")
    if left_out["rare"]:
        notes.append(f"Classes with too few cells, left out: {', '.join(sorted(left_out['rare']))}.")
    not_converged = {
        name: facts["not_converged"] for name, facts in content["features"].items() if facts.get("not_converged")
    }
    if not_converged:
        folds = ", ".join(f"{name} ({number} folds)" for name, number in not_converged.items())
        notes.append(f"Stopped before converging: {folds}.")
    return " ".join(notes)


def _count(side: dict[str, Any]) -> str:
    """Numbers of slides and samples."""
    slides, samples = len(side["slides"]), len(side["samples"])
    return f"{slides} slide{'s' * (slides > 1)}, {samples} sample{'s' * (samples > 1)}"


def draw_metric(probe: ProbeResult, metric: str, image_format: ImageFormat = "png") -> bytes:
    """Draw one metric of every set of features with its interval, and the values within single slides.

    Args:
        probe: The result of a probe.
        metric: The metric.
        image_format: `png` or `svg`.

    Returns:
        The image.
    """
    content, features = probe.content, probe.content["features"]
    values = [facts[metric] for facts in features.values()]
    # Balanced accuracy of any constant prediction is 1 / K; the Brier score is compared with that of the frequencies.
    chance = {
        ROC_AUC: 0.5,
        BALANCED_ACCURACY: 1 / len(content["classes"]),
        BRIER: features[MAJORITY][BRIER]["value"],
    }[metric]
    # Within a slide of one class, nothing can be told apart.
    has_parts = len(content["by_slide"]) > 1 and "slides" not in next(iter(features.values()))
    of_slides = [
        [slide["features"][name].get(metric) for slide in content["by_slide"]] if has_parts else [] for name in features
    ]
    points = [[value for value in of_slide if value is not None] for of_slide in of_slides]
    # Embeddings, baselines, and the frequencies of the classes
    colours = [
        COLOURS[0] if name in content["paired"] else COLOURS[3] if name in BASELINES else _GREY for name in features
    ]
    rows = [
        Estimate(
            name,
            math.nan if each["value"] is None else each["value"],
            None if each["low"] is None else (each["low"], each["high"]),
            of_slide,
            colour,
        )
        for name, each, of_slide, colour in zip(features, values, points, colours, strict=True)
    ]
    return draw_estimates(
        rows,
        f"{_short(content['positive'] or content['label'])}: {_HEADS[metric]} of held-out cells",
        label=f"{_TITLES[metric]}; dashed: chance" + ("; circles: single slides" if any(points) else ""),
        reference=chance,
        image_format=image_format,
    )


def draw_reliability(probe: ProbeResult, image_format: ImageFormat = "png") -> bytes:
    """Draw observed frequencies over predicted probabilities, with the diagonal of a calibrated classifier.

    Args:
        probe: The result of a probe.
        image_format: `png` or `svg`.

    Returns:
        The image.
    """
    features = {name: facts for name, facts in probe.content["features"].items() if name != MAJORITY}
    points = {
        name: [(each["predicted"], each["observed"]) for each in facts["calibration"]["bins"]]
        for name, facts in features.items()
    }
    classes = probe.labels.classes
    of = classes[1] if len(classes) == 2 else "all classes, each against the rest"
    return draw_calibration(points, f"Calibration: {_short(of)}", image_format=image_format)


def sections(probe: ProbeResult) -> list[Section]:
    """Assemble the sections of the HTML page, below the answer.

    Args:
        probe: The result of a probe.

    Returns:
        The sections, in order.
    """
    content, classes = probe.content, probe.labels.classes
    best = list(content["features"])[_best(content["features"], BALANCED_ACCURACY)]
    warnings = content["warnings"]
    charts = [
        draw_image(partial(draw_metric, probe, metric), f"{_TITLES[metric]} with 95 % intervals") for metric in METRICS
    ]
    position = {name: number for number, name in enumerate(classes)}
    order = [position[name] for name in sort_names(classes)]  # 2 before 10
    confusion = partial(
        matrix_plots.heat_map,
        confusion_matrix(probe, best)[np.ix_(order, order)],
        [classes[i] for i in order],
        [classes[i] for i in order],
        "true class (rows), predicted class (columns)",
        label="fraction of the true class",
    )
    descriptions = [[name, str(facts["what"])] for name, facts in content["features"].items()]
    errors = [[name, f"{facts['calibration']['expected_error']:.3f}"] for name, facts in content["features"].items()]
    return [
        Section("Embeddings and baselines", images=charts[:2]),
        *([Section("Warnings", table=warning_table(warnings))] if warnings else []),
        Section("Linear probe", explain(probe), summary_table(probe)),
        Section(
            "Embeddings and the best baseline",
            "Paired differences: the same cells in the same resamples.",
            comparison_table(probe),
        ),
        Section("Embeddings and all other features", "Differences as above.", other_table(probe)),
        Section("Slides", _explain_slides(probe), _shortened(slide_table(probe))),
        Section(
            "Calibration",
            "Cells in ten bins of their predicted probability, and how often the class occurs in them: on the diagonal, "
            "probabilities can be taken at their word. The table holds the mean distance to it over all cells. The Brier "
            "score is the squared error of the probabilities.",
            Table(["features", "mean error of the probability"], errors),
            [draw_image(partial(draw_reliability, probe), "Observed frequency over predicted probability"), charts[2]],
        ),
        Section("Results by class", "ROC-AUC of each class against the rest.", _class_table(probe)),
        Section(
            f"Confusion matrix of {best}",
            "The features with the best balanced accuracy.",
            images=[draw_image(confusion, f"Confusion matrix of {best}: predicted classes of the cells of each class")],
        ),
        Section("Features", table=Table(["features", "description"], descriptions)),
        Section("What the words mean", table=Table(["word", "meaning"], list(map(list, _WORDS.items()))), folded=True),
    ]


def _explain_slides(probe: ProbeResult) -> str:
    """What the table of slides holds."""
    first = next(iter(probe.content["features"].values()))
    if "slides" in first:
        return f"Mean probability of {probe.labels.classes[-1]} over the held-out cells of each slide."
    return "ROC-AUC among the held-out cells of each slide."


def _shortened(table: Table) -> Table:
    """The first rows of a long table; the CSV holds all."""
    if len(table.rows) <= _MAX_SLIDES:
        return table
    more = [f"... and {len(table.rows) - _MAX_SLIDES:,} more", *[""] * (len(table.columns) - 1)]
    return Table(table.columns, [*table.rows[:_MAX_SLIDES], more])


def _short(text: str) -> str:
    """A text that fits into the title of a figure."""
    return text if len(text) <= _MAX_TITLE else f"...{text[-_MAX_TITLE:]}"


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
    """Position of the features with the best value."""
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    values = [facts[metric]["value"] for facts in features.values()]
    return int(np.argmax([-np.inf if value is None else sign * value for value in values]))


def _format_area(area: float | None) -> str:
    return "-" if area is None else f"{area:.3f}"
