"""Which label every cell carries, from an obs column or from what is known of its slide."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cifm_cli import keys
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.writers.embedded import EmbeddedSlide

MOST_CLASSES = 50
_OF_SLIDES = (keys.CONDITION, keys.TISSUE, keys.SAMPLE)  # constant over a slide, kept in uns["cifm"]


@dataclass(frozen=True)
class Labels:
    """Labels of some cells.

    Args:
        column: Where they come from.
        classes: K names.
        codes: (n,) position in `classes` of each cell.
    """

    column: str
    classes: tuple[str, ...]
    codes: NDArray[np.int64]


def read_labels(slides: Sequence[EmbeddedSlide], column: str) -> NDArray[np.object_]:
    """The label of every cell of every slide, one slide after the other.

    Args:
        slides: Embedded slides.
        column: An obs column; or condition, tissue or sample of the slides.

    Returns:
        (N of all slides,) text, None where a cell has no label.

    Raises:
        CifmError: No slide has the column, or it holds numbers, one class or too many.
    """
    usable = f"columns that can serve as labels: {', '.join(_usable_columns(slides)) or 'none'}"
    parts = [_texts(slide, column) for slide in slides]
    found = [part for part in parts if part is not None]
    if not found:
        raise CifmError(f"label {column}: no such column in {', '.join(slide.name for slide in slides)}", usable)
    sizes = zip(parts, slides, strict=True)
    labels = np.concatenate([np.full(slide.num_cells, None) if part is None else part for part, slide in sizes])
    num_classes = len(set(labels.tolist()) - {None})
    if num_classes > MOST_CLASSES:
        raise CifmError(
            f"label {column}: {num_classes:,} different values, a probe takes at most {MOST_CLASSES}", usable
        )
    if num_classes < 2:
        raise CifmError(f"label {column}: {'one class' if num_classes else 'no values'}, nothing to tell apart", usable)
    return labels


def encode_labels(column: str, texts: NDArray[np.object_]) -> Labels:
    """Number the classes, by name.

    Args:
        column: Where the labels come from.
        texts: (n,) text, none missing.

    Returns:
        The labels.
    """
    names, codes = np.unique(texts.astype(str), return_inverse=True)
    return Labels(column, tuple(names.tolist()), codes.astype(np.int64))


def rare_classes(texts: NDArray[np.object_], groups: NDArray[np.int64], fewest_cells: int) -> dict[str, int]:
    """Classes that a grouped cross-validation can't judge.

    Args:
        texts: (n,) labels.
        groups: (n,) groups that are held out together.
        fewest_cells: Cells that a class needs.

    Returns:
        Class to number of cells, for classes with fewer cells or in a single group.
    """
    sizes = Counter(texts.tolist())
    return {
        name: size for name, size in sizes.items() if size < fewest_cells or len(np.unique(groups[texts == name])) < 2
    }


def _texts(slide: EmbeddedSlide, column: str) -> NDArray[np.object_] | None:
    """Labels of a slide as text, None where missing; None altogether when it has no such column."""
    if column in slide.obs:
        values = slide.obs[column]
        if pd.api.types.is_float_dtype(values.dtype):
            values = values.map("{:g}".format, na_action="ignore")
        texts = values.astype(object).to_numpy(dtype=object)
        return np.array([None if pd.isna(text) or text == "" else str(text) for text in texts], dtype=object)
    if column in _OF_SLIDES:
        return np.full(slide.num_cells, slide.facts[column] or None, dtype=object)
    return None


def _usable_columns(slides: Sequence[EmbeddedSlide]) -> list[str]:
    """Columns of names (not of numbers) with two to `MOST_CLASSES` values over all slides."""
    values: dict[str, set[str]] = {}
    for slide in slides:
        for name, column in slide.obs.items():
            if pd.api.types.is_bool_dtype(column.dtype) or not pd.api.types.is_numeric_dtype(column.dtype):
                values.setdefault(str(name), set()).update(map(str, column.dropna().unique()))
        for name in _OF_SLIDES:
            values.setdefault(name, set()).update([slide.facts[name]] if slide.facts[name] else [])
    return [name for name, found in values.items() if 2 <= len(found) <= MOST_CLASSES]
