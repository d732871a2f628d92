"""The files of the public release: where they are, and what the small ones say.

The release stores its arguments and its gene list as pickles. They are read without running anything from them; only tensors,
plain containers, and the attributes of an `argparse.Namespace` are accepted. JSON files of the same names may stand in their
place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli.celltype.pickled_arrays import resolve
from cifm_cli.celltype.pickles import UNPICKLING_ERRORS, OpaqueObject, SafeUnpickler
from cifm_cli.celltype.torch_files import read_torch
from cifm_cli.data.ensembl import is_ensembl_id, strip_version
from cifm_cli.data.readers.file_kinds import identify
from cifm_cli.errors import CifmError
from cifm_cli.stored_json import parse_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WEIGHTS: Final = "model.safetensors"
ARGUMENTS: Final = "args"  # .pt or .json
CHANNELS: Final = "channel2ensembl"
CODE_FOLDER: Final = "models_cifm"  # where the release keeps its pickles
DOWNLOAD_HINT: Final = "give the folder of the whole release: model.safetensors, args.pt and channel2ensembl.pt"
PICKLE_HINT: Final = "write its content as JSON beside it, under the same name with the ending .json: docs/release.md"
_ZIP_MAGIC: Final = b"PK\x03\x04"
_MAX_BYTES: Final = 1 << 26  # of a pickle or JSON file; the gene list has less than 1 MB


class PickledNamespace(OpaqueObject):
    """The attributes of an `argparse.Namespace`."""


@dataclass(frozen=True)
class ReleaseFiles:
    """Paths of the three files."""

    weights: Path
    arguments: Path
    channels: Path


def find_files(folder: Path) -> ReleaseFiles:
    """Find the files of a release.

    Args:
        folder: The folder of the release; the pickles may be in its folder `models_cifm`.

    Returns:
        Their paths.

    Raises:
        CifmError: A file is missing, or is a pointer of Git LFS.
    """
    if not folder.is_dir():
        raise CifmError(f"{folder}: no such folder", DOWNLOAD_HINT)
    found = [_find(folder, [WEIGHTS])]
    found += [_find(folder, [f"{name}.json", f"{name}.pt"]) for name in (ARGUMENTS, CHANNELS)]
    for path in found:
        kind = identify(path)
        # Files of `torch.save` are zip archives.
        if kind and not (path.suffix == ".pt" and path.read_bytes()[:4] == _ZIP_MAGIC):
            raise CifmError(f"{path}: {kind.description}", kind.hint)
    return ReleaseFiles(*found)


def _find(folder: Path, names: list[str]) -> Path:
    for place in (folder, folder / CODE_FOLDER):
        for name in names:
            if (place / name).is_file():
                return place / name
    raise CifmError(f"{folder}: no {' or '.join(names)} in it", DOWNLOAD_HINT)


def read_arguments(path: Path) -> dict[str, Any]:
    """Read the arguments that the release was made with.

    Args:
        path: `args.pt` or `args.json`.

    Returns:
        Name to value; values that are not numbers, texts, booleans or None are left out.

    Raises:
        CifmError: The file is damaged, holds more than plain data, or is no table of names.
    """
    content = _read_plain(path)
    if isinstance(content, PickledNamespace):
        content = {name: value for name, value in vars(content).items() if name != "arguments"}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise CifmError(f"{path}: not a table of arguments by name", DOWNLOAD_HINT)
    return {
        name: value for name, value in content.items() if value is None or isinstance(value, bool | int | float | str)
    }


def read_channels(path: Path) -> list[str | None]:
    """Read the gene of each channel, which is an input and an output of the network.

    Args:
        path: `channel2ensembl.pt` or `.json`: a list, or a table by number, of Ensembl ids or of lists of them.

    Returns:
        (channels,) Ensembl ids without version; None for a channel without any, or whose id an earlier channel has.

    Raises:
        CifmError: The file is damaged, holds more than plain data, or is no list of Ensembl ids.
    """
    content = _read_plain(path)
    hint = "it lists an Ensembl id, or a list of Ensembl ids, for each channel"
    if isinstance(content, np.ndarray):
        content = content.tolist()
    if isinstance(content, dict):
        content = _by_number(path, content, hint)
    if not isinstance(content, list | tuple):
        raise CifmError(f"{path}: not a list of genes", hint)
    genes: list[str | None] = []
    seen: set[str] = set()
    for number, entry in enumerate(content):
        ids = (
            [entry] if isinstance(entry, str) else list(entry) if isinstance(entry, list | tuple | np.ndarray) else None
        )
        if ids is None or not all(isinstance(name, str) and is_ensembl_id(name) for name in ids):
            raise CifmError(f"{path}: channel {number} is {entry!r:.60} and not an Ensembl id", hint)
        chosen = next((name for name in map(strip_version, ids) if name not in seen), None)
        genes.append(chosen)
        if chosen:
            seen.add(chosen)
    if not seen:
        raise CifmError(f"{path}: no genes in it", hint)
    return genes


def _by_number(path: Path, content: dict[Any, Any], hint: str) -> list[Any]:
    """The values of a table whose keys are 0, 1, 2, ..., as numbers or texts."""
    by_text = {str(key): value for key, value in content.items()}
    if set(by_text) != {str(number) for number in range(len(content))}:
        raise CifmError(f"{path}: its channels are not numbered 0 to {len(content) - 1}", hint)
    return [by_text[str(number)] for number in range(len(content))]


def _read_plain(path: Path) -> Any:  # noqa: ANN401 - any plain data
    """Read a JSON file, a file of `torch.save`, or a pickle, as plain data."""
    if path.stat().st_size > _MAX_BYTES:
        raise CifmError(f"{path}: larger than {_MAX_BYTES >> 20} MB", DOWNLOAD_HINT)
    content = path.read_bytes()
    if path.suffix == ".json":
        try:
            return parse_json(content)
        except ValueError as error:
            raise CifmError(
                f"{path}: not readable as JSON ({error!s:.200})", "correct it, or copy the file anew"
            ) from error
    known: dict[tuple[str, str], Callable[..., Any]] = {("argparse", "Namespace"): PickledNamespace}
    if content.startswith(_ZIP_MAGIC):
        return read_torch(path, trusted=False, known=known, hint=PICKLE_HINT)
    try:
        reader = SafeUnpickler(content, known)
        plain = resolve(reader.load())
    except UNPICKLING_ERRORS as error:
        raise CifmError(f"{path}: not a readable pickle ({error!s:.200})", "copy the file anew") from error
    if reader.opaque:
        raise CifmError(f"{path}: a pickle that calls {min(reader.opaque)}", PICKLE_HINT)
    return plain
