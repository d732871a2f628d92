"""Labels of a probe: the class of every cell, from an obs column, the metadata of its slide or a table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cifm_cli import keys
from cifm_cli.embedding.label_files import UNLABELLED, parse_label_file, read_label_file
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from cifm_cli.data.writers.embedded import EmbeddedSlide

MAX_CLASSES = 50
_SLIDE_METADATA = (keys.CONDITION, keys.TISSUE, keys.SAMPLE)  # constant over a slide, stored in uns["cifm"]


@dataclass(frozen=True)
class LabelChoice:
    """What the user asks to predict."""

    column: str  # an obs column; condition, tissue or sample of the slides; or `FILE.csv:COLUMN`
    positive: str | None = None  # the class that is compared with all others together; None for all classes
    ignore: tuple[str, ...] = ()  # classes whose cells are left out

    @property
    def rest(self) -> str:
        """Name of all classes but `positive` together."""
        return f"not {self.positive}"


@dataclass(frozen=True)
class Labels:
    """Labels of some cells."""

    column: str  # the obs column, or the entry of the metadata, that they were read from
    classes: tuple[str, ...]  # K names
    codes: NDArray[np.int64]  # (n,) position in `classes` of each cell
    positive: str | None = None  # the class that is compared with all others together, if there is one

    def subset(self, mask: NDArray[np.bool_]) -> Labels:
        """Select some of the cells; the classes stay.

        Args:
            mask: (n,) whether a cell is selected.

        Returns:
            Their labels.
        """
        return replace(self, codes=self.codes[mask])


def read_labels(slides: Sequence[EmbeddedSlide], choice: LabelChoice | str) -> NDArray[np.object_]:
    """Read the label of every cell of every slide.

    Args:
        slides: Embedded slides.
        choice: The label, or its column.

    Returns:
        (N,) labels of the cells of all slides, one slide after the other; None where a cell has no label.

    Raises:
        CifmError: No slide has the column, it holds numbers, a single class or too many, or a class is not among them.
    """
    choice = LabelChoice(choice) if isinstance(choice, str) else choice
    column, hint = choice.column, f"columns that can serve as labels: {', '.join(_usable_columns(slides)) or 'none'}"
    source = parse_label_file(column)
    if source is not None and label_paths(column, slides):
        all_labels = np.concatenate(read_label_file(source, slides))
        hint = f"name another column of {source.path}"
    else:
        all_labels = _stored_labels(slides, column, hint)
    all_labels = _apply_choice(all_labels, choice)
    num_classes = len(set(all_labels.tolist()) - {None})
    if num_classes > MAX_CLASSES:
        raise CifmError(f"label {column}: {num_classes:,} different values, a probe takes at most {MAX_CLASSES}", hint)
    if num_classes < 2:
        raise CifmError(f"label {column}: {'one class' if num_classes else 'no values'}, at least two are needed", hint)
    return all_labels


def label_paths(column: str, slides: Sequence[EmbeddedSlide]) -> list[Path]:
    """Find the tables that the labels are read from.

    Args:
        column: An obs column, condition, tissue or sample of the slides, or `FILE.csv:COLUMN`.
        slides: Embedded slides.

    Returns:
        Paths of tables; empty if the labels are those that the slides store.
    """
    source = parse_label_file(column)
    return [] if source is None or any(column in slide.obs for slide in slides) else source.paths(slides)


def _stored_labels(slides: Sequence[EmbeddedSlide], column: str, hint: str) -> NDArray[np.object_]:
    """Labels from the obs column or the metadata of the slides."""
    labels_by_slide = [_labels_of_slide(slide, column) for slide in slides]
    if all(labels is None for labels in labels_by_slide):
        raise CifmError(f"label {column}: no such column in {', '.join(slide.name for slide in slides)}", hint)
    return np.concatenate(
        [
            np.full(slide.num_cells, None) if labels is None else labels
            for labels, slide in zip(labels_by_slide, slides, strict=True)
        ]
    )


def _apply_choice(labels: NDArray[np.object_], choice: LabelChoice) -> NDArray[np.object_]:
    """Leave out the ignored classes, and join all classes but the positive one."""
    found = Counter(labels.tolist())
    named = (*choice.ignore, *([] if choice.positive is None else [choice.positive]))
    for name in named:
        if name not in found:
            common = ", ".join(str(each) for each, _ in found.most_common(MAX_CLASSES + 1) if each is not None)
            raise CifmError(f"label {choice.column}: no class {name!r}", f"its classes are {common or 'none'}")
    if choice.positive in choice.ignore:
        raise CifmError(f"class {choice.positive} is both --positive and --ignore", "give it one of them")
    kept = np.array([None if label in choice.ignore else label for label in labels.tolist()], dtype=object)
    if choice.positive is None:
        return kept
    joined = [label if label in (None, choice.positive) else choice.rest for label in kept.tolist()]
    return np.array(joined, dtype=object)


def encode_labels(choice: LabelChoice | str, labels: NDArray[np.object_]) -> Labels:
    """Number the classes in alphabetical order, or with the positive class as the last of two.

    Args:
        choice: The label, or its column.
        labels: (n,) labels, none missing.

    Returns:
        The encoded labels.
    """
    choice = LabelChoice(choice) if isinstance(choice, str) else choice
    classes, codes = np.unique(labels.astype(str), return_inverse=True)
    if choice.positive == classes[0]:
        classes, codes = classes[::-1], len(classes) - 1 - codes
    return Labels(choice.column, tuple(classes.tolist()), codes.astype(np.int64), choice.positive)


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
        is_missing = [pd.isna(text) or str(text).strip().lower() in UNLABELLED for text in texts]
        return np.array([None if no else str(text) for text, no in zip(texts, is_missing, strict=True)], dtype=object)
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
    values.pop(keys.SPLIT, None)  # rectangles that `cifm prepare` drew, nothing of biology
    return [name for name, classes in values.items() if 2 <= len(classes) <= MAX_CLASSES]
