"""The numbers of `metrics.json` as tidy DataFrames, one row per number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterator

ALL_GENES = "all"


def score_table(metrics: dict[str, Any]) -> pd.DataFrame:
    """Scores of all predictors.

    Args:
        metrics: The content of `metrics.json`.

    Returns:
        One row per slide, geometry, gene set (`genes`), predictor, form and metric, with its `value`.
    """
    rows = [
        (*where, predictor, form, metric, value)
        for where, scores in _gene_sets(metrics)
        for predictor, forms in scores["predictors"].items()
        for form, values in forms.items()
        for metric, value in values.items()
    ]
    return pd.DataFrame(rows, columns=["slide", "geometry", "genes", "predictor", "form", "metric", "value"])


def paired_table(metrics: dict[str, Any]) -> pd.DataFrame:
    """Differences between the first model and the best baseline.

    Args:
        metrics: The content of `metrics.json`.

    Returns:
        One row per slide, geometry, gene set (`genes`) and metric: `best_baseline`, forms, `difference`, interval and p
        values.
    """
    rows = [
        {"slide": slide, "geometry": geometry, "genes": genes, "metric": metric, **difference}
        for (slide, geometry, genes), scores in _gene_sets(metrics)
        for metric, difference in scores["paired"].items()
    ]
    return pd.DataFrame(rows)


def _gene_sets(metrics: dict[str, Any]) -> Iterator[tuple[tuple[str, str, str], dict[str, Any]]]:
    """Slide, geometry and gene set, with the scores on them."""
    for slide, of_slide in metrics["slides"].items():
        for geometry, of_geometry in of_slide["geometries"].items():
            yield (slide, geometry, ALL_GENES), of_geometry
            for genes, of_genes in of_geometry["subsets"].items():
                yield (slide, geometry, genes), of_genes
