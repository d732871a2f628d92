"""Annotators by name, found through the entry-point group `cifm.annotators`; only the one asked for is imported."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from cifm_cli.celltype.base import Annotator, OpenAnnotator, UnlabelledCells

GROUP = "cifm.annotators"


def installed() -> dict[str, str]:
    """Annotators of this installation.

    Returns:
        Name to the package that brings it, by name.
    """
    entries = sorted(metadata.entry_points(group=GROUP), key=lambda entry: entry.name)
    return {entry.name: entry.dist.name if entry.dist else "" for entry in entries}


def open_annotator(spec: str, cells: UnlabelledCells, *, trust_pickle: bool = False) -> Annotator:
    """Load or fit the annotator that a user named.

    Args:
        spec: `NAME`, or `NAME:PATH`.
        cells: Of the slide to be annotated.
        trust_pickle: Whether the user vouches for pickles.

    Returns:
        The annotator.

    Raises:
        CifmError: There is no such annotator, it does not load, or it can't be used on this slide.
    """
    name, _, path = spec.partition(":")
    found = metadata.entry_points(group=GROUP, name=name)
    if not found:
        raise CifmError(f"--annotator {spec}: no such annotator", f"known: {', '.join(installed())}; as NAME[:PATH]")
    (entry, *_) = found
    try:
        opener: OpenAnnotator = entry.load()
    except (ImportError, AttributeError) as error:
        raise CifmError(f"annotator {name} does not load: {error}", f"install what {entry.value} needs") from error
    return opener(Path(path) if path else None, cells, trust_pickle=trust_pickle)


def model_files(spec: str | None) -> list[Path]:
    """The file that a spec names, for the provenance; nothing for a folder, or where there is none."""
    path = Path((spec or "").partition(":")[2] or ".")
    return [path] if path.is_file() else []


def require_path(name: str, what: str, path: Path | None) -> Path:
    """The path that an annotator needs.

    Args:
        name: The annotator's.
        what: What is expected there, such as `FILE.pkl`.
        path: What the user gave.

    Returns:
        The path, which exists.

    Raises:
        CifmError: None was given, or nothing is there.
    """
    if path is None:
        raise CifmError(f"--annotator {name}: needs its model", f"name it: --annotator {name}:{what}")
    if not path.exists():
        raise CifmError(f"--annotator {name}:{path}: no such file or folder", f"name a {what}; cifm downloads nothing")
    return path
