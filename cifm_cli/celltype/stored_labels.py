"""Labels of the cells of a slide, from a column of its `obs`.

Letters: N cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from cifm_cli.data.column_record import ColumnRecord
from cifm_cli.data.slide_file import read_slot, reading_slot, reopen_slide_file
from cifm_cli.data.stored_arrays import require_rows
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Slide

MAX_LABELS: Final = 1_000  # different labels; a column of measurements has more


def read_labels(slide: Slide, column: str) -> NDArray[np.object_]:
    """Read a column of the file of a slide.

    Args:
        slide: A slide that was opened from a file.
        column: Column of `obs`, such as `cluster`, or one of the download that `cifm prepare` kept.

    Returns:
        (N,) texts; None for a cell without a label.

    Raises:
        CifmError: There is no such column, it is damaged, or it holds no labels.
    """
    with reopen_slide_file(slide.file) as file:
        with reading_slot(slide.file, "obs"):
            obs = file["obs"]
            known = [str(name) for name in obs if str(name) != obs.attrs.get("_index")]
        if column not in known:
            # Columns of numbers are measurements; categories are stored as a group, which has no dtype.
            texts = [name for name in known if getattr(getattr(obs[name], "dtype", None), "kind", "O") not in "iuf"]
            raise _no_column(str(slide.file), column, texts or known)
        require_rows(obs, column, slide.num_cells, slide.file)
        values = pd.Series(read_slot(obs, column, slide.file))
        ColumnRecord.read(file, slide.file).compare(column, values)
    return labels_of(values, f"{slide.file}: obs column {column}")


def labels_in_memory(obs: pd.DataFrame, column: str) -> NDArray[np.object_]:
    """Take a column of the `obs` of an AnnData; see `read_labels`.

    Args:
        obs: N rows.
        column: Name of the column.

    Returns:
        (N,) texts; None for a cell without a label.

    Raises:
        CifmError: There is no such column, or it holds no labels.
    """
    if column not in obs:
        raise _no_column("adata", column, map(str, obs))
    return labels_of(obs[column], f"obs column {column}")


def labels_of(values: pd.Series[Any], where: str) -> NDArray[np.object_]:
    """Convert a column to labels.

    Args:
        values: (N,) categories, texts or numbers.
        where: Name of the column, for messages.

    Returns:
        (N,) texts; None for a missing or empty entry.

    Raises:
        CifmError: There are no labels, or too many.
    """
    if pd.api.types.is_float_dtype(values.dtype):
        # pandas stores integers with missing values as floats: 1.0 is the label `1`.
        values = values.map("{:g}".format, na_action="ignore")
    labels = np.array(
        [None if pd.isna(value) or value == "" else str(value) for value in values.astype(object)], dtype=object
    )
    number = len({label for label in labels if label is not None})
    if not 0 < number <= MAX_LABELS:
        raise CifmError(
            f"{where}: {number:,} different values, labels are at least one and at most {MAX_LABELS:,}",
            "name a column of cell types or clusters with --labels",
        )
    return labels


def _no_column(where: str, column: str, known: Iterable[str]) -> CifmError:
    return CifmError(f"{where}: no obs column {column!r}", f"name one with --labels: {', '.join(known)}")
