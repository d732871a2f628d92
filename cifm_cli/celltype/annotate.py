"""Naming all cells of a prepared slide, for `cifm annotate apply`: a table a cell a line, and what it adds up to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from cifm_cli import keys
from cifm_cli.celltype.base import TYPING_SUM, Annotation, UnlabelledCells
from cifm_cli.celltype.registry import open_annotator
from cifm_cli.data.slide import open_slide
from cifm_cli.data.writers.evaluation_predictions import read_barcodes
from cifm_cli.data.writers.reorder import download_order
from cifm_cli.errors import CifmError
from cifm_cli.provenance import numpy_generator
from cifm_cli.workspace import atomic_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cifm_cli.celltype.base import Annotator
    from cifm_cli.data.slide import Rows, Slide

MOST_CELLS: Final = 50_000  # that an annotator may learn from
_BLOCK: Final = 50_000  # cells named at a time


def open_slides(paths: Sequence[Path]) -> list[Slide]:
    """Open all slides that are to be annotated, none with its counts: what can't be opened is known before any is named.

    Args:
        paths: Prepared slides.

    Returns:
        The slides.

    Raises:
        CifmError: A file is no prepared slide, or two have one name and so one CSV.
    """
    by_name: dict[str, Path] = {}
    for path in paths:
        if path.stem in by_name:
            raise CifmError(
                f"two slides are called {path.stem}: {by_name[path.stem]} and {path}",
                "rename one of them, or annotate them one by one, each into an --out of its own",
            )
        by_name[path.stem] = path
    return [open_slide(path, hold=False) for path in paths]


def open_for_slide(spec: str, slide: Slide, rows: Rows, seed: int, *, trust_pickle: bool = False) -> Annotator:
    """Open an annotator for all genes of a slide.

    Args:
        spec: `NAME`, or `NAME:PATH`.
        slide: Which it is for.
        rows: UnlabelledCells that it may learn from; 50,000 of them are drawn where there are more.
        seed: Of the draw.
        trust_pickle: Whether the user vouches for pickles.

    Returns:
        The annotator.

    Raises:
        CifmError: There is no such annotator, or it can't be used on this slide.
    """
    cells = UnlabelledCells(slide.name, slide.expression(draw_rows(rows, seed), TYPING_SUM), slide.symbols)
    return open_annotator(spec, cells, trust_pickle=trust_pickle)


def draw_rows(rows: Rows, seed: int) -> Rows:
    """At most 50,000 of some rows, ascending; the same ones for the same seed."""
    if len(rows) <= MOST_CELLS:
        return rows
    return np.sort(numpy_generator(seed, "annotator").choice(rows, MOST_CELLS, replace=False))


def annotate_slide(annotator: Annotator, slide: Slide, advance: Callable[[float], None] | None = None) -> Annotation:
    """Name every cell of a slide.

    Args:
        annotator: Opened for the slide.
        slide: Its cells are read in blocks.
        advance: Called with the number of cells done.

    Returns:
        The types, without probabilities.
    """
    parts = []
    for first in range(0, slide.num_cells, _BLOCK):
        rows = np.arange(first, min(first + _BLOCK, slide.num_cells))
        parts.append(annotator.annotate(slide.expression(rows, TYPING_SUM), slide.symbols))
        if advance:
            advance(len(rows))
    codes, scores = (np.concatenate([getattr(part, name) for part in parts]) for name in ("codes", "scores"))
    return Annotation(annotator.names, codes, scores)


def write_types(target: Path, slide: Slide, types: Annotation) -> None:
    """Write a CSV with `cell_id`, `cell_type` and `score`, cells in the order of the download.

    Args:
        target: The file.
        slide: Opened from a file.
        types: Of its cells.

    Raises:
        CifmError: The disk is full or may not be written.
    """
    barcodes = read_barcodes(slide, slide.region(keys.ALL))
    columns = {"cell_id": barcodes, "cell_type": types.labels, "score": np.round(types.scores, 4)}
    order = download_order(slide.file)
    with atomic_path(target) as temporary:
        pd.DataFrame(columns).iloc[order].to_csv(temporary, index=False)


def composition_facts(types: Annotation) -> dict[str, Any]:
    """UnlabelledCells and mean score of each type that occurs, the commonest first."""
    sizes = types.composition()
    order = [code for code in np.argsort(-sizes, kind="stable") if sizes[code]]
    return {
        types.names[code]: {
            "cells": int(sizes[code]),
            "share": float(sizes[code] / len(types.codes)),
            "mean_score": float(types.scores[types.codes == code].mean()),
        }
        for code in order
    }
