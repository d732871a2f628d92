"""The slot `uns["cifm"]` of the files that cifm writes: its schema, checked wherever it is read."""

from __future__ import annotations

import json
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli import keys
from cifm_cli.data.open_hdf5 import is_hdf5
from cifm_cli.data.slide_file import WRITE_AGAIN, open_slide_file, read_slot
from cifm_cli.errors import CifmError
from cifm_cli.stored_json import parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import h5py

SLIDE_FACTS = (keys.PLATFORM, keys.TISSUE, keys.CONDITION, keys.SAMPLE)  # texts that describe a slide
# Stored as JSON text, in which nested lists and empty dictionaries keep their form.
_JSON_KEYS = (keys.REPORT, keys.PROVENANCE, keys.CONTENT)
_MAX_RADIUS_UM = 1e6  # beyond any tissue
_MAX_TEXT = 100_000  # characters of a platform, tissue, condition or sample


def encode_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with the report, the provenance and the checksums as JSON text."""
    return {key: json.dumps(value, allow_nan=False) if key in _JSON_KEYS else value for key, value in metadata.items()}


def decode_metadata(stored: Mapping[str, Any], where: Path | str) -> dict[str, Any]:
    """Parse the JSON texts; the inverse of `encode_metadata`.

    Args:
        stored: `uns["cifm"]`.
        where: The file, for messages.

    Returns:
        A copy, in which the report, the provenance and the checksums are dictionaries.

    Raises:
        CifmError: One of them is not a JSON object.
    """
    return {
        key: parse_object(value, f"{where}: uns/cifm/{key}") if key in _JSON_KEYS else value
        for key, value in stored.items()
    }


def check_metadata(stored: object, where: Path | str) -> dict[str, Any]:
    """Check the metadata of a prepared slide against their schema.

    Args:
        stored: `uns["cifm"]`.
        where: The file, for messages.

    Returns:
        The decoded metadata: texts, `format` an int, `radius_um` a float, JSON as dictionaries.

    Raises:
        CifmError: The format is not the one that this version reads; or an entry is missing or not valid.
    """
    if not isinstance(stored, dict):
        raise _invalid(where, "must be a dictionary")
    metadata = dict(stored)
    # The format comes before anything else, as a newer one may store other entries.
    metadata[keys.FORMAT] = check_format(metadata, where)
    for key in SLIDE_FACTS:
        text = metadata.get(key)
        if not isinstance(text, str) or len(text) > _MAX_TEXT:
            raise _invalid(where, f"{key} must be a text")
        metadata[key] = str(text)
    metadata[keys.RADIUS_UM] = check_radius(metadata, where)
    for key in (keys.REPORT, keys.PROVENANCE):
        if key not in metadata:
            raise _invalid(where, f"{key} is missing")
    metadata = decode_metadata(metadata, where)
    for key in ("options", "inputs"):
        if not isinstance(metadata[keys.PROVENANCE].get(key, {}), dict):
            raise _invalid(where, f"provenance: {key} must be an object")
    return metadata


def check_format(metadata: Mapping[str, Any], where: Path | str) -> int:
    """The format number of a prepared slide; raises a `CifmError` for one that this version does not read."""
    number = metadata.get(keys.FORMAT)
    if not isinstance(number, Integral) or isinstance(number, bool):
        raise _invalid(where, f"{keys.FORMAT} must be a whole number")
    if number != keys.PREPARED_FORMAT:
        raise CifmError(
            f"{where}: prepared-slide format {number}, this cifm reads {keys.PREPARED_FORMAT}",
            "prepare the download again with this version",
        )
    return int(number)


def check_radius(metadata: Mapping[str, Any], where: Path | str) -> float:
    """The radius of the graph in micrometres; raises a `CifmError` for a value that is none."""
    radius = metadata.get(keys.RADIUS_UM)
    if not isinstance(radius, Real) or isinstance(radius, bool) or not 0 < float(radius) <= _MAX_RADIUS_UM:
        raise _invalid(where, f"{keys.RADIUS_UM} must be a length in micrometres, above zero")
    return float(radius)


def parse_object(text: object, slot: str) -> dict[str, Any]:
    """Parse a JSON object that was read from a file.

    Args:
        text: What the file holds.
        slot: File and slot, for messages.

    Returns:
        The object; it can be written as JSON again.

    Raises:
        CifmError: The text is not JSON, not an object, nested too deeply, or holds numbers or texts that JSON has not.
    """
    try:
        parsed = parse_json(text) if isinstance(text, str) else None
        # Halves of characters are JSON, but cannot be printed.
        json.dumps(parsed, ensure_ascii=False).encode()
    except ValueError as error:
        raise CifmError(f"{slot}: damaged: not valid JSON ({error})", WRITE_AGAIN) from error
    if not isinstance(parsed, dict):
        raise CifmError(f"{slot}: damaged: must be a JSON object", WRITE_AGAIN)
    return parsed


def read_stored_metadata(file: h5py.File, path: Path) -> dict[str, Any]:
    """Read `uns["cifm"]` of an open slide as it is stored, with NumPy scalars as Python numbers.

    Args:
        file: The open file.
        path: Path of the file.

    Returns:
        The entries; JSON is not parsed.

    Raises:
        CifmError: The slot is missing or damaged.
    """
    stored = read_slot(file, f"uns/{keys.CIFM}", path)
    if not isinstance(stored, dict):
        raise _invalid(path, "must be a dictionary")
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in stored.items()}


def read_metadata(path: Path) -> dict[str, Any] | None:
    """The decoded metadata of a file; None if cifm did not write it, or it is damaged.

    Raises:
        CifmError: The system failed to read the file, or another program has it open for writing.
    """
    if not is_hdf5(path):
        return None
    # Callers ask about files of any kind, also those of other programs.
    try:
        with open_slide_file(path) as file:
            return decode_metadata(read_stored_metadata(file, path), path)
    except CifmError:
        return None


def _invalid(where: Path | str, rule: str) -> CifmError:
    return CifmError(f"{where}: damaged: uns/{keys.CIFM}: {rule}", WRITE_AGAIN)
