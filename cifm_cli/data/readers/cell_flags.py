"""Columns that qualify a cell: `in_tissue`, which is obeyed, and others, such as doublets, which are only pointed out.

`in_tissue` is defined by Space Ranger, and scanpy, squidpy and Seurat copy it. Other programs give no such definition: whether
`filtered` marks the cells to keep or to drop differs between them.

Letters: N cells.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from numpy.typing import NDArray

_IN_TISSUE = re.compile(r"in_?tissue", re.IGNORECASE)
_YES, _NO = {"1", "1.0", "true", "t", "yes", "y"}, {"0", "0.0", "false", "f", "no", "n"}
_FLAG = re.compile(
    r"(^|_)(excluded?|filtered|filter|pass(ed)?|keep|kept|drop(ped)?|outliers?|doublets?|is_?cell|low_?quality|artefacts?|artifacts?|debris)(_|$)"
)


class CellFlags(NamedTuple):
    """What the columns say about the cells."""

    in_tissue: NDArray[np.bool_] | None  # (N,) whether a cell lies in the tissue; None if no column says so
    notes: tuple[str, ...]


def read_flags(obs: pd.DataFrame) -> CellFlags:
    """Read the columns of a table of cells that qualify them.

    Args:
        obs: N rows.

    Returns:
        The mask of `in_tissue`, and notes for the user. A missing value of `in_tissue` counts as in the tissue, because
        tables of joined samples have none for the samples of other platforms.
    """
    in_tissue, notes = None, []
    for position, name in enumerate(map(str, obs.columns)):
        is_tissue = _IN_TISSUE.fullmatch(name) is not None
        if not is_tissue and not _FLAG.search(name.lower()):
            continue
        values = _booleans(obs.iloc[:, position])
        if values is None:
            if is_tissue:
                notes.append(f"obs column {name!r} holds other values than 0 and 1, and was not used to drop cells")
        elif is_tissue:
            outside = values == 0
            in_tissue = ~outside if in_tissue is None else in_tissue & ~outside
            if num_missing := int(np.isnan(values).sum()):
                notes.append(f"{num_missing:,} cells have no value in {name!r} and count as in the tissue")
        elif 0 < (num_true := int((values == 1).sum())) < len(values):
            notes.append(
                f"obs column {name!r} is true for {num_true:,} of {len(values):,} cells; it does not drop cells"
            )
    return CellFlags(in_tissue, tuple(notes))


def _booleans(column: pd.Series) -> NDArray[np.float64] | None:
    """(N,) 0.0, 1.0, or NaN where missing; None if the column holds anything else."""
    # Distinct values are few, so that a column of counts is recognised quickly.
    codes, values = pd.factorize(column)
    if len(values) > 4:
        return None
    texts = [str(value).strip().lower() for value in values]
    if not texts or not set(texts) <= _YES | _NO:
        return None
    numbers = np.array([*(float(text in _YES) for text in texts), np.nan])
    return numbers[codes]  # a missing value has the code -1
