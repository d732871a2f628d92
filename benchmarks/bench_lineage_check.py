"""A reference of immune cells on tissues that have other lineages: names before and after marker genes check the lineage.

    python benchmarks/bench_lineage_check.py DATA [OUT.json]

DATA holds the folders that `bench_annotators.py` reads. The reference is the immune census of `cell_profiles`.
"""

from __future__ import annotations

import json
import sys
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from bench_annotators import cosmx, luca, normalised, pancreas, pbmc

from cifm_cli.celltype.base import UNASSIGNED, UnlabelledCells
from cifm_cli.celltype.drawn_cells import draw_cells, read_profile_table
from cifm_cli.celltype.fitting import TargetSlide, train_classifier
from cifm_cli.celltype.label_names import type_of_label
from cifm_cli.celltype.lineage_check import check_lineages
from cifm_cli.celltype.taxonomy import lineage_of, load_taxonomy

if TYPE_CHECKING:
    from bench_annotators import DataSet

NUM_CELLS = 6_000  # drawn from the reference
MAX_CELLS = 9_000  # of a data set
MIN_CELLS = 30  # of a lineage
OTHER = "other"  # label of cells that are not epithelium


def main(folder: Path) -> list[dict[str, Any]]:
    """Score all data sets, print a row per lineage, and return the rows."""
    reference = read_profile_table(folder / "cell_profiles/ImmuneCensus_HCA.csv.gz")
    rows = []
    for data in chain(pancreas(folder, MAX_CELLS), cosmx(folder, MAX_CELLS), pbmc(folder), luca(folder)):
        for row in score(data, reference):
            print("  ".join(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
            rows.append(row)
    return rows


def score(data: DataSet, reference: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - labelled cells
    """Fractions of the cells of each actual lineage that are named, and named with that lineage."""
    symbols, totals = tuple(data.symbols), np.asarray(data.counts.sum(axis=1), dtype=np.float64).ravel()
    target = TargetSlide(symbols, totals)
    cells = draw_cells(reference, target, NUM_CELLS, 0)
    classifier = train_classifier(cells, target, max_cells=NUM_CELLS, threshold=0.5, seed=0)
    expression = normalised(data.counts)
    slide = UnlabelledCells(data.name, expression, symbols, data.tissue, data.spacing_um)
    checked = check_lineages(classifier, classifier.lineages, slide)
    names = {
        "before": classifier.annotate(expression, symbols).labels,
        "now": checked.annotate(expression, symbols).labels,
    }
    actual = np.array([actual_lineage(label) for label in data.labels.astype(str)])
    rows = []
    for lineage in np.unique(actual[actual != ""]):
        is_here = actual == lineage
        if is_here.sum() < MIN_CELLS:
            continue
        lacks = lineage != OTHER and not any(load_taxonomy().are_related(lineage, own) for own in classifier.lineages)
        row: dict[str, Any] = {"data": data.name, "lineage": lineage, "cells": int(is_here.sum()), "lacks": lacks}
        for when, labels in names.items():
            found = [actual_lineage(name) for name in labels[is_here]]
            is_right = [bool(own) and load_taxonomy().are_related(lineage, own) for own in found]
            row[f"named_{when}"] = float((labels[is_here] != UNASSIGNED).mean())
            row[f"right_{when}"] = float(np.mean(is_right))
        rows.append(row)
    return rows


def actual_lineage(label: str) -> str:
    """The lineage that a label means; empty if it means none."""
    if label == OTHER:
        return OTHER
    name = type_of_label(label)
    return lineage_of(name) if name else ""


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    found = main(Path(sys.argv[1]))
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(json.dumps(found, indent=1), encoding="utf8")
