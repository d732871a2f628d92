"""The files of an evaluation: metrics.json, a table per cell, a table per gene, predictions, and the HTML page."""

from __future__ import annotations

from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from cifm_cli.data.writers.evaluation_predictions import write_predictions
from cifm_cli.errors import writing
from cifm_cli.evaluation.folds import KINDS
from cifm_cli.evaluation.predictors.base import MODEL
from cifm_cli.evaluation.report.leave_out import leave_out_section
from cifm_cli.evaluation.report.page import overall_section, sections
from cifm_cli.evaluation.report.words import words_section
from cifm_cli.report.html import write_report
from cifm_cli.workspace import atomic_files, atomic_path, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cifm_cli.evaluation.evaluator import EvaluationResult

METRICS_FILE = "metrics.json"
PER_CELL_FILE = "per_cell.parquet"
PER_GENE_FILE = "per_gene.parquet"
REPORT_FILE = "report.html"


def check_folder(folder: Path) -> None:
    """Check that files can be written to a folder, and leave nothing behind.

    Raises:
        CifmError: A file of this name exists, or the folder may not be written.
    """
    with writing(folder):
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        TemporaryFile(dir=existing).close()


def write(
    folder: Path, metrics: dict[str, Any], results: dict[str, list[EvaluationResult]], *, save_predictions: bool
) -> None:
    """Write all files together; see `atomic_files`. Predictions of an earlier evaluation are removed.

    Args:
        folder: Made if missing.
        metrics: The content of `metrics.json`.
        results: Slide name to its results.
        save_predictions: Also write the predictions that were saved.

    Raises:
        CifmError: The disk is full or may not be written.
    """
    everything = [result for of_slide in results.values() for result in of_slide]
    with atomic_files(folder, METRICS_FILE, _is_prediction) as new:
        _write_table(new / PER_CELL_FILE, [per_cell(result) for result in everything])
        _write_table(new / PER_GENE_FILE, [per_gene(result) for result in everything])
        for result in everything if save_predictions else ():
            suffix = f"-{result.dataset.slide.name}" if len(results) > 1 else ""
            _write_predictions(new / f"predictions-{result.geometry}{suffix}.h5ad", result, metrics["provenance"])
        overall = metrics.get("overall", {})
        left_out = [leave_out_section(metrics, geometry) for geometry in overall if "leave_out" in metrics]
        averages = [overall_section(geometry, paired) for geometry, paired in overall.items()]
        of_slides = [
            section
            for name, of_slide in results.items()
            for result in of_slide
            for section in sections(result, metrics["slides"][name])
        ]
        verdict = metrics["verdict"]
        write_report(
            new / REPORT_FILE,
            "Evaluation",
            [*left_out, *averages, *of_slides, words_section()],
            metrics["provenance"],
            answer=verdict["sentence"],
            remarks=verdict["remarks"],
        )
        write_json(new / METRICS_FILE, metrics)


def _is_prediction(name: str) -> bool:
    """Whether a file holds predictions of an earlier evaluation, which nothing would tell from those of a new one."""
    # Other files that are called predictions-... belong to the user.
    return name.endswith(".h5ad") and any(name.startswith(f"predictions-{kind}") for kind in KINDS)


def scored_cells(result: EvaluationResult) -> pd.DataFrame:
    """The scored cells by barcode: row in the slide, fold, distance to the nearest visible cell."""
    columns = {"row": result.rows, "round": result.fold_number, "distance_um": result.distance_um}
    return pd.DataFrame(columns, index=result.dataset.slide.barcodes(result.rows))


def per_cell(result: EvaluationResult) -> pd.DataFrame:
    """A row for each scored cell, predictor and form."""
    cells = scored_cells(result).rename_axis("barcode").reset_index()
    cells["x_um"], cells["y_um"] = result.dataset.slide.xy_um[result.rows].T
    cells["block"] = result.bootstrap.block
    return _long_table(result, cells, "per_cell")


def per_gene(result: EvaluationResult) -> pd.DataFrame:
    """A row for each gene, predictor and form."""
    slide, columns, by_gene = result.dataset.slide, result.dataset.columns, result.targets.by_gene
    genes = pd.DataFrame(
        {
            "gene": np.array(slide.gene_ids)[columns],
            "symbol": np.array(slide.symbols)[columns],
            "actual_mean": by_gene.mean(axis=1, dtype=np.float64),
            "actual_share": (by_gene > 0).mean(axis=1),
        }
    )
    return _long_table(result, genes, "per_gene")


def _long_table(result: EvaluationResult, subjects: pd.DataFrame, part: str) -> pd.DataFrame:
    """The cells or genes, repeated for each predictor and form with its scores."""
    where = {"slide": result.dataset.slide.name, "geometry": result.geometry}
    tables = []
    for name, forms in result.scores.items():
        for form, score in forms.items():
            columns = {column: values.astype(np.float32) for column, values in getattr(score, part).items()}
            tables.append(subjects.assign(**where, predictor=name, form=form, **columns))
    return pd.concat(tables, ignore_index=True)


def _write_table(target: Path, tables: Sequence[pd.DataFrame]) -> None:
    table = pd.concat(tables, ignore_index=True)
    # Categories, because the same few names are repeated in millions of rows.
    text = dict.fromkeys(("slide", "geometry", "predictor", "form"), "category")
    with atomic_path(target) as temporary:
        table.astype(text).to_parquet(temporary, index=False, compression="zstd")


def _write_predictions(target: Path, result: EvaluationResult, provenance: dict[str, Any]) -> None:
    layers = {name.replace(":", "-"): prediction.mean for name, prediction in result.predictions.items()}
    layers[f"{MODEL}_expressed"] = result.predictions[MODEL].expressed
    actual = csr_matrix(result.targets.values)
    slide, columns = result.dataset.slide, result.dataset.columns
    write_predictions(target, slide, columns, scored_cells(result), layers, actual, provenance)
