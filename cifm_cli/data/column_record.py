"""Checksums of the annotation of the cells: the columns of `obs` and the names of the cells, as `cifm prepare` wrote them.

Users may change these with other programs, for instance to correct clusters or to rename cells, so a change is a warning.

Letters: N cells.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cifm_cli import keys
from cifm_cli.data.checksums import content_sum, gene_keys
from cifm_cli.data.metadata import parse_object, read_stored_metadata
from cifm_cli.data.slide_file import damaged, reading_slot
from cifm_cli.data.validate_slide import read_download_rows
from cifm_cli.verification import verification_enabled

if TYPE_CHECKING:
    from pathlib import Path

    import h5py
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

NAMES = "_index"  # the names of the cells among the columns
COLUMNS = "obs"  # key of the checksums in the record


def record_columns(obs: pd.DataFrame) -> dict[str, str]:
    """Compute a checksum of each column of a prepared slide, and of the names of the cells.

    Args:
        obs: N cells, with their rows in the download.

    Returns:
        Column to checksum; columns that are compared in other ways are left out.
    """
    rows = obs[keys.DOWNLOAD_ROW].to_numpy()
    others = (keys.DOWNLOAD_ROW, keys.TOTAL_COUNTS, keys.SPLIT, keys.CHECKSUM)
    columns: dict[str, Any] = {str(name): obs[name] for name in obs if name not in others}
    return {name: _column_sum(rows, values) for name, values in {**columns, NAMES: obs.index}.items()}


@dataclass(frozen=True)
class ColumnRecord:
    """The checksums of the columns of an open slide."""

    path: Path  # the slide
    rows: NDArray[np.int64]  # (N,) row of each cell in the download
    sums: dict[str, Any]  # column to checksum; empty for a slide without checksums

    @classmethod
    def read(cls, file: h5py.File, path: Path) -> ColumnRecord:
        """Read the checksums of a slide.

        Args:
            file: The open slide.
            path: Path of the slide.

        Returns:
            Its checksums; none where verification is skipped.

        Raises:
            CifmError: They are damaged.
        """
        rows = read_download_rows(file, path)
        metadata = read_stored_metadata(file, path)
        if keys.CONTENT not in metadata or not verification_enabled():
            return cls(path, rows, {})
        content = parse_object(metadata[keys.CONTENT], f"{path}: uns/{keys.CIFM}/{keys.CONTENT}")
        sums = content.get(COLUMNS)
        return cls(path, rows, sums if isinstance(sums, dict) else {})

    def compare(self, name: str, values: Any, order: NDArray[np.int64] | None = None) -> None:  # noqa: ANN401
        """Warn if a column differs from the one that was prepared.

        Args:
            name: Name of the column, or `NAMES`.
            values: (N,) entries.
            order: (N,) row of each entry; None for the order of the file.

        Raises:
            CifmError: There is not one entry per cell.
        """
        rows = self.rows if order is None else self.rows[order]
        if np.shape(values) != rows.shape:
            raise damaged(self.path, f"obs/{name} must have one entry per cell")
        if name not in self.sums:
            return
        with reading_slot(self.path, f"obs/{name}"):  # damaged texts are read as objects of other types
            same = _column_sum(rows, values) == self.sums[name]
        if same:
            return
        what = "the names of cells were" if name == NAMES else f"obs/{name} was"
        logger.warning("%s: %s changed since the slide was prepared", self.path, what)


def _column_sum(rows: NDArray[np.int64], values: Any) -> str:  # noqa: ANN401 - a column of any type
    """The checksum of a column as text. Texts are compared as such, however they are stored; missing entries are equal."""
    column = pd.Series(values)
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "iufb" and column.dtype.itemsize <= 8:
        numbers = column.to_numpy()
    else:
        codes, names = pd.factorize(column.astype(object))
        # One more for missing entries, whose code is -1.
        numbers = np.append(gene_keys([str(name) for name in names]), np.uint64(0))[codes]
    return f"{content_sum(rows, numbers):016x}"
