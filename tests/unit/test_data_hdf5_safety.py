"""HDF5 files that refer to other files, or claim sizes that they do not have, are refused before anything is read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from cifm_cli.data.slide_file import open_slide_file
from cifm_cli.errors import CifmError


def unavailable_filter(file: h5py.File) -> None:
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_chunk((10,))
    settings.set_filter(32_015, h5py.h5z.FLAG_OPTIONAL)
    space = h5py.h5s.create_simple((10,))
    h5py.h5d.create(file.id, b"a", h5py.h5t.NATIVE_INT32, space, dcpl=settings)


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((5,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (5,))
    file.create_virtual_dataset("a", layout)


def within_itself(file: h5py.File) -> None:
    file.create_group("a/b")
    file["a/b/c"] = file["a"]


def deep(file: h5py.File) -> None:
    file.create_group("/".join("a" * 50))


FILES: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "soft link": (lambda file: file.__setitem__("a", h5py.SoftLink("/b")), "/a is a link"),
    "external link": (lambda file: file.__setitem__("a", h5py.ExternalLink("/etc/passwd", "/")), "/a is a link"),
    "virtual": (virtual, "/a is stored in another file"),
    "external": (
        lambda file: file.create_dataset("a", (5,), "f4", external=[("o", 0, 20)]),
        "/a is stored in another file",
    ),
    "contiguous": (lambda file: file.create_dataset("a", (10**12,), "f4"), "/a claims 4,000,000,000,000 bytes"),
    "chunks": (lambda file: file.create_dataset("a", (10**12,), "f4", chunks=(1 << 20,)), "/a lacks a chunk"),
    "large items": (lambda file: file.create_dataset("a", (800,), "S100000000"), "/a claims 80,000,000,000 bytes"),
    "bomb": (
        lambda file: file.create_dataset("a", data=np.zeros(1 << 28, "i1"), compression="gzip", compression_opts=9),
        "its arrays claim 268,",
    ),
    "filter": (unavailable_filter, "method that is not installed"),
    "cycle": (within_itself, "within themselves"),
    "depth": (deep, "too deeply"),
}


@pytest.mark.parametrize(("write", "message"), FILES.values(), ids=FILES)
def test_unsafe_file_is_refused(tmp_path: Path, write: Callable[[h5py.File], object], message: str) -> None:
    path = tmp_path / "x.h5ad"
    with h5py.File(path, "w") as file:
        write(file)
    with pytest.raises(CifmError, match=r"x\.h5ad") as error, open_slide_file(path):
        pass
    assert message in error.value.message


@pytest.mark.parametrize(
    "how", [{}, {"compression": "gzip"}, {"compression": "lzf", "shuffle": True}, {"chunks": True}]
)
def test_usual_files_are_opened(tmp_path: Path, how: dict[str, object]) -> None:
    path = tmp_path / "x.h5ad"
    values = np.random.default_rng(0).poisson(0.3, 300_000).astype(np.float32)
    with h5py.File(path, "w") as file:
        file.create_dataset("a/numbers", data=values, **how)
        file.create_dataset("a/zeros", data=np.zeros(200_000, np.int8), **how)
        file.create_dataset("texts", data=["one", "two"] * 100, **how)
        file["empty"], file["one"] = np.zeros(0), 1.0
        file["null"] = h5py.Empty("f4")
    with open_slide_file(path) as file:
        assert np.array_equal(file["a/numbers"][:], values)


def test_what_the_block_raises_passes_through(tmp_path: Path) -> None:
    """A bug keeps its traceback, also if its type is one that damage causes."""
    with h5py.File(tmp_path / "x.h5ad", "w") as file:
        file["a"] = 1
    with pytest.raises(KeyError, match="bug"), open_slide_file(tmp_path / "x.h5ad"):
        raise KeyError("bug")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file_is_an_error(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5ad", "w") as file:
        file["a"] = 1
    (tmp_path / "x.h5ad").chmod(0)
    with pytest.raises(CifmError, match="permission denied"), open_slide_file(tmp_path / "x.h5ad"):
        pass
