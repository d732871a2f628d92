"""The slot `uns["cifm"]` of the files that cifm writes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from anndata.io import read_elem

from cifm_cli import keys
from cifm_cli.data.open_hdf5 import open_for_reading

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# Stored as JSON text, in which nested lists and empty dictionaries keep their form.
_JSON_KEYS = (keys.REPORT, keys.PROVENANCE)


def encode_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with the report and the provenance as JSON text."""
    return {key: json.dumps(value, allow_nan=False) if key in _JSON_KEYS else value for key, value in metadata.items()}


def decode_metadata(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with the report and the provenance parsed; the inverse of `encode_metadata`."""
    return {key: json.loads(value) if key in _JSON_KEYS else value for key, value in stored.items()}


def read_metadata(path: Path) -> dict[str, Any] | None:
    """The decoded metadata of a file; None if cifm did not write it, or it is damaged."""
    try:
        with open_for_reading(path) as file:
            return decode_metadata(read_elem(file[f"uns/{keys.CIFM}"]))
    # Callers ask about files of any kind, also those of other programs.
    except (OSError, KeyError, ValueError, TypeError):
        return None
