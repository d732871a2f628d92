"""Groups of slides that are left out together, such as the slides of one patient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cifm_cli import keys
from cifm_cli.data.metadata import read_metadata
from cifm_cli.data.prepare.slide_names import portable_name
from cifm_cli.errors import CifmError
from cifm_cli.path_text import file_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SLIDE = "slide"  # the key by which every slide is a group
_SAMPLE_HINT = "give the slides of one sample or patient the same `cifm prepare --sample`, then use --leave-out sample"
_MAX_LABEL = 60  # characters of a group in a message


@dataclass(frozen=True)
class SlideGroup:
    """Slides that are left out together."""

    name: str  # the value of the key that they share
    folder: str  # name of the folder of its training: `name` as far as it can be the name of a file
    slides: tuple[Path, ...]  # in the order in which the user gave them

    @property
    def label(self) -> str:
        """The name, shortened for messages."""
        return self.name if len(self.name) <= _MAX_LABEL else f"{self.name[:_MAX_LABEL]}..."


def group_slides(slides: Sequence[Path], key: str, given: Mapping[str, str] | None = None) -> list[SlideGroup]:
    """Group slides by a key that they store, or as the caller does.

    Args:
        slides: Prepared slides with different names.
        key: `slide`, or a key of `uns["cifm"]` whose value is a text or a number, such as `sample`.
        given: Name of each slide to its group, which is then not read from the slide.

    Returns:
        The groups, sorted by name.

    Raises:
        CifmError: No slide has this key, one of them lacks it, or all slides are in one group.
    """
    stored = {
        path: describe_slide_keys(path) if given is None else {key: given[file_name(path)].strip()} for path in slides
    }
    if not any(key in values for values in stored.values()):
        known = sorted({name for values in stored.values() for name in values})
        raise CifmError(f"--leave-out {key}: no slide stores it; they store {', '.join(known)}", _SAMPLE_HINT)
    members: dict[str, list[Path]] = {}
    for path, values in stored.items():
        if not values.get(key):
            raise CifmError(f"--leave-out {key}: {path} stores no {key}", _SAMPLE_HINT)
        members.setdefault(values[key], []).append(path)
    if len(members) == 1:
        (name,) = members
        raise CifmError(
            f"--leave-out {key}: all {len(slides)} slide(s) have the {key} {name[:_MAX_LABEL]}, none is left to train on",
            "give slides of at least two groups, or --leave-out slide",
        )
    folders = _folder_names(sorted(members))
    return [SlideGroup(name, folders[name], tuple(members[name])) for name in sorted(members)]


def describe_slide_keys(path: Path) -> dict[str, str]:
    """Keys by which a slide can be grouped, with their values as text; empty where nothing was given."""
    stored = {
        key: str(value).strip()
        for key, value in (read_metadata(path) or {}).items()
        if isinstance(value, str | int | float) and key != keys.FORMAT
    }
    # The text of a number that is missing.
    return {key: "" if value == "nan" else value for key, value in stored.items()} | {SLIDE: file_name(path)}


def _folder_names(names: Sequence[str]) -> dict[str, str]:
    """A folder for each name; they differ also on file systems that ignore case."""
    folders: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        folder = portable = portable_name(name)
        number = 2
        while folder.casefold() in taken:
            folder = f"{portable}-{number}"
            number += 1
        taken.add(folder.casefold())
        folders[name] = folder
    return folders
