"""Annotation of slides, in memory and into CSV files.

In Python, `annotate` takes a slide and the name of an annotator and returns an `Annotation`. The command
`cifm annotate apply` uses the same functions, and writes one CSV for each slide.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from cifm_cli import keys
from cifm_cli.celltype.base import TYPING_SUM, Annotation, UnlabelledCells
from cifm_cli.celltype.label_names import lineage_of_label
from cifm_cli.celltype.registry import open_annotator
from cifm_cli.data.metadata import read_metadata
from cifm_cli.data.slide import log_normalise, open_slide
from cifm_cli.data.units import median_spacing_um
from cifm_cli.data.writers.reorder import download_order
from cifm_cli.errors import CifmError
from cifm_cli.provenance import numpy_generator
from cifm_cli.storage.names import require_different_files
from cifm_cli.workspace import atomic_files, atomic_path, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cifm_cli.celltype.base import Annotator
    from cifm_cli.celltype.labelled_cells import LabelledCells
    from cifm_cli.data.slide import Rows, Slide

MAX_FITTED_CELLS: Final = 50_000  # cells of a slide that an annotator is fitted to
_BLOCK_CELLS: Final = 50_000  # cells annotated at a time, which bounds the memory for their expression


def annotate(
    slide: Slide,
    annotator: str = "markers",
    *,
    seed: int = 0,
    trust_pickle: bool = False,
    tissue: str | None = None,
    advance: Callable[[float], None] | None = None,
) -> Annotation:
    """Annotate every cell of a slide.

    Args:
        slide: A slide, in memory or opened from a file.
        annotator: `NAME` or `NAME:PATH`, as for `cifm annotate apply --annotator`.
        seed: Seed of the cells that the annotator is fitted to, where it is fitted and the slide has more than 50,000.
        trust_pickle: Whether to read models that are stored as pickles.
        tissue: Description of the tissue; that of the slide when absent.
        advance: Called with the number of annotated cells after each block.

    Returns:
        Types and scores of the N cells, without probabilities.

    Raises:
        CifmError: The annotator is unknown, or cannot be used on this slide.
    """
    opened = open_whole_slide(annotator, slide, seed, trust_pickle=trust_pickle, tissue=tissue)
    return annotate_slide(opened, slide, advance)


def annotate_expression(
    cells: UnlabelledCells, annotator: str = "markers", *, seed: int = 0, trust_pickle: bool = False
) -> Annotation:
    """Annotate cells that belong to no slide.

    Args:
        cells: The N cells.
        annotator: `NAME` or `NAME:PATH`, as for `cifm annotate apply --annotator`.
        seed: Seed of the cells that the annotator is fitted to, where it is fitted and N is more than 50,000.
        trust_pickle: Whether to read models that are stored as pickles.

    Returns:
        Types of the N cells, with probabilities where the annotator has some.

    Raises:
        CifmError: The annotator is unknown, or cannot be used with these genes.
    """
    rows = sample_rows(np.arange(cells.expression.shape[0]), seed)
    fitted = replace(cells, expression=cells.expression[rows])
    return open_annotator(annotator, fitted, trust_pickle=trust_pickle).annotate(cells.expression, cells.symbols)


def open_for_slide(
    spec: str, slide: Slide, rows: Rows, seed: int, *, trust_pickle: bool = False, tissue: str | None = None
) -> Annotator:
    """Open an annotator for a slide, with all genes of the slide.

    Args:
        spec: `NAME` or `NAME:PATH`.
        slide: The slide.
        rows: Cells that the annotator may be fitted to; 50,000 of them are sampled if there are more.
        seed: Seed of the sample.
        trust_pickle: Whether the user trusts pickles.
        tissue: Description of the tissue; that of the slide when absent.

    Returns:
        The annotator.

    Raises:
        CifmError: The annotator is unknown, or cannot be used on this slide.
    """
    tissue = tissue or slide_tissue(slide)
    # In an order of their positions: the files of one slide differ in the order of their rows, which changes a sample and k-means.
    placed = rows[np.lexsort(slide.xy_um[rows].T)]
    expression = slide.expression(placed[sample_rows(np.arange(len(rows)), seed)], TYPING_SUM)
    cells = UnlabelledCells(slide.name, expression, slide.symbols, tissue, median_spacing_um(slide.xy_um))
    return open_annotator(spec, cells, trust_pickle=trust_pickle)


def slide_tissue(slide: Slide) -> str | None:
    """Description of a slide's tissue, as `cifm prepare --tissue` stored it; None if it has none."""
    return (slide.facts or {}).get(keys.TISSUE) or None


def stored_tissue(path: Path) -> str | None:
    """Description of the tissue of a file that `cifm prepare` wrote; None for other files."""
    tissue = (read_metadata(path) or {}).get(keys.TISSUE)
    return tissue if isinstance(tissue, str) and tissue else None


def open_whole_slide(
    spec: str, slide: Slide, seed: int, *, trust_pickle: bool = False, tissue: str | None = None
) -> Annotator:
    """Open an annotator that may be fitted to all cells of a slide; see `open_for_slide`."""
    return open_for_slide(spec, slide, slide.region(keys.ALL), seed, trust_pickle=trust_pickle, tissue=tissue)


def annotate_labelled(
    cells: LabelledCells,
    annotator: str = "markers",
    *,
    name: str = "cells",
    seed: int = 0,
    trust_pickle: bool = False,
    tissue: str | None = None,
) -> Annotation:
    """Annotate labelled cells without their labels, for a comparison.

    Args:
        cells: The cells; their labels are not used.
        annotator: `NAME` or `NAME:PATH`, as for `cifm annotate apply --annotator`.
        name: Name of the cells in messages.
        seed: Seed of the cells that the annotator is fitted to, where it is fitted and there are more than 50,000.
        trust_pickle: Whether to read models that are stored as pickles.
        tissue: Description of the tissue.

    Returns:
        Types of the cells.

    Raises:
        CifmError: The annotator is unknown, or cannot be used with these genes.
    """
    totals = np.asarray(cells.counts.sum(axis=1), dtype=np.float64).ravel()
    expression = log_normalise(cells.counts.astype(np.float32), totals, TYPING_SUM)
    unlabelled = UnlabelledCells(name, expression, cells.symbols, tissue or None, cells.spacing_um)
    return annotate_expression(unlabelled, annotator, seed=seed, trust_pickle=trust_pickle)


def sample_rows(rows: Rows, seed: int) -> Rows:
    """Sample at most 50,000 of the given rows, ascending."""
    if len(rows) <= MAX_FITTED_CELLS:
        return rows
    return np.sort(numpy_generator(seed, "annotator").choice(rows, MAX_FITTED_CELLS, replace=False))


def annotate_slide(annotator: Annotator, slide: Slide, advance: Callable[[float], None] | None = None) -> Annotation:
    """Annotate every cell of a slide with an opened annotator, block by block.

    Args:
        annotator: Opened for the slide.
        slide: The slide.
        advance: Called with the number of annotated cells after each block.

    Returns:
        Types and scores of the N cells, without probabilities.
    """
    blocks = []
    for first in range(0, slide.num_cells, _BLOCK_CELLS):
        rows = np.arange(first, min(first + _BLOCK_CELLS, slide.num_cells))
        blocks.append(annotator.annotate(slide.expression(rows, TYPING_SUM), slide.symbols))
        if advance:
            advance(len(rows))
    # Without probabilities: some models have hundreds of types, and the matrix could be larger than the counts.
    codes, scores = (np.concatenate([getattr(block, name) for block in blocks]) for name in ("codes", "scores"))
    outside = [block.is_outside for block in blocks if block.is_outside is not None]
    return Annotation(annotator.names, codes, scores, is_outside=np.concatenate(outside) if outside else None)


def open_slides(paths: Sequence[Path]) -> list[Slide]:
    """Open all slides without their counts, to report a file that cannot be opened before the first is annotated.

    Args:
        paths: Prepared slides.

    Returns:
        The slides.

    Raises:
        CifmError: A file is no prepared slide, or two slides have the same name and so the same CSV.
    """
    by_name: dict[str, Path] = {}
    for path in paths:
        if path.stem in by_name:
            raise CifmError(
                f"two slides are called {path.stem}: {by_name[path.stem]} and {path}",
                "rename one of them, or annotate them one by one, each into an --out of its own",
            )
        by_name[path.stem] = path
    # The counts are read block by block, so that the slides together need little memory.
    return [open_slide(path, hold=False) for path in paths]


def write_annotations(
    out: Path, annotations: Sequence[tuple[Slide, Annotation, Annotator]], origin: dict[str, Any]
) -> dict[str, Any]:
    """Write the types of several slides: a CSV and a page for each, and `annotated.json` with what is returned.

    Args:
        out: The folder; created if it is missing.
        annotations: Slides that were opened from files, each with the types of its cells and their annotator.
        origin: Provenance of the annotation.

    Returns:
        For each slide the paths of its CSV and page, the number of cells, the composition and the limits, as JSON.

    Raises:
        CifmError: The disk is full or may not be written.
    """
    # matplotlib takes a second to import.
    from cifm_cli.celltype.apply_report import limits, write_apply_report

    result = {}
    require_different_files(
        [slide.name for slide, _, _ in annotations], out, "annotate them one by one, each with --out"
    )
    # Together and last, so that a slide that cannot be annotated leaves no partial result.
    with atomic_files(out, "annotated.json") as new:
        for slide, types, annotator in annotations:
            name, page = f"{slide.name}.csv", f"{slide.name}.html"
            write_types(new / name, slide, types)
            write_apply_report(new / page, slide, types, annotator, origin)
            result[slide.name] = {
                "path": (out / name).as_posix(),
                "page": (out / page).as_posix(),
                "cells": slide.num_cells,
                "types": composition_facts(types),
                "limits": limits(types, annotator, slide.gene_ids),
            }
        write_json(new / "annotated.json", {"slides": result, "provenance": origin})
    return result


def write_types(target: Path, slide: Slide, types: Annotation) -> None:
    """Write a CSV with the columns `cell_id`, `cell_type`, `score` and `lineage`, cells in the order of the download.

    Args:
        target: The CSV.
        slide: A slide that was opened from a file.
        types: Types of its cells.

    Raises:
        CifmError: The disk is full or may not be written.
    """
    # Cells of a prepared slide are in Hilbert order; users join the CSV with tables of their download.
    barcodes = slide.barcodes(slide.region(keys.ALL))
    # Four digits, which is more than the accuracy of any score.
    lineages = np.array([lineage_of_label(name) for name in types.names], dtype=object)[types.codes]
    scores = np.round(types.scores, 4)
    columns = {"cell_id": barcodes, "cell_type": types.labels, "score": scores, "lineage": lineages}
    order = download_order(slide.file)
    with atomic_path(target) as temporary:
        pd.DataFrame(columns).iloc[order].to_csv(temporary, index=False)


def composition_facts(types: Annotation) -> dict[str, Any]:
    """Summarise an annotation, as `annotated.json` holds it.

    Args:
        types: Types of the cells of a slide.

    Returns:
        Type to its number of cells, their fraction of all cells and their mean score; types without cells are left out, the most
        frequent type comes first.
    """
    sizes = types.composition()
    # Stable, so that types of equal size keep the order of the annotator.
    order = [code for code in np.argsort(-sizes, kind="stable") if sizes[code]]
    return {
        types.names[code]: {
            "cells": int(sizes[code]),
            "share": float(sizes[code] / len(types.codes)),
            "mean_score": float(types.scores[types.codes == code].mean()),
        }
        for code in order
    }
