"""Damage to HDF5 files on which the library crashes, loops, or returns other values."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from cifm_cli.data.readers.hdf5 import check_arrays, open_hdf5
from cifm_cli.errors import CifmError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with texts of variable length, which are stored in a heap, and an array whose last chunk is partly used."""
    path = tmp_path / "file.h5"
    with h5py.File(path, "w") as file:
        file["names"] = ["one", "two", "three and a little more"]
        file.create_dataset("numbers", data=np.arange(10.0), chunks=(4,))
    return path


def test_intact_file_opens(path: Path) -> None:
    with open_hdf5(path) as file:
        check_arrays(file)
        assert file["numbers"][:].tolist() == list(range(10))


@pytest.mark.parametrize("length", [0, 7, 1 << 40])
def test_heap_that_makes_the_library_loop_or_crash_is_refused(path: Path, length: int) -> None:
    content = bytearray(path.read_bytes())
    first = content.index(b"GCOL") + 16
    content[first : first + 16] = bytes(8) + length.to_bytes(8, "little")
    path.write_bytes(content)
    with pytest.raises(CifmError, match=rf"texts at byte {first} are damaged"), open_hdf5(path):
        pass


def test_truncated_heap_is_refused(path: Path) -> None:
    content = path.read_bytes()
    for kept in (12, 40):
        path.write_bytes(content[: content.index(b"GCOL") + kept])
        with pytest.raises(CifmError, match="ends within its texts"), open_hdf5(path):
            pass


def test_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.h5").touch()
    with pytest.raises(CifmError, match="an empty file"), open_hdf5(tmp_path / "empty.h5"):
        pass


def test_missing_chunk_is_refused(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file.create_dataset("sparse", (12,), np.int32, chunks=(4,))[:4] = 1
    with pytest.raises(CifmError, match="/sparse lacks a chunk"), open_hdf5(path) as file:
        check_arrays(file)


def test_damaged_number_type_is_refused(path: Path) -> None:
    kind = h5py.h5t.IEEE_F64LE.copy()
    kind.set_ebias(1022)  # one bit of the header doubles all numbers
    with h5py.File(path, "a") as file:
        space = h5py.h5s.create_simple((3,))
        h5py.h5d.create(file.id, b"scaled", kind, space)
    with pytest.raises(CifmError, match="/scaled has a damaged number type"), open_hdf5(path) as file:
        check_arrays(file["scaled"])
