"""Labels of a probe: the class of every cell, from an obs column or from the metadata of its slide."""

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

MAX_CLASSES = 50
_SLIDE_METADATA = (keys.CONDITION, keys.TISSUE, keys.SAMPLE)  # constant over a slide, stored in uns["cifm"]


@dataclass(frozen=True)
class Labels:
    """Labels of some cells."""

    column: str  # the obs column, or the entry of the metadata, that they were read from
    classes: tuple[str, ...]  # K names
    codes: NDArray[np.int64]  # (n,) position in `classes` of each cell


def read_labels(slides: Sequence[EmbeddedSlide], column: str) -> NDArray[np.object_]:
    """Read the label of every cell of every slide.

    Args:
        slides: Embedded slides.
        column: An obs column; or condition, tissue or sample of the slides.

    Returns:
        (N,) labels of the cells of all slides, one slide after the other; None where a cell has no label.

    Raises:
        CifmError: No slide has the column, or it holds numbers, a single class or too many.
    """
    hint = f"columns that can serve as labels: {', '.join(_usable_columns(slides)) or 'none'}"
    labels_by_slide = [_labels_of_slide(slide, column) for slide in slides]
    if all(labels is None for labels in labels_by_slide):
        raise CifmError(f"label {column}: no such column in {', '.join(slide.name for slide in slides)}", hint)
    all_labels = np.concatenate(
        [
            np.full(slide.num_cells, None) if labels is None else labels
            for labels, slide in zip(labels_by_slide, slides, strict=True)
        ]
    )
    num_classes = len(set(all_labels.tolist()) - {None})
    if num_classes > MAX_CLASSES:
        raise CifmError(f"label {column}: {num_classes:,} different values, a probe takes at most {MAX_CLASSES}", hint)
    if num_classes < 2:
        raise CifmError(f"label {column}: {'one class' if num_classes else 'no values'}, at least two are needed", hint)
    return all_labels


def encode_labels(column: str, labels: NDArray[np.object_]) -> Labels:
    """Number the classes in alphabetical order.

    Args:
        column: The column that the labels were read from.
        labels: (n,) labels, none missing.

    Returns:
        The encoded labels.
    """
    classes, codes = np.unique(labels.astype(str), return_inverse=True)
    return Labels(column, tuple(classes.tolist()), codes.astype(np.int64))


def rare_classes(labels: NDArray[np.object_], groups: NDArray[np.int64], min_cells: int) -> dict[str, int]:
    """Find the classes that a cross-validation over groups cannot evaluate.

    Args:
        labels: (n,) labels.
        groups: (n,) groups that are held out together.
        min_cells: Number of cells that a class needs.

    Returns:
        Class to its number of cells, for classes with fewer cells or in a single group.
    """
    sizes = Counter(labels.tolist())
    return {
        name: size for name, size in sizes.items() if size < min_cells or len(np.unique(groups[labels == name])) < 2
    }


def _labels_of_slide(slide: EmbeddedSlide, column: str) -> NDArray[np.object_] | None:
    """Labels of the cells of a slide, None for a cell without one; None if the slide has no such column."""
    if column in slide.obs:
        values = slide.obs[column]
        if pd.api.types.is_float_dtype(values.dtype):
            # pandas stores integers with missing values as floats: 1.0 is the class `1`.
            values = values.map("{:g}".format, na_action="ignore")
        texts = values.astype(object).to_numpy(dtype=object)
        return np.array([None if pd.isna(text) or text == "" else str(text) for text in texts], dtype=object)
    if column in _SLIDE_METADATA:
        # `cifm prepare` stores an empty text for a condition or tissue that was not given.
        return np.full(slide.num_cells, slide.facts[column] or None, dtype=object)
    return None


def _usable_columns(slides: Sequence[EmbeddedSlide]) -> list[str]:
    """Columns that are not numeric and have two to `MAX_CLASSES` values over all slides."""
    values: dict[str, set[str]] = {}
    for slide in slides:
        for name, column in slide.obs.items():
            if pd.api.types.is_bool_dtype(column.dtype) or not pd.api.types.is_numeric_dtype(column.dtype):
                values.setdefault(str(name), set()).update(map(str, column.dropna().unique()))
        for name in _SLIDE_METADATA:
            values.setdefault(name, set()).update([slide.facts[name]] if slide.facts[name] else [])
    return [name for name, classes in values.items() if 2 <= len(classes) <= MAX_CLASSES]
