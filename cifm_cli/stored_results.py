"""Results of commands in JSON files, read back to say what a file or folder holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from cifm_cli.errors import CifmError
from cifm_cli.stored_json import StoredObject, Text, parse_json, validate

if TYPE_CHECKING:
    from pathlib import Path

# Command that wrote a file, and what its result is called
KINDS: Final = {
    "evaluate": "evaluation",
    "probe": "linear probe",
    "share": "sharing of microenvironments",
    "annotate check": "comparison of cell types with labels",
}
_NAMES: Final = ("metrics.json", "sharing.json")  # in a folder of results; a probe has the name that the user gave it


class _Answer(StoredObject):
    """The answer and how sure it is, under the names that the commands give them."""

    sentence: Text | None = None
    answer: Text | None = None
    remarks: list[Text] | None = None


class _Provenance(StoredObject):
    command: Text


class _Result(StoredObject):
    """What is read of a result."""

    provenance: _Provenance
    verdict: _Answer | None = None  # of an evaluation
    evidence: _Answer | None = None  # of a probe
    answer: _Answer | None = None  # of a comparison of samples
    slides: dict[Text, Any] | list[Any] | None = None
    samples: dict[Text, int] | None = None
    label: Text | None = None
    classes: dict[Text, int] | None = None


def find_stored_result(path: Path) -> Path | None:
    """The JSON file of a result in a folder, or the file itself; None if it is something else.

    Args:
        path: A file or folder.

    Returns:
        The JSON file.
    """
    if path.is_file():
        return path if path.suffix == ".json" else None
    return next((path / name for name in _NAMES if (path / name).is_file()), None)


def describe_stored_result(path: Path) -> dict[str, Any]:
    """Describe a result.

    Args:
        path: Path from `find_stored_result`.

    Returns:
        `kind`, `sentence` (the answer), `remarks` (how sure it is), what it is about, names of the `files` beside it, and the
        provenance.

    Raises:
        CifmError: The file cannot be read, is damaged, or no command of cifm wrote it.
    """
    try:
        content = parse_json(path.read_bytes())
        result = validate(_Result, content)
    except OSError as error:
        raise CifmError(f"{path}: {error.strerror}", "check the permissions of the file") from error
    except ValueError as error:
        raise CifmError(
            f"{path}: not a result of cifm, or damaged: {error}", "give a file or folder that a command of cifm wrote"
        ) from error
    command = result.provenance.command
    told = result.verdict or result.evidence or result.answer or _Answer()
    facts: dict[str, Any] = {"kind": KINDS.get(command, f"result of cifm {command}")}
    facts |= {"sentence": told.sentence or told.answer, "remarks": told.remarks or []}
    facts |= {"slides": list(result.slides)} if isinstance(result.slides, dict) else {}
    facts |= {name: own for name in ("samples", "label", "classes") if (own := getattr(result, name)) is not None}
    facts["files"] = sorted(file.name for file in path.parent.iterdir() if file.is_file() and file.name[0] != ".")
    return facts | {"provenance": content["provenance"]}
