"""A sensitivity analysis in words and numbers: one sentence, means by nearest label, tables, and the content of the JSON file."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli.report.table import Table
from cifm_cli.simulation.sensitivity.search_genes import KNOCKOUT, OVEREXPRESS

if TYPE_CHECKING:
    import pandas as pd

    from cifm_cli.simulation.sensitivity.measure import SensitivityResult

EDIT_NOUNS: Final = {KNOCKOUT: "knockout", OVEREXPRESS: "overexpression"}
MIN_PLACES: Final = 10  # near a label, for a mean of it
NOTES: Final = (
    (
        "The value of a place is the derivative in the weight of one added cell at weight 0: the change by a whole cell, if it "
        "were proportional to the weight. Probabilities saturate, so that a whole cell often changes less; --search checks "
        "proposals with whole cells."
    ),
    (
        "A model learns which cells occur next to each other. A place of high sensitivity is an association that the model "
        "has learned, not evidence that adding a cell there would cause the change."
    ),
)


def sensitivity_facts(result: SensitivityResult) -> dict[str, Any]:
    """The content of `sensitivity.json`, without provenance.

    Args:
        result: The analysis.

    Returns:
        Target, added cell, grid, the sentence, means by nearest label, and the search.
    """
    target, config = result.target, result.config
    facts: dict[str, Any] = {
        "slide": result.slide.name,
        "sentence": describe(result),
        "target": {
            "name": target.name,
            "kind": target.kind,
            "cells": target.cells_label,
            "num_cells": len(target.cells),
            "value": result.value,
        },
        "settings": {"hidden_fraction": config.hidden_fraction, "seed": config.seed},
        "window": {
            "box_um": list(result.prepared.window.box_um),
            "num_cells": len(result.prepared.window.rows),
        },
        "added": _added_facts(result),
        "by_nearest_label": by_nearest_label(result.places),
        "agreement": result.agreement and asdict(result.agreement),
        "search": None,
        "notes": list(NOTES),
    }
    if result.proposals is not None:
        facts["search"] = {
            "goal": config.goal,
            "kind": "genes" if config.search_genes else "places",
            "proposals": result.proposals.to_dict(orient="records"),
            "together": result.together,
        }
    return facts


def _added_facts(result: SensitivityResult) -> dict[str, Any] | None:
    added, grid = result.added, result.grid
    if added is None or grid is None:
        return None
    counts, symbols = added.counts.toarray()[0], result.prepared.tissue.slide.symbols
    return {
        "cell_type": added.cell_type,
        "total_counts": added.total_counts,
        "counts": {symbols[gene]: float(counts[gene]) for gene in np.argsort(-counts, kind="stable") if counts[gene]},
        "num_places": added.num_cells,
        "spacing_um": grid.spacing_um,
        "min_distance_um": grid.min_distance_um,
    }


def by_nearest_label(places: pd.DataFrame) -> list[dict[str, Any]]:
    """Mean value over the places whose nearest resident has a label.

    Args:
        places: The map, see `SensitivityResult`.

    Returns:
        For each label with at least `MIN_PLACES` places, in descending order of the mean: `label`, `num_places`, `mean` and
        `largest`, the value that is farthest from zero.
    """
    rows = []
    for label, values in places.groupby("nearest_label")["value"]:
        if len(values) >= MIN_PLACES:
            largest = values.to_numpy()[np.abs(values.to_numpy()).argmax()]
            rows.append(
                {"label": label, "num_places": len(values), "mean": float(values.mean()), "largest": float(largest)}
            )
    return sorted(rows, key=lambda row: (-row["mean"], row["label"]))


def describe(result: SensitivityResult) -> str:
    """Sentences: where an added cell raises the target most, and which of the checked edits does most."""
    parts = [] if result.added is None else [_describe_map(result, result.added.cell_type)]
    if (found := result.agreement) is not None:
        parts.append(
            f"At {found.num_places} random places, the derivative at half the weight, which is nearer to the change by a whole "
            f"cell, is {found.ratio:.2g} times as large (rank correlation {found.rank_correlation:.2f})."
        )
    if result.proposals is not None:
        parts.append(_describe_search(result, result.proposals))
    return " ".join(parts)


def _describe_map(result: SensitivityResult, cell_type: str) -> str:
    values, target = result.places["value"].to_numpy(), result.target.describe()
    if not np.abs(values).any():
        return f"An added cell ({cell_type}) changes {target} at none of {len(values):,} places."
    steepest = result.places.iloc[int(np.abs(values).argmax())]
    place = (
        f"The steepest place is x {steepest.x_um:.0f}, y {steepest.y_um:.0f} um, where the nearest cell is "
        f"{steepest.nearest_label}: {steepest.summed:+.3g} summed over these residents, to first order."
    )
    means = by_nearest_label(result.places)
    if len(means) < 2:
        return f"Where an added cell ({cell_type}) changes {target}: {place[0].lower()}{place[1:]}"
    first, last = (f"{row['label']} ({row['mean'] * len(result.target.cells):+.3g})" for row in (means[0], means[-1]))
    change = f"lowers {target} most near {last} and least near {first}"
    if means[0]["mean"] > 0:
        rest = "lowers it most" if means[-1]["mean"] < 0 else "least"
        change = f"raises {target} most near {first} and {rest} near {last}"
    return f"An added cell ({cell_type}) {change}; the numbers are means over places. {place}"


def _describe_search(result: SensitivityResult, table: pd.DataFrame) -> str:
    kind = "edit of a gene" if result.config.search_genes else "added cell"
    goal, name = result.config.goal, result.target.name
    if not len(table):
        return f"No {kind} is predicted to {goal} {name}."
    best, number = table.iloc[0], len(result.target.cells)
    if result.config.search_genes:
        edit = f"{EDIT_NOUNS[best.edit]} of {best.gene} in {best.num_cells:,} cells ({best.label})"
    else:
        edit = f"a cell at x {best.x_um:.0f}, y {best.y_um:.0f} um"
    if not (best.checked > 0 if goal == "raise" else best.checked < 0):
        return f"No proposal {goal}s {name} when it is checked."
    return (
        f"Of the proposals, {edit} {goal}s {name} most when it is checked: {number * best.checked:+.3g} summed "
        f"(predicted {number * best.predicted:+.3g})."
    )


def label_table(facts: dict[str, Any]) -> Table:
    """Means by the nearest label as text; facts are those of `sensitivity_facts`."""
    number = facts["target"]["num_cells"]
    rows = [
        [row["label"], f"{row['num_places']:,}", f"{number * row['mean']:+.3g}", f"{number * row['largest']:+.3g}"]
        for row in facts["by_nearest_label"]
    ]
    return Table(["nearest cell", "places", "mean", "largest"], rows)


def search_table(facts: dict[str, Any]) -> Table | None:
    """The proposals as text; None without a search."""
    search, number = facts["search"], facts["target"]["num_cells"]
    if search is None:
        return None

    def changes(row: dict[str, Any]) -> list[str]:
        """Predicted and checked changes, summed over the target residents."""
        names = ("predicted", "midpoint", "checked")
        return [f"{number * row[name]:+.3g}" if name in row else "" for name in names]

    if search["kind"] == "genes":
        rows = [
            [f"{row['edit']} {row['gene']} in {row['label']}", f"{row['num_cells']:,}", *changes(row)]
            for row in search["proposals"]
        ]
        return Table(["edit", "cells", "predicted", "checked"], [[*row[:3], row[4]] for row in rows])
    rows = [
        [f"{row['x_um']:.0f},{row['y_um']:.0f}", str(row["nearest_label"]), *changes(row)]
        for row in search["proposals"]
    ]
    if search["together"]:
        rows.append(["all of them", "", *changes(search["together"])])
    return Table(["place, um", "nearest cell", "predicted", "midpoint", "checked"], rows)
