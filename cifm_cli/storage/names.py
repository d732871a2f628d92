"""Names that are the same file to a file system which does not tell upper from lower case, or two spellings of a letter."""

from __future__ import annotations

import tempfile
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

from cifm_cli.errors import CifmError, writing

if TYPE_CHECKING:
    from collections.abc import Iterable


def require_different_files(names: Iterable[str], folder: Path, hint: str) -> None:
    """Check that files of some names do not replace each other.

    Args:
        names: Names without their ending, all different.
        folder: Where the files will be written; it need not exist.
        hint: What the user can do.

    Raises:
        CifmError: Two names are the same file in this folder.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name and _are_same_file(other, name, folder):
            raise CifmError(f"{folder}: {other} and {name} would be the same file there", hint)


def _are_same_file(one: str, other: str, folder: Path) -> bool:
    """Try two names, in the nearest folder that exists."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    with writing(folder), tempfile.TemporaryDirectory(dir=existing, prefix=".") as scratch:
        (Path(scratch) / one).touch()
        return (Path(scratch) / other).exists()
