"""All readers, and the choice of the reader for a download."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from cifm_cli.data.readers.anndata import ANNDATA
from cifm_cli.data.readers.anndata_zarr import ANNDATA_ZARR
from cifm_cli.data.readers.files import as_stored, searching
from cifm_cli.data.readers.spatialdata import SPATIALDATA
from cifm_cli.data.readers.unread_formats import unrecognised
from cifm_cli.data.readers.visium import VISIUM
from cifm_cli.data.readers.visium_hd import VISIUM_HD
from cifm_cli.data.readers.xenium import XENIUM
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

    from cifm_cli.data.readers.base import Reader

# Visium HD before Visium: a folder of Visium HD bins also holds the files by which a Visium folder is recognised.
READERS = (ANNDATA, ANNDATA_ZARR, SPATIALDATA, XENIUM, VISIUM_HD, VISIUM)
_OUTS = "outs"


def find_reader(download: Path, platform: str | None = None) -> tuple[Path, Reader]:
    """Choose the reader of a download.

    Args:
        download: Folder or file.
        platform: Name of the reader to use; None to recognise it.

    Returns:
        The folder or file to read, which is the subfolder `outs` if that holds the data, and its reader.

    Raises:
        CifmError: The path does not exist, or no reader recognises it.
    """
    known = list(dict.fromkeys(reader.name for reader in READERS))
    if platform is not None and platform not in known:
        raise CifmError(f"--platform {platform}: unknown", f"known are {', '.join(known)}")
    readers = [reader for reader in READERS if platform in (None, reader.name)]
    with searching(download):
        stored = as_stored(download)
        if not stored.exists():
            raise _missing(download)
        # Space Ranger writes into the subfolder `outs` of the run, and users give either of the two.
        for root in (stored, stored / _OUTS):
            for reader in readers:
                if reader.recognises(root):
                    return root, reader
        # A file of any name may be read as an AnnData, but the other platforms are folders.
        if platform is None or (stored.is_file() and platform != ANNDATA.name):
            raise unrecognised(stored, known, lambda path: any(reader.recognises(path) for reader in READERS))
    # The error of the reader names the file that is missing.
    return stored, readers[0]


def _missing(download: Path) -> CifmError:
    if download.is_symlink() and _is_circle(download):
        return CifmError(f"{download}: a link that leads in a circle", "correct the link")
    if download.is_symlink():
        return CifmError(
            f"{download}: a link to {download.readlink()}, which does not exist",
            "restore the file, or correct the link",
        )
    return CifmError(f"{download}: no such file or folder", "give the folder of a download, or an .h5ad")


def _is_circle(link: Path) -> bool:
    try:
        link.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False
