"""`cifm.validate_response`: what may be believed of the response to edits on a slide, as tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cifm_cli import provenance
from cifm_cli.api.slides import open_adata, optional_path
from cifm_cli.celltype.stored_labels import labels_in_memory
from cifm_cli.response.validation_tables import validation_tables
from cifm_cli.simulation.edits.labels import ColumnLabels
from cifm_cli.simulation.validate import validate, write_validation

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData


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
    out: str | Path | None = None,
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
        out: Folder into which all files of `cifm simulate --validate` are written as well: the page and tables.

    Returns:
        The scores, as a dictionary and as tables.

    Raises:
        CifmError: The counts, genes, coordinates, labels or markers cannot be used, or the folder cannot be written.

    Examples:
        >>> validation = cifm.validate_response(adata, labels="cluster")
        >>> validation.metrics["sentence"]
        >>> validation.labels.query("predictor == 'neighbour_regression'")[["label", "pearson", "believed"]]
    """
    opened = open_adata(adata, layer, radius_um)
    own_labels = None if labels is None else ColumnLabels(labels, labels_in_memory(adata.obs, labels)[opened.rows])
    metrics = validate(opened.slide, own_labels, optional_path(markers), seed)
    folder = optional_path(out)
    if folder is not None:
        write_validation(
            folder, metrics | {"provenance": provenance.collect("simulate --validate", seed=seed, inputs=[])}
        )
    tables = validation_tables(metrics)
    return ResponseValidation(metrics, tables["pairs"], tables["labels"], tables["planted"])
