"""The numbers of `probe.json` as tidy DataFrames, one row per number."""

from __future__ import annotations

from typing import Any

import pandas as pd

from cifm_cli.embedding.probe_summary import METRICS
from cifm_cli.embedding.scoring import BALANCED_ACCURACY, ROC_AUC


def score_table(content: dict[str, Any]) -> pd.DataFrame:
    """Metrics of every set of features.

    Args:
        content: The content of `probe.json`.

    Returns:
        One row per set of features and metric, with `value`, `low` and `high`; also `slide_roc_auc`, where every slide has one
        class, and `calibration_error`, which has no interval.
    """
    rows = []
    for name, facts in content["features"].items():
        rows += [{"features": name, "metric": metric, **facts[metric]} for metric in METRICS]
        if "slides" in facts:
            rows.append({"features": name, "metric": "slide_roc_auc", **facts["slides"][ROC_AUC]})
        error = facts["calibration"]["expected_error"]
        rows.append({"features": name, "metric": "calibration_error", "value": error})
    return pd.DataFrame(rows).astype({"value": float, "low": float, "high": float})


def paired_table(content: dict[str, Any]) -> pd.DataFrame:
    """Differences between each embedding and all other features.

    Args:
        content: The content of `probe.json`.

    Returns:
        One row per embedding, metric and other features (`minus`): `difference`, `low`, `high`, and whether the other is the
        `best_baseline`.
    """
    rows = [
        {
            "embedding": name,
            "metric": metric,
            "minus": other,
            "best_baseline": other == pair["best_baseline"],
            **difference,
        }
        for name, metrics in content["paired"].items()
        for metric, pair in metrics.items()
        for other, difference in pair["others"].items()
    ]
    return pd.DataFrame(rows).astype({"difference": float, "low": float, "high": float})


def slide_table(content: dict[str, Any]) -> pd.DataFrame:
    """Scores within each slide, and its mean probabilities.

    Args:
        content: The content of `probe.json`.

    Returns:
        One row per slide with held-out cells, set of features and class: `class_cells`, the cells of that class, and
        `mean_probability`; `roc_auc` and `balanced_accuracy` are those of all cells of the slide.
    """
    rows = [
        {
            "slide": slide["slide"],
            "sample": slide["sample"],
            "cells": slide["cells"],
            "features": name,
            ROC_AUC: scores[ROC_AUC],
            BALANCED_ACCURACY: scores[BALANCED_ACCURACY],
            "class": each,
            "class_cells": slide["classes"][each],
            "mean_probability": probability,
        }
        for slide in content["by_slide"]
        for name, scores in slide["features"].items()
        for each, probability in scores["mean_probability"].items()
    ]
    return pd.DataFrame(rows).astype({ROC_AUC: float})


def all_tables(content: dict[str, Any]) -> dict[str, pd.DataFrame]:
    """All tables, by the suffix that they have in the names of files.

    Args:
        content: The content of `probe.json`.
    """
    return {"": score_table(content), "_differences": paired_table(content), "_slides": slide_table(content)}
