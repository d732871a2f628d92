"""Files that another program has open, file systems without locks, and errors of the system while a file is read."""

from __future__ import annotations

import errno
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

from cifm_cli.data.metadata import read_metadata
from cifm_cli.data.open_hdf5 import create_hdf5, open_for_reading
from cifm_cli.data.readers.files import reading
from cifm_cli.data.readers.hdf5 import open_hdf5
from cifm_cli.errors import CifmError, writing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Outcome

HOLD_OPEN = """
import sys, h5py
with h5py.File(sys.argv[1], "r+") as file:
    print("open", flush=True)
    sys.stdin.read()
"""


@contextmanager
def open_elsewhere(path: Path) -> Iterator[None]:
    """Another process has the file open for writing within the block."""
    command = [sys.executable, "-c", HOLD_OPEN, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline()
        try:
            yield
        finally:
            other.kill()


@pytest.fixture
def copy(prepared_synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("tissue.h5ad")
    path.write_bytes(prepared_synthetic.read_bytes())
    return path


def test_every_command_says_that_a_file_is_in_use(cifm: Callable[..., Outcome], copy: Path) -> None:
    commands: list[tuple[Any, ...]] = [("inspect", copy), ("prepare", copy), ("train", "demo", "--data", copy)]
    with open_elsewhere(copy):
        for command in commands:
            code, _, err = cifm(*command)
            assert (code, err.splitlines()[0]) == (1, f"error: {copy}: another program has it open for writing"), err
            assert "download" not in err
            assert "HDF5_USE_FILE_LOCKING=FALSE" in err
        for read in (read_metadata, lambda path: open_hdf5(path).__enter__()):
            with pytest.raises(CifmError, match="another program has it open for writing"):
                read(copy)


def refuse_locks(patch: pytest.MonkeyPatch, number: int) -> None:
    """Behave like a file system whose locks fail with an error, as HDF5 reports it."""
    real = h5py.File

    def open_file(path: Path, mode: str = "r", *, locking: bool | None = None) -> h5py.File:
        if locking is not False:
            raise OSError(number, f"Unable to synchronously open file (unable to lock file, errno = {number})")
        return real(path, mode, locking=False)

    patch.setattr(h5py, "File", open_file)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, 524])
def test_files_are_read_and_written_where_the_file_system_refuses_locks(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_locks(monkeypatch, number)
    with create_hdf5(tmp_path / "x.h5") as file:
        file["x"] = np.arange(3)
    with open_for_reading(tmp_path / "x.h5") as file:
        assert file["x"][:].tolist() == [0, 1, 2]


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOLCK, 524])
def test_a_lock_that_another_library_cannot_take_is_no_damage(number: int) -> None:
    with pytest.raises(CifmError) as caught, reading(Path("x.h5ad")):
        raise OSError(number, f"Unable to open file (unable to lock file, errno = {number}, error message = '')")
    assert "HDF5_USE_FILE_LOCKING=FALSE" in caught.value.hint
    assert "download" not in caught.value.hint


READ = "Can't synchronously read data (file read failed: time = Sat, filename = 'x', errno = 5, error message = 'I/O')"


def test_a_failing_disk_is_no_damage_and_a_failed_write_is_not_of_the_file_read(tmp_path: Path) -> None:
    with create_hdf5(tmp_path / "x.h5"):
        pass
    with pytest.raises(CifmError, match=r"x\.h5: input/output error"), open_for_reading(tmp_path / "x.h5"):
        raise OSError(READ)
    with pytest.raises(CifmError, match="cannot write out: no space left"), writing(Path("out")):  # noqa: SIM117
        with open_for_reading(tmp_path / "x.h5"):
            raise OSError("Can't write data (file write failed: filename = 'out', errno = 28)")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENXIO, errno.EMFILE, errno.ENAMETOOLONG, 121])
def test_every_error_of_the_system_is_told_in_words(number: int) -> None:
    for block, text in ((reading, "x"), (writing, "cannot write x")):
        with pytest.raises(CifmError) as caught, block(Path("x")):
            raise OSError(number, "told by the system")
        assert caught.value.message.startswith(f"{text}: ")
        assert "Errno" not in caught.value.message
        assert "download" not in caught.value.hint


def test_a_mistake_in_the_code_keeps_its_traceback() -> None:
    for number in (errno.EBADF, errno.EPIPE, errno.ESRCH):
        with pytest.raises(OSError, match="mistake"), writing(Path("x")):
            raise OSError(number, "mistake")


def test_an_input_is_named_where_it_fails_while_an_output_is_written() -> None:
    with pytest.raises(CifmError, match=r"^/data/in\.h5ad: permission denied$"), writing(Path("out/x.h5ad")):
        raise PermissionError(errno.EACCES, "denied", "/data/in.h5ad")
