"""Joint analysis of embedded slides in files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cifm_cli import keys
from cifm_cli.data.slide_file import open_slide_file, read_slot, reopen_slide_file
from cifm_cli.data.validate_slide import read_download_rows
from cifm_cli.data.writers.analysed import map_embedding
from cifm_cli.embedding.analysis import analyse, require_cells
from cifm_cli.embedding.embed_report import Result
from cifm_cli.embedding.embed_tables import LABELS, MAX_TYPES, Categories, categorise
from cifm_cli.embedding.joint import JointCells
from cifm_cli.errors import CifmError
from cifm_cli.path_text import file_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cifm_cli.embedding.analysis import AnalysisConfig


def check_slides(slides: Sequence[Path], label: str | None) -> None:
    """Check that slides can be analysed.

    Args:
        slides: Prepared slides.
        label: Column of obs with types, if one was given.

    Raises:
        CifmError: There are too few cells, no slide has the column, or it has too many values.
    """
    columns: dict[str, None] = {}
    sizes = []
    for path in slides:
        with open_slide_file(path) as file:
            columns.update(dict.fromkeys(map(str, file.get("obs", ()))))
            sizes.append(len(read_download_rows(file, path)))
    require_cells(sum(sizes))
    if label is None:
        return
    if label not in columns:
        raise CifmError(
            f"--label {label}: no such column of obs in {', '.join(map(file_name, slides))}",
            f"the columns are {', '.join(name for name in columns if not name.startswith('_'))}",
        )
    _read_types(slides, label, sizes)


def read_result(sources: Sequence[Path], slot: str, label: str | None, config: AnalysisConfig) -> Result:
    """Analyse the cells of embedded slides together.

    Args:
        sources: Files that `embed_slides` wrote.
        slot: Name in obsm of the embedding.
        label: Column of obs with types; by default the first of `LABELS` that a slide has, if any.
        config: What is computed.

    Returns:
        The analysis, with places, slides and types of the cells.

    Raises:
        CifmError: There are too few cells, or too many types.
    """
    cells = JointCells([file_name(path) for path in sources], [map_embedding(path, slot) for path in sources])
    column, types = _read_types(sources, label, [len(matrix) for matrix in cells.embeddings])
    xy_um = []
    for path in sources:
        with reopen_slide_file(path) as file:
            xy_um.append(np.asarray(read_slot(file["obsm"], keys.SPATIAL, path)))
    analysis = analyse(cells, config)
    slides = Categories(tuple(cells.names), cells.slide_numbers())
    return Result(slides, slot, analysis, config, xy_um, column, types)


def _read_types(
    sources: Sequence[Path], label: str | None, sizes: Sequence[int]
) -> tuple[str | None, Categories | None]:
    """Name of the column and its categories; None for both if no column serves."""
    for name in (label,) if label is not None else LABELS:
        columns: list[pd.Series] = []
        is_there = False
        for path, size in zip(sources, sizes, strict=True):
            with reopen_slide_file(path) as file:
                has_it = name in file["obs"]
                is_there |= has_it
                values = read_slot(file["obs"], name, path) if has_it else np.full(size, None, dtype=object)
            columns.append(pd.Series(values))
        if not is_there:
            continue
        types = categorise(columns)
        if len(types.names) <= MAX_TYPES:
            return name, types
        if label is not None:
            raise CifmError(
                f"--label {label}: {len(types.names):,} different values, at most {MAX_TYPES} can be shown",
                "give a column of types, such as cifm_cell_type",
            )
    return None, None
