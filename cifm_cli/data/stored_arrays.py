"""Reading single arrays of an AnnData file, with checks of their kind, type and shape.

Texts and categories may be stored in any way in which AnnData or another program stores them.

Letters: N entries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from cifm_cli.data.slide_file import damaged, reading_slot

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_ENCODING = "encoding-type"
_KINDS = {"iuf": "numbers", "iu": "whole numbers"}


def find_array(file: h5py.Group, slot: str, path: Path, kinds: str = "iuf") -> h5py.Dataset:
    """Find an array of numbers. Other programs store some columns, such as those with missing values, as groups.

    Args:
        file: The open file.
        slot: Path of the array in the file.
        path: Path of the file.
        kinds: NumPy kinds that are allowed: `iuf` or `iu`.

    Returns:
        The array.

    Raises:
        CifmError: It is missing, not an array, or not of numbers.
    """
    with reading_slot(path, slot):
        array = file.get(slot)
        if array is None:
            raise damaged(path, f"{slot} is missing")
        if not isinstance(array, h5py.Dataset):
            raise damaged(path, f"{slot} must be an array")
        if array.dtype.kind not in kinds:
            raise damaged(path, f"{slot} must be {_KINDS[kinds]}")
    return array


def read_numbers(file: h5py.Group, slot: str, path: Path, kinds: str = "iuf") -> NDArray[Any]:
    """Read an array of numbers.

    Args:
        file: The open file.
        slot: Path of the array in the file.
        path: Path of the file.
        kinds: NumPy kinds that are allowed: `iuf` or `iu`.

    Returns:
        The array, in the byte order of this machine.

    Raises:
        CifmError: It is missing or damaged, or has another type.
    """
    array = find_array(file, slot, path, kinds)
    with reading_slot(path, slot):
        return np.asarray(array[:], dtype=array.dtype.newbyteorder("="))


def read_texts(file: h5py.Group, slot: str, path: Path, length: int | None = None) -> NDArray[Any]:
    """Read texts without missing values, in any encoding: array of texts, categories, or nullable texts.

    Args:
        file: The open file.
        slot: Path of the texts in the file.
        path: Path of the file.
        length: N, if it is known: no array of another length is read.

    Returns:
        (N,) texts.

    Raises:
        CifmError: They are missing or damaged, not texts, or some are missing values.
    """
    with reading_slot(path, slot):
        stored = file.get(slot)
        if stored is None:
            raise damaged(path, f"{slot} is missing")
        if isinstance(stored, h5py.Group) and stored.attrs.get(_ENCODING) == "categorical":
            codes, names = read_codes(file, slot, path, length)
            return names[codes]
        values = stored["values"] if isinstance(stored, h5py.Group) else stored
        if h5py.check_string_dtype(values.dtype) is None or values.ndim != 1:
            raise damaged(path, f"{slot} must be texts")
        _require_length(values, length, slot, path)
        if stored is not values and "mask" in stored:
            _require_length(stored["mask"], len(values), slot, path)
            if stored["mask"][:].any():
                raise damaged(path, f"{slot} has missing values")
        texts: NDArray[Any] = values.asstr()[:]
    return texts


def read_codes(
    file: h5py.Group, slot: str, path: Path, length: int | None = None
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Read texts as codes, without a Python string for each entry if they are stored as categories.

    Args:
        file: The open file.
        slot: Path of the texts in the file.
        path: Path of the file.
        length: N, if it is known: no array of another length is read.

    Returns:
        (N,) positions in the distinct texts, and the distinct texts.

    Raises:
        CifmError: As for `read_texts`.
    """
    with reading_slot(path, slot):
        if slot not in file or file[slot].attrs.get(_ENCODING) != "categorical":
            names, codes = np.unique(read_texts(file, slot, path, length).astype(str), return_inverse=True)
            return codes, names.astype(object)
    stored = find_array(file, f"{slot}/codes", path, "iu")
    _require_length(stored, length, slot, path)
    names = read_texts(file, f"{slot}/categories", path)
    with reading_slot(path, slot):
        codes = stored[:].astype(np.int64)
    if codes.ndim != 1 or (len(codes) and not 0 <= codes.min() <= codes.max() < len(names)):
        raise damaged(path, f"{slot} has missing values, or values that are none of its categories")
    return codes, names


def require_rows(group: h5py.Group, name: str, length: int, path: Path) -> None:
    """Raise an error if an element has not an entry per cell, before it is read: it may claim to be far larger.

    Args:
        group: The group of the element.
        name: Name of an array, of categories or of values with missing entries.
        length: N.
        path: Path of the file.

    Raises:
        CifmError: The element has another number of entries.
    """
    slot = f"{group.name.strip('/')}/{name}"
    with reading_slot(path, slot):
        item = group[name]
        parts = (
            [item[part] for part in ("codes", "values", "mask") if part in item]
            if isinstance(item, h5py.Group)
            else [item]
        )
        for array in parts:
            if not array.shape or array.shape[0] != length:
                raise damaged(path, f"{slot} has the shape {array.shape}, the slide has {length} cells")


def _require_length(array: h5py.Dataset, length: int | None, slot: str, path: Path) -> None:
    """Raise an error before an array of a wrong length is read, which may be far larger."""
    if length is not None and array.shape != (length,):
        raise damaged(path, f"{slot} must have {length} entries, and has the shape {array.shape}")
