"""The files that a slide is prepared from: their hashes, and whether they changed while they were read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cifm_cli import provenance
from cifm_cli.data.readers.files import reading
from cifm_cli.errors import CifmError
from cifm_cli.path_text import path_text

if TYPE_CHECKING:
    from collections.abc import Iterable


class InputFiles:
    """The input files of a slide, remembered as they are when this object is made.

    Args:
        files: The files.
        root: The download, to whose folder names are relative, so that it can be moved.
    """

    def __init__(self, files: Iterable[Path], root: Path) -> None:
        self._root = root
        self._versions = {file: _version(file) for file in files}

    def hashes(self) -> dict[str, str]:
        """Hash the files, after all of them have been read.

        Returns:
            Name to SHA-256.

        Raises:
            CifmError: A file has changed since this object was made, or cannot be read.
        """
        hashes = {}
        for file, version in self._versions.items():
            with reading(file):
                hashes[self._relative(file)] = provenance.hash_file(file)
            # A copy or a download that is still going on would otherwise give a slide of a part of the cells.
            if _version(file) != version:
                raise CifmError(
                    f"{file}: changed while it was read",
                    "wait until its copy or download is complete, and prepare it again",
                )
        return hashes

    def _relative(self, file: Path) -> str:
        return path_text(file.relative_to(self._root) if self._root.is_dir() else Path(file.name))


def _version(file: Path) -> tuple[int, int]:
    """Size and time of the last change."""
    with reading(file):
        status = file.stat()
    return status.st_size, status.st_mtime_ns
