"""Files that macOS and Windows put beside the files of the user, which are no data."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_NAMES = {
    ".ds_store",
    "thumbs.db",
    "desktop.ini",
    "__macosx",
    ".localized",
    ".spotlight-v100",
    ".fseventsd",
    ".trashes",
}
_APPLE_DOUBLE = "._"  # before the name of a file, on disks that cannot store what macOS knows about it


def is_system_file(path: Path) -> bool:
    """Whether macOS or Windows made a file or folder for itself, such as `._matrix.h5` or `.DS_Store`."""
    return path.name.startswith(_APPLE_DOUBLE) or path.name.lower() in _NAMES


def without_system_files(paths: Iterable[Path]) -> list[Path]:
    """Sort paths, and leave out those that macOS or Windows made for itself."""
    return sorted(path for path in paths if not is_system_file(path))
