"""The record of a slide's content in `uns["cifm"]`: `cifm prepare` writes it, and whoever opens the slide compares it.

The counts have a checksum per cell in `obs` and are compared when they are read. Everything here is compared when the slide
is opened. The record does not depend on the order of cells and genes, so a slide that another program has sorted is
unchanged; one that has lost cells or genes is not.

Letters: N cells, G genes.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli import keys
from cifm_cli.data.checksums import content_sum, text_sum
from cifm_cli.errors import CifmError
from cifm_cli.verification import SKIP_HINT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

CHANGED_HINT = f"prepare the download again: `cifm prepare DOWNLOAD`, {SKIP_HINT}"
_ORDER = "order"  # key of the checksum of the order of the cells
_METADATA = (keys.FORMAT, keys.PLATFORM, keys.RADIUS_UM)  # what affects results
_TEXTS = (keys.TISSUE, keys.CONDITION, keys.SAMPLE)  # what users may edit


@dataclass(frozen=True)
class CellContent:
    """The numbers of each cell that `obs` and `obsm` hold."""

    download_rows: NDArray[np.int64]  # (N,) row of each cell in the download, which identifies the cell
    xy_um: NDArray[np.float64]  # (N, 2) cell centres in micrometres
    total_counts: NDArray[np.float64]  # (N,) counts over the panel
    split: NDArray[np.int8]  # (N,) positions in `keys.REGIONS`
    checksums: NDArray[np.uint64]  # (N,) from `cell_checksums`


def record_content(
    cells: CellContent, gene_ids: Sequence[str], symbols: Sequence[str], metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """Summarise the content of a slide.

    Args:
        cells: The numbers of N cells.
        gene_ids: G Ensembl ids.
        symbols: G symbols.
        metadata: `uns["cifm"]`.

    Returns:
        Numbers of cells and genes, checksums as text, and the metadata that affect results; for JSON.
    """
    sums = {
        _ORDER: content_sum(np.arange(len(cells.download_rows)), cells.download_rows),
        keys.DOWNLOAD_ROW: content_sum(cells.download_rows, cells.download_rows),
        "positions": content_sum(cells.download_rows, cells.xy_um),
        keys.TOTAL_COUNTS: content_sum(cells.download_rows, cells.total_counts),
        keys.SPLIT: content_sum(cells.download_rows, cells.split),
        "counts": content_sum(cells.download_rows, cells.checksums),
        "gene_ids": text_sum(gene_ids),
        # In their stored form, which depends on the order of keys alone.
        "reports": text_sum(json.dumps(metadata[key]) for key in (keys.REPORT, keys.PROVENANCE)),
        "symbols": text_sum(f"{gene}\t{symbol}" for gene, symbol in zip(gene_ids, symbols, strict=True)),
    }
    return {
        "cells": len(cells.download_rows),
        "genes": len(gene_ids),
        **{key: metadata[key] for key in (*_METADATA, *_TEXTS)},
        **{name: f"{value:016x}" for name, value in sums.items()},
    }


def require_unchanged(now: Mapping[str, Any], record: Mapping[str, Any], path: Path) -> None:
    """Raise an error if a slide is no longer what `cifm prepare` wrote.

    Args:
        now: What `record_content` returns for the slide.
        record: What it returned when the slide was written.
        path: Path of the slide.

    Raises:
        CifmError: They differ; the message says whether cells, genes, or which values.
    """
    if (change := _describe_change(now, record)) is not None:
        raise changed(path, change)


def warn_of_edits(
    now: Mapping[str, Any], record: Mapping[str, Any], download_rows: NDArray[np.int64], path: Path
) -> None:
    """Warn if texts of the metadata were edited, or the cells are not in the order of a prepared or embedded slide.

    Args:
        now: What `record_content` returns for the slide.
        record: What it returned when the slide was written.
        download_rows: (N,) row of each cell in the download.
        path: Path of the slide.
    """
    for key in _TEXTS:
        if key in record and record[key] != now[key]:
            logger.warning("%s: %s is %r, prepared was %r", path, key, now[key], record[key])
    # An embedded slide is in the order of the download.
    if record.get(_ORDER) != now[_ORDER] and (np.diff(download_rows) < 0).any():
        logger.warning(
            "%s: another program has sorted the cells: random draws select other cells than before, and sums are rounded "
            "differently",
            path,
        )


def changed(path: Path, what: str) -> CifmError:
    """The error for a slide whose content was changed, such as "positions of cells"."""
    return CifmError(f"{path}: changed since it was prepared: {what}", CHANGED_HINT)


def _describe_change(now: Mapping[str, Any], record: Mapping[str, Any]) -> str | None:
    """What differs, the most general first: with other cells or genes, all sums differ."""
    differs = [key for key in now if record.get(key) != now[key] and key not in {_ORDER, *_TEXTS}]
    if not differs:
        return None
    if "cells" in differs:
        return f"it has {now['cells']:,} cells, prepared were {record.get('cells')}"
    if "genes" in differs:
        return f"it has {now['genes']:,} genes, prepared were {record.get('genes')}"
    reasons = {
        keys.DOWNLOAD_ROW: f"other cells, by obs/{keys.DOWNLOAD_ROW}",
        "gene_ids": "Ensembl ids of genes (names of var)",
        "symbols": f"symbols of genes (var/{keys.SYMBOL})",
        "positions": f"positions of cells (obsm/{keys.SPATIAL})",
        keys.TOTAL_COUNTS: f"total counts of cells (obs/{keys.TOTAL_COUNTS})",
        "reports": f"report or provenance (uns/{keys.CIFM})",
        keys.SPLIT: f"the split (obs/{keys.SPLIT})",
        "counts": f"checksums of counts (obs/{keys.CHECKSUM})",
    }
    for key, reason in reasons.items():
        if key in differs:
            return reason
    return f"{differs[0]} is {now[differs[0]]}, prepared was {record.get(differs[0])}"
