"""Writing an `.h5ad`: whole or not at all, and only where it fits."""

from __future__ import annotations

import os
import sys
import tempfile
from typing import TYPE_CHECKING

import h5py
import numpy as np

from cifm_cli import keys
from cifm_cli.errors import writing
from cifm_cli.workspace import atomic_path

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

    from cifm_cli.data.writers.row_buffer import Spool

_OVERHEAD = 1 << 20  # HDF5's own structures, bytes


def write_h5ad(target: Path, slide: AnnData, spool: Spool | None = None) -> None:
    """Write an AnnData file to a temporary name, sync it and rename it.

    Args:
        target: The `.h5ad`; its parent is made if missing.
        slide: What to write.
        spool: Where the counts are of a slide without `X`, at the rows that `obs` names.

    Raises:
        CifmError: The disk is full or may not be written.
    """
    slide = slide.copy() if slide.is_view else slide  # a view does not know its size
    rows = slide.obs[keys.DOWNLOAD_ROW].to_numpy() if spool else np.empty(0, dtype=np.int64)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        require_space(target.parent, sys.getsizeof(slide) + (spool.num_bytes(rows) if spool else 0) + _OVERHEAD)
    with atomic_path(target) as temporary:
        slide.write_h5ad(temporary)
        if spool:
            with h5py.File(temporary, "r+") as file:
                spool.write_matrix(file.create_group("X"), rows)


def require_space(folder: Path, num_bytes: int) -> None:
    """Ask the file system for the space before HDF5 does: it crashes the process when a disk fills under it.

    Args:
        folder: Where a file will be written.
        num_bytes: Its size.

    Raises:
        OSError: The disk is too full.
    """
    if sys.platform == "linux":
        with tempfile.TemporaryFile(dir=folder) as reserve:
            os.posix_fallocate(reserve.fileno(), 0, num_bytes)
