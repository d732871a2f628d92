"""`cifm.validate_response`: what may be believed of the response to edits on a slide, as tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from cifm_cli.api.slides import open_adata, optional_path
from cifm_cli.celltype.stored_labels import labels_in_memory
from cifm_cli.simulation.edits.labels import ColumnLabels
from cifm_cli.simulation.validate import validate

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

_SCORES: Final = ("pearson", "signed_precision", "energy_distance")


@dataclass(frozen=True)
class ResponseValidation:
    """Scores on hidden cells of a slide and on planted tissues; docs/simulation.md defines them."""

    metrics: dict[str, Any]  # the content of `validation.json`, without provenance
    # One row per label, region and predictor: `centre_x_um`, `centre_y_um`, `num_hidden` and the scores `pearson`,
    # `signed_precision` and `energy_distance`
    pairs: pd.DataFrame
    labels: pd.DataFrame  # one row per label and predictor: `num_regions`, `believed` and the means of the scores
    planted: pd.DataFrame  # one row per planted tissue


def validate_response(
    adata: AnnData,
    *,
    labels: str | None = None,
    markers: str | Path | None = None,
    layer: str | None = None,
    radius_um: float | None = None,
    seed: int = 0,
) -> ResponseValidation:
    """Measure for which labels and genes the response to edits may be believed, as `cifm simulate --validate` does.

    No model is needed: neither the response nor its validation uses the network.

    Args:
        adata: N cells.
        labels: Column of `adata.obs`, such as `cluster`, whose labels are validated; by default cell types.
        markers: TSV of marker genes (columns `cell_type` and `symbol`) that extends the packaged table.
        layer: Where the raw counts are: `X`, `raw`, or the name of a layer; by default the first that holds counts.
        radius_um: Radius of the graph, micrometres; by default that of the slide.
        seed: Seed of all samples and of the planted tissues.

    Returns:
        The scores, as a dictionary and as tables.

    Raises:
        CifmError: The counts, genes, coordinates, labels or markers cannot be used.

    Example:
        >>> validation = cifm.validate_response(adata, labels="cluster")
        >>> validation.metrics["sentence"]
        >>> validation.labels.query("predictor == 'neighbour_regression'")[["label", "pearson", "believed"]]
    """
    opened = open_adata(adata, layer, radius_um)
    own_labels = None if labels is None else ColumnLabels(labels, labels_in_memory(adata.obs, labels)[opened.rows])
    metrics = validate(opened.slide, own_labels, optional_path(markers), seed)
    held_out = metrics["held_out"]
    return ResponseValidation(
        metrics, _pairs(held_out["pairs"]), _labels(held_out["labels"]), pd.DataFrame(metrics["planted"])
    )


def _pairs(pairs: list[dict[str, Any]]) -> pd.DataFrame:
    """Scores by label, region and predictor."""
    rows = [
        {
            "label": pair["label"],
            "centre_x_um": pair["centre_um"][0],
            "centre_y_um": pair["centre_um"][1],
            "num_hidden": pair["num_hidden"],
            "predictor": predictor,
            **scores,
        }
        for pair in pairs
        for predictor, scores in pair["predictors"].items()
    ]
    return pd.DataFrame(rows, columns=["label", "centre_x_um", "centre_y_um", "num_hidden", "predictor", *_SCORES])


def _labels(labels: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Mean scores by label and predictor."""
    rows = [
        {
            "label": label,
            "num_regions": own["num_regions"],
            "believed": own["believed"],
            "predictor": predictor,
            **scores,
        }
        for label, own in labels.items()
        for predictor, scores in own["predictors"].items()
    ]
    return pd.DataFrame(rows, columns=["label", "num_regions", "believed", "predictor", *_SCORES])
