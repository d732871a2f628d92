"""What an evaluation leaves: metrics.json, a table per cell, a table per gene, predictions, and a report."""

from __future__ import annotations

from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from cifm_cli.data.writers.evaluation_predictions import write_predictions
from cifm_cli.errors import writing
from cifm_cli.evaluation.board import MODEL
from cifm_cli.evaluation.protocols import KINDS
from cifm_cli.evaluation.report import overall_section, sections
from cifm_cli.report.html import write_report
from cifm_cli.workspace import atomic_path, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from numpy.typing import NDArray

    from cifm_cli.evaluation.judge import Verdict

METRICS_FILE = "metrics.json"
PER_CELL_FILE = "per_cell.parquet"
PER_GENE_FILE = "per_gene.parquet"
REPORT_FILE = "report.html"


def check_folder(folder: Path) -> None:
    """See that files can be written to a folder, and leave no trace of that.

    Args:
        folder: May be missing.

    Raises:
        CifmError: A file is in the way, or the folder may not be written.
    """
    with writing(folder):
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        TemporaryFile(dir=there).close()


def write(folder: Path, result: dict[str, Any], verdicts: dict[str, list[Verdict]], *, save_predictions: bool) -> None:
    """Write all files, each whole or not at all, the metrics last; predictions of an earlier evaluation go.

    Args:
        folder: Made if missing.
        result: The content of `metrics.json`.
        verdicts: Slide name to its verdicts.
        save_predictions: Also write the kept predictions.

    Raises:
        CifmError: The disk is full or may not be written.
    """
    everything = [verdict for found in verdicts.values() for verdict in found]
    _write_table(folder / PER_CELL_FILE, [per_cell(verdict) for verdict in everything])
    _write_table(folder / PER_GENE_FILE, [per_gene(verdict) for verdict in everything])
    written = set()
    for verdict in everything if save_predictions else ():
        several = f"-{verdict.bench.slide.name}" if len(verdicts) > 1 else ""
        target = folder / f"predictions-{verdict.geometry}{several}.h5ad"
        _write_predictions(target, verdict, result["provenance"])
        written.add(target)
    _remove_predictions(folder, written)
    together = [overall_section(geometry, found) for geometry, found in result.get("overall", {}).items()]
    pages = [
        section
        for name, found in verdicts.items()
        for verdict in found
        for section in sections(verdict, result["slides"][name])
    ]
    write_report(folder / REPORT_FILE, "Evaluation", [*together, *pages], result["provenance"])
    write_json(folder / METRICS_FILE, result)


def _remove_predictions(folder: Path, kept: AbstractSet[Path]) -> None:
    """Remove predictions beside which other metrics stood: nothing would tell them from those of this evaluation."""
    with writing(folder):
        for kind in KINDS:
            for path in folder.glob(f"predictions-{kind}*.h5ad"):
                if path not in kept and path.is_file():
                    path.unlink()


def cells_of(verdict: Verdict) -> pd.DataFrame:
    """The scored cells, named by barcode: row in the slide, round, distance to the nearest visible cell."""
    table = {"row": verdict.rows, "round": verdict.round_number, "distance_um": verdict.distance_um}
    return pd.DataFrame(table, index=verdict.bench.slide.barcodes(verdict.rows))


def per_cell(verdict: Verdict) -> pd.DataFrame:
    """One line for every scored cell, predictor and form."""
    cells = cells_of(verdict).rename_axis("barcode").reset_index()
    cells["x_um"], cells["y_um"] = verdict.bench.slide.xy_um[verdict.rows].T
    cells["block"] = verdict.resampler.block
    return _long(verdict, cells, "per_cell")


def per_gene(verdict: Verdict) -> pd.DataFrame:
    """One line for every gene, predictor and form."""
    slide, columns, truth = verdict.bench.slide, verdict.bench.columns, verdict.truth
    genes = pd.DataFrame(
        {
            "gene": np.array(slide.gene_ids)[columns],
            "symbol": np.array(slide.symbols)[columns],
            "actual_mean": truth.by_gene.mean(axis=1, dtype=np.float64),
            "actual_share": (truth.by_gene > 0).mean(axis=1),
        }
    )
    return _long(verdict, genes, "per_gene")


def _long(verdict: Verdict, subjects: pd.DataFrame, part: str) -> pd.DataFrame:
    """The subjects once for every predictor and form, with the scores of each."""
    place = {"slide": verdict.bench.slide.name, "geometry": verdict.geometry}
    tables = [
        subjects.assign(**place, predictor=name, form=form, **_single(getattr(found, part)))
        for name, forms in verdict.scores.items()
        for form, found in forms.items()
    ]
    return pd.concat(tables, ignore_index=True)


def _single(columns: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float32]]:
    return {name: column.astype(np.float32) for name, column in columns.items()}


def _write_table(target: Path, tables: Sequence[pd.DataFrame]) -> None:
    whole = pd.concat(tables, ignore_index=True)
    text = dict.fromkeys(("slide", "geometry", "predictor", "form"), "category")
    with atomic_path(target) as temporary:
        whole.astype(text).to_parquet(temporary, index=False, compression="zstd")


def _write_predictions(target: Path, verdict: Verdict, origin: dict[str, Any]) -> None:
    layers = {name.replace(":", "-"): estimate.mean for name, estimate in verdict.kept.items()}
    layers[f"{MODEL}_expressed"] = verdict.kept[MODEL].share
    cells = cells_of(verdict)
    write_predictions(
        target, verdict.bench.slide, verdict.bench.columns, cells, layers, csr_matrix(verdict.truth.values), origin
    )
