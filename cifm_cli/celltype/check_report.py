"""The report of `cifm annotate check`: scores, recall by lineage, confusion and calibration."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli.report import matrix_plots
from cifm_cli.report.estimates import draw_calibration
from cifm_cli.report.html import Section, draw_image, write_report
from cifm_cli.report.table import Table
from cifm_cli.workspace import atomic_files, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from cifm_cli.celltype.check import TypeCheck

_MAX_ROWS = 40  # labels and types of the drawn confusion


def write_check_files(out: Path, name: str, check: TypeCheck, provenance: dict[str, Any]) -> dict[str, Any]:
    """Write the page and the JSON of a comparison.

    Args:
        out: The folder; created if it is missing.
        name: Name of the labelled cells.
        check: The comparison.
        provenance: Dictionary from `provenance.collect`.

    Returns:
        The content of the JSON.

    Raises:
        CifmError: The disk is full or may not be written.
    """
    page, last = f"{name}.check.html", f"{name}.check.json"
    confusion = {"labels": list(check.labels), "types": list(check.names), "cells": check.confusion.tolist()}
    content = {
        "page": (out / page).as_posix(),
        **check.facts,
        "confusion": confusion,
        "provenance": provenance,
    }
    with atomic_files(out, last) as new:
        write_check_report(new / page, f"Cell types of {name}, compared with its labels", check, provenance)
        write_json(new / last, content)
    return content


def write_check_report(path: Path, title: str, check: TypeCheck, provenance: dict[str, Any]) -> None:
    """Write the HTML page.

    Args:
        path: The `.html` file.
        title: Title of the page.
        check: The comparison.
        provenance: Dictionary from `provenance.collect`.

    Raises:
        CifmError: The file cannot be written.
    """
    facts = check.facts
    sections = [
        Section("Scores", _explanation(facts), score_table(facts)),
        Section(
            "Lineages", "Recall: fraction of the cells of a lineage whose type is of that lineage.", _lineages(facts)
        ),
    ]
    if check.confusion.size:
        share = check.confusion / np.maximum(check.confusion.sum(axis=1, keepdims=True), 1)
        drawn = partial(
            matrix_plots.heat_map,
            share[:_MAX_ROWS, :_MAX_ROWS],
            check.labels[:_MAX_ROWS],
            check.names[:_MAX_ROWS],
            "Types (columns) of the cells of each label (rows)",
            label="fraction of the label",
        )
        sections.append(
            Section("Confusion", images=[draw_image(drawn, "Fraction of each label's cells by assigned type")])
        )
    bins = facts["calibration"]["bins"]
    if bins:
        found = {"cells": [(row["mean_score"], row["compatible"]) for row in bins]}
        drawn = partial(draw_calibration, found, "Calibration")
        caption = (
            "Fraction of the cells whose type is compatible with the label, by their score (predicted probability). On the diagonal, a "
            "score of 0.8 means that 80 % are right; above it, scores are too low"
        )
        sections.append(Section("Calibration", table=_calibration_table(bins), images=[draw_image(drawn, caption)]))
    write_report(path, title, sections, provenance, answer=answer(facts), remarks=_remarks(facts))


def answer(facts: dict[str, Any]) -> str:
    """How often the annotator agrees with the labels, in one sentence.

    Args:
        facts: `facts` of a `TypeCheck`.

    Returns:
        The sentence.
    """
    if facts["lineage_accuracy"] is None:
        return "No label means a known type, so nothing could be compared."
    return (
        f"Of {facts['cells']:,} labelled cells, {_percent(facts['lineage_accuracy'])} were given the right lineage and "
        f"{_percent(facts['type_accuracy'])} the type that their label means or a finer one; {_percent(facts['unassigned'])} were "
        "left unassigned."
    )


def _remarks(facts: dict[str, Any]) -> list[str]:
    """How sure the answer is."""
    lineages = f"Every lineage counted alike: {_percent(facts['balanced_lineage_accuracy'])} have the right one."
    error = facts["calibration"]["error"]
    scores = (
        []
        if error is None
        else [f"The scores differ from the fraction of compatible types by {_percent(error)} on average."]
    )
    return [lineages, *scores, "Labels may be wrong too: this is agreement, not truth."]


def score_table(facts: dict[str, Any]) -> Table:
    """Format the scores.

    Args:
        facts: `facts` of a `TypeCheck`.

    Returns:
        The table.
    """
    impossible = facts["impossible"]
    rows = [
        ["cells with a label", f"{facts['cells']:,}"],
        ["lineage accuracy", _percent(facts["lineage_accuracy"])],
        ["balanced over lineages", _percent(facts["balanced_lineage_accuracy"])],
        ["type as deep as the label", _percent(facts["type_accuracy"])],
        ["balanced over types", _percent(facts["balanced_type_accuracy"])],
        ["compatible, of the named cells", _percent(facts["compatible"])],
        ["unassigned", _percent(facts["unassigned"])],
        ["calibration error", _percent(facts["calibration"]["error"])],
        [
            "types that the tissue lacks" + (f" ({impossible['tissue']})" if impossible else ""),
            _percent(impossible["fraction"]) if impossible else "tissue unknown, name it with --tissue",
        ],
    ]
    return Table(["score", "value"], rows)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _explanation(facts: dict[str, Any]) -> str:
    without = facts["labels_without_type"]
    text = (
        "A type is as deep as a label if it is the label's type or one below it, and compatible if one of both is above "
        "the other. An unassigned cell has no lineage."
    )
    return text + (f"\n\nLabels that mean no known type, left out: {', '.join(without)}." if without else "")


def _lineages(facts: dict[str, Any]) -> Table:
    rows = [[name, f"{part['cells']:,}", _percent(part["recall"])] for name, part in facts["lineages"].items()]
    return Table(["lineage", "cells", "recall"], rows)


def _calibration_table(bins: list[dict[str, Any]]) -> Table:
    rows = [[f"{row['mean_score']:.2f}", _percent(row["compatible"]), f"{row['cells']:,}"] for row in bins]
    return Table(["mean score", "compatible", "cells"], rows)
