"""All readers, and the choice of the reader for a download."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cifm_cli.data.readers.anndata import ANNDATA
from cifm_cli.data.readers.spatialdata import SPATIALDATA
from cifm_cli.data.readers.visium import VISIUM
from cifm_cli.data.readers.visium_hd import VISIUM_HD
from cifm_cli.data.readers.xenium import XENIUM
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

    from cifm_cli.data.readers.base import Reader

# Visium HD before Visium: a folder of Visium HD bins also holds the files by which a Visium folder is recognised.
READERS = (ANNDATA, SPATIALDATA, XENIUM, VISIUM_HD, VISIUM)
_OUTS = "outs"
_MAX_NAMES = 8


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
    known = [reader.name for reader in READERS]
    if not download.exists():
        raise CifmError(f"{download}: no such file or folder", "give the folder of a download, or an .h5ad")
    if platform is not None and platform not in known:
        raise CifmError(f"--platform {platform}: unknown", f"known are {', '.join(known)}")
    readers = [reader for reader in READERS if platform in (None, reader.name)]
    # Space Ranger writes into the subfolder `outs` of the run, and users give either of the two.
    for root in (download, download / _OUTS):
        for reader in readers:
            if reader.recognises(root):
                return root, reader
    if platform is not None:
        # The error of the reader names the file that is missing.
        return download, readers[0]
    raise _unrecognised(download, known)


def _unrecognised(download: Path, known: list[str]) -> CifmError:
    """The error for a download that no reader recognises, with the first names that it holds."""
    content = sorted(path.name for path in download.iterdir()) if download.is_dir() else [download.name]
    return CifmError(
        f"{download}: not a download of a known platform ({', '.join(known)}); "
        f"found {', '.join(content[:_MAX_NAMES]) or 'an empty folder'}",
        "give the folder that holds experiment.xenium, spatial/ or binned_outputs/, an .h5ad, or --matrix with --cells",
    )
