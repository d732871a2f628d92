"""Tables of a joint analysis: how many cells of each slide and type are in each cluster.

Letters: N cells, C clusters, K categories.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cifm_cli.report.palette import sort_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

NO_TYPE = "no type"
_MISSING = {"", "nan", "none", "na"}  # texts of tables for missing entries, in small letters
LABELS = ("cifm_cell_type", "cell_type")  # columns of types that are used without being asked for
MAX_TYPES = 100


@dataclass(frozen=True)
class Categories:
    """A category for each cell."""

    names: tuple[str, ...]  # K names, the most frequent first, `NO_TYPE` last
    codes: NDArray[np.int32]  # (N,) positions in `names`

    def of_cells(self) -> NDArray[np.object_]:
        """(N,) names."""
        return np.array(self.names, dtype=object)[self.codes]


def categorise(columns: Sequence[pd.Series | None]) -> Categories:
    """Join a column of several slides.

    Args:
        columns: The column of each slide, numbers of cells by index; a column of missing values where a slide lacks it.

    Returns:
        The categories of the cells of all slides, one slide after the other.
    """
    texts = np.concatenate([_texts(column) for column in columns if column is not None])
    codes, found = pd.factorize(texts)
    sizes = dict(zip(found, np.bincount(codes, minlength=len(found)).tolist(), strict=True))
    # By size, and equally frequent ones by name.
    names = sorted(sort_names(name for name in found if name != NO_TYPE), key=lambda name: -sizes[name])
    names += [NO_TYPE] if NO_TYPE in sizes else []
    position = {name: number for number, name in enumerate(names)}
    return Categories(tuple(names), np.array([position[name] for name in found], dtype=np.int32)[codes])


def _texts(column: pd.Series) -> NDArray[np.object_]:
    """Entries of a column as text."""
    if pd.api.types.is_float_dtype(column.dtype):
        # pandas stores whole numbers with missing values as floats: 1.0 is the type `1`.
        column = column.map("{:g}".format, na_action="ignore")
    entries = column.astype(object).to_numpy(dtype=object)
    return np.array(
        [NO_TYPE if pd.isna(entry) or str(entry).lower() in _MISSING else str(entry) for entry in entries], dtype=object
    )


def count_cells(clusters: NDArray[np.int32], categories: Categories) -> NDArray[np.int64]:
    """Count the cells of each cluster in each category.

    Args:
        clusters: (N,) numbers.
        categories: The categories of the cells.

    Returns:
        (C, K).
    """
    num = len(categories.names)
    pairs = clusters.astype(np.int64) * num + categories.codes
    return np.bincount(pairs, minlength=(int(clusters.max()) + 1) * num).reshape(-1, num)


def composition_table(counts: NDArray[np.int64], names: Sequence[str], column: str) -> pd.DataFrame:
    """One row for each cluster and category.

    Args:
        counts: (C, K) numbers of cells.
        names: K categories.
        column: What the categories are, the name of their column.

    Returns:
        The columns `cluster`, `column`, `cells`, `fraction_of_cluster` and `fraction_of_COLUMN`.
    """
    cluster, category = (index.ravel() for index in np.indices(counts.shape))
    totals = np.maximum(counts.sum(axis=0), 1)
    return pd.DataFrame(
        {
            "cluster": cluster,
            column: np.array(names, dtype=object)[category],
            "cells": counts.ravel(),
            "fraction_of_cluster": (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)).ravel(),
            f"fraction_of_{column}": (counts / totals).ravel(),
        }
    )


def neighbours_elsewhere(distances: csr_matrix, slides: Categories) -> NDArray[np.float64]:
    """Mean fraction of the nearest neighbours of the cells of each slide that are on other slides.

    Args:
        distances: (N, N) graph of nearest neighbours.
        slides: The slides of the cells.

    Returns:
        (K,).
    """
    num = len(slides.names)
    source = np.repeat(slides.codes, np.diff(distances.indptr))
    pairs = np.bincount(source.astype(np.int64) * num + slides.codes[distances.indices], minlength=num * num)
    counts = pairs.reshape(num, num)
    fractions: NDArray[np.float64] = 1 - np.diag(counts) / np.maximum(counts.sum(axis=1), 1)
    return fractions
