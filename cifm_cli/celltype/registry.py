"""The registry of annotators: the entry-point group `cifm.annotators`.

An annotator is imported only when it is opened, so that one with a missing dependency does not affect the others.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from cifm_cli.celltype.base import Annotator, OpenAnnotator, UnlabelledCells

GROUP = "cifm.annotators"


def installed_annotators() -> dict[str, str]:
    """List the installed annotators.

    Returns:
        Annotator to the package that provides it, sorted by name.
    """
    entries = sorted(metadata.entry_points(group=GROUP), key=lambda entry: entry.name)
    return {entry.name: entry.dist.name if entry.dist else "" for entry in entries}


def open_annotator(spec: str, cells: UnlabelledCells, *, trust_pickle: bool = False) -> Annotator:
    """Load or fit an annotator by name.

    Args:
        spec: `NAME` or `NAME:PATH`.
        cells: Cells of the slide to be annotated.
        trust_pickle: Whether the user trusts pickles.

    Returns:
        The annotator.

    Raises:
        CifmError: The annotator is unknown, does not load, or cannot be used on this slide.
    """
    name, _, path = spec.partition(":")  # the path itself may contain colons
    entries = metadata.entry_points(group=GROUP, name=name)
    if not entries:
        known = ", ".join(installed_annotators())
        raise CifmError(f"--annotator {spec}: no such annotator", f"known: {known}; as NAME[:PATH]")
    (entry, *_) = entries
    # Errors of the plugin's own imports are reported as the user's: usually an optional dependency is missing.
    try:
        opener: OpenAnnotator = entry.load()
    except (ImportError, AttributeError) as error:
        raise CifmError(f"annotator {name} does not load: {error}", f"install what {entry.value} needs") from error
    return opener(Path(path) if path else None, cells, trust_pickle=trust_pickle)


def model_files(spec: str | None) -> list[Path]:
    """List the file of an annotator, for the provenance.

    Args:
        spec: `NAME` or `NAME:PATH`, or None.

    Returns:
        The file; empty for a folder, which has no hash, and without a path.
    """
    path = Path((spec or "").partition(":")[2] or ".")
    return [path] if path.is_file() else []


def require_path(name: str, expected: str, path: Path | None) -> Path:
    """Check that the user named an existing file or folder.

    Args:
        name: Name of the annotator.
        expected: Placeholder for the path in messages, such as `FILE.pkl`.
        path: The path that the user named, or None.

    Returns:
        The path.

    Raises:
        CifmError: No path was named, or it does not exist.
    """
    if path is None:
        raise CifmError(f"--annotator {name}: needs its model", f"name it: --annotator {name}:{expected}")
    if not path.exists():
        message = f"--annotator {name}:{path}: no such file or folder"
        raise CifmError(message, f"name a {expected}; cifm downloads nothing")
    return path
