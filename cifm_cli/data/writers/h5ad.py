"""Writing an `.h5ad` atomically, after a check that the disk has space for it."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
from typing import TYPE_CHECKING

import numpy as np
from anndata.io import write_elem

from cifm_cli import keys
from cifm_cli.data.open_hdf5 import create_hdf5
from cifm_cli.errors import writing
from cifm_cli.system_errors import is_refused
from cifm_cli.workspace import atomic_path

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

    from cifm_cli.data.writers.row_buffer import RowBuffer

_OVERHEAD = 1 << 20  # HDF5's own structures, bytes


def write_h5ad(target: Path, slide: AnnData, buffer: RowBuffer | None = None) -> None:
    """Write an AnnData file to a temporary name, sync it and rename it.

    Args:
        target: The `.h5ad`; its parent folder is created if missing.
        slide: The content of the file.
        buffer: Counts of a slide without `X`, at the rows in `obs[keys.DOWNLOAD_ROW]`.

    Raises:
        CifmError: The disk is full, or the folder is not writable.
    """
    slide = slide.copy() if slide.is_view else slide  # a view does not report its size
    rows = slide.obs[keys.DOWNLOAD_ROW].to_numpy() if buffer else np.empty(0, dtype=np.int64)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        num_bytes = sys.getsizeof(slide) + _image_bytes(slide) + (buffer.num_bytes(rows) if buffer else 0) + _OVERHEAD
        require_space(target.parent, num_bytes)
    with atomic_path(target) as temporary:
        write_anndata(temporary, slide)
        if buffer:
            with create_hdf5(temporary, "r+") as file:
                buffer.write_matrix(file.create_group("X"), rows)


def _image_bytes(slide: AnnData) -> int:
    """Bytes of images in `uns`, which the size of an AnnData does not include."""
    libraries = slide.uns.get(keys.SPATIAL, {}).values()
    return sum(image.nbytes for library in libraries for image in library.get("images", {}).values())


def write_anndata(temporary: Path, table: AnnData) -> None:
    """Write an AnnData as its own `write_h5ad` does, but also on a file system without locks.

    Args:
        temporary: The file; only this process knows of it.
        table: The content; its columns of text become categories.
    """
    table.strings_to_categoricals()
    with create_hdf5(temporary) as file:
        write_elem(file, "/", table)
        if table.raw is None:
            file.pop("raw", None)  # `write_elem` stores it as an empty array


def require_space(folder: Path, num_bytes: int) -> None:
    """Check that the disk has space for a file, as HDF5 crashes the process when a disk becomes full.

    Args:
        folder: Folder in which the file will be written.
        num_bytes: Size of the file.

    Raises:
        OSError: The disk has not enough space.
    """
    if sys.platform != "linux":
        return
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, num_bytes)
    except OSError as error:
        if not is_refused(error):
            raise
        # The file system cannot reserve space, so the free space that it reports has to do.
        if shutil.disk_usage(folder).free < num_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
