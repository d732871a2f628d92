"""Reading back what `cifm simulate` wrote, to say what a folder holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from cifm_cli.errors import CifmError
from cifm_cli.stored_json import StoredObject, Text, parse_json, validate

if TYPE_CHECKING:
    from pathlib import Path

# File of the result in a folder, and what it is called
KINDS: Final = {
    "simulation.json": "simulation",
    "validation.json": "validation of the response",
    "sensitivity.json": "sensitivity map",
}


class _Answer(StoredObject):
    sentence: Text
    trust: list[Text]


class _Description(StoredObject):
    description: Text


class _Label(StoredObject):
    num_regions: int
    believed: bool


class _HeldOut(StoredObject):
    labels: dict[Text, _Label]


class _Result(StoredObject):
    """What all results have, and what some have."""

    slide: Text
    provenance: dict[str, Any]
    sentence: Text | None = None
    answer: _Answer | None = None
    edits: list[_Description] | None = None
    settings: dict[str, Any] | None = None
    window: dict[str, Any] | None = None
    held_out: _HeldOut | None = None


def find_result(path: Path) -> Path | None:
    """The file of the result of `cifm simulate` in a folder, or the file itself; None if it is something else.

    Args:
        path: A file or folder.

    Returns:
        The JSON file.
    """
    if path.name in KINDS and path.is_file():
        return path
    return next((path / name for name in KINDS if (path / name).is_file()), None)


def describe_result(path: Path) -> dict[str, Any]:
    """Describe a result.

    Args:
        path: Path from `find_result`.

    Returns:
        `kind`, `slide`, `sentence`, what was edited or validated, names of the `files` beside it, and the provenance.

    Raises:
        CifmError: The file cannot be read or is damaged.
    """
    try:
        result = validate(_Result, parse_json(path.read_bytes()))
    except OSError as error:
        raise CifmError(f"{path}: {error.strerror}", "check the permissions of the file") from error
    except ValueError as error:
        raise CifmError(f"{path}: damaged: {error}", "run cifm simulate again") from error
    facts: dict[str, Any] = {"kind": KINDS[path.name], "slide": result.slide, "sentence": result.sentence}
    if result.answer is not None:
        facts |= {"sentence": result.answer.sentence, "trust": result.answer.trust}
    if result.edits is not None:
        facts["edits"] = [edit.description for edit in result.edits]
    facts |= {name: own for name in ("window", "settings") if (own := getattr(result, name)) is not None}
    if result.held_out is not None:
        facts["believed"] = {label: own.believed for label, own in result.held_out.labels.items()}
    facts["files"] = sorted(file.name for file in path.parent.iterdir() if file.is_file() and file.name[0] != ".")
    return facts | {"provenance": result.provenance}
