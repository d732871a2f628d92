"""Damage a download at random: its bytes, its files, its HDF5 datasets, its cell table or its count matrix."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import h5py
from fuzz_changes import MATRICES, TABLES, Rng
from fuzz_inputs import Format, read_parts, write_h5ad, write_matrix, write_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_PAGE = 512  # size of a disk sector in bytes


def _cut(content: bytearray, rng: Rng) -> bytearray:
    return content[: rng.integers(len(content))]


def _flip(content: bytearray, rng: Rng) -> bytearray:
    for place in rng.integers(len(content), size=rng.integers(1, 4)):
        content[place] ^= 1 << int(rng.integers(8))
    return content


def _noise(content: bytearray, rng: Rng) -> bytearray:
    start = int(rng.integers(len(content)))
    stop = min(start + int(rng.integers(1, 400)), len(content))
    content[start:stop] = rng.bytes(stop - start)
    return content


def _lose_page(content: bytearray, rng: Rng) -> bytearray:
    return _put_page(content, bytearray(), rng)


def _misplace_page(content: bytearray, rng: Rng) -> bytearray:
    other = _any_page(content, rng)
    return _put_page(content, content[other : other + _PAGE], rng)


def _put_page(content: bytearray, page: bytearray, rng: Rng) -> bytearray:
    start = _any_page(content, rng)
    length = min(_PAGE, len(content) - start)
    content[start : start + length] = page[:length].ljust(length, b"\0")
    return content


def _any_page(content: bytearray, rng: Rng) -> int:
    return int(rng.integers(0, (len(content) - 1) // _PAGE + 1)) * _PAGE


BYTES: dict[str, Callable[[bytearray, Rng], bytearray]] = {
    "cut": _cut,
    "bits flipped": _flip,
    "noise": _noise,
    "page lost": _lose_page,
    "page misplaced": _misplace_page,
}
FILES = ("file lost", "file empty", "another file in its place", "text lines lost")


def _datasets(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names


def _rewrite(file: h5py.File, name: str, values: Any) -> None:  # noqa: ANN401 - an array of any type
    about = dict(file[name].attrs)
    del file[name]
    file[name] = values
    file[name].attrs.update(about)


def _retype(file: h5py.File, rng: Rng) -> None:
    name = rng.choice(_datasets(file))
    values = file[name][...]
    if values.dtype.kind in "OS":
        values = values.astype("S") if rng.random() < 0.5 else values.astype("S4")
    else:
        kind = rng.choice(["u1", "i1", "i2", "u4", "f4", "f8", ">i4", ">f8", "S8", "?"])
        values = values.astype(kind)
    _rewrite(file, name, values)


def _rename(file: h5py.File, rng: Rng) -> None:
    name = rng.choice(_datasets(file))
    file.move(name, name + "_of_old")


def _exchange(file: h5py.File, rng: Rng) -> None:
    one, other = rng.choice(_datasets(file), size=2, replace=False)
    first, second = file[one][...], file[other][...]
    _rewrite(file, one, second)
    _rewrite(file, other, first)


def _shorten(file: h5py.File, rng: Rng) -> None:
    name = rng.choice(_datasets(file))
    if file[name].shape and len(file[name]):
        _rewrite(file, name, file[name][: rng.integers(len(file[name]))])


def _copy_entry(file: h5py.File, rng: Rng) -> None:
    values = (dataset := file[rng.choice(_datasets(file))])[...]
    if values.shape and len(values) > 1:
        one, other = rng.choice(len(values), size=2, replace=False)
        values[one] = values[other]
        dataset[...] = values


def _drop_attributes(file: h5py.File, rng: Rng) -> None:
    names = [*_datasets(file), *{name.rpartition("/")[0] or "/" for name in _datasets(file)}]
    attributes = file[rng.choice(sorted(names))].attrs
    for key in list(attributes):
        del attributes[key]


DATASETS: dict[str, Callable[[h5py.File, Rng], None]] = {
    "a dataset of another type": _retype,
    "a dataset renamed": _rename,
    "two datasets exchanged": _exchange,
    "a dataset shortened": _shorten,
    "an entry copied over another": _copy_entry,
    "attributes lost": _drop_attributes,
}


# Damage that can result in a valid download with other content. It is undetectable unless the download contains the same
# information a second time.
VALID = {
    "two columns exchanged",  # x and y: a mirrored tissue
    "one column shifted by a row",
    "a column of another type",  # rounded positions
    "an exponent bit of a number",  # a cell at another position
    "cells lost",
    "features lost",
    "two barcodes exchanged",
    "barcodes shifted",
    "a count more",
    "a count huge",
    "counts as uint8",
    "a dataset of another type",  # rounded positions
    "an id mistyped",  # if the download has no symbols
    "two ids exchanged",
    "ids shifted",
    "an entry copied over another",  # a count of another gene, or another name of a cell
}
# Changes that must not affect the prepared slide.
HARMLESS = {
    "table": ("rows in another order", "columns in another order", "a column more"),
    "matrix": ("cells in another order", "features in another order", "counts as float32"),
}


def kinds_for(form: Format) -> dict[str, tuple[str, ...]]:
    """Kinds of damage that apply to a format, by family."""
    families = {"bytes": tuple(BYTES), "files": FILES, "table": tuple(TABLES), "matrix": tuple(MATRICES)}
    return {**families, "datasets": tuple(DATASETS)} if form.matrix.endswith(("h5", "h5ad")) else families


def damage(folder: Path, form: Format, family: str, kind: str, rng: Rng) -> str:
    """Damage a download in place.

    Args:
        folder: A copy of an undamaged download.
        form: Format of the download.
        family: Family of damage, a key of `kinds_for`.
        kind: Kind of damage in this family.
        rng: Selects what is damaged.

    Returns:
        Path of the damaged file, relative to the folder.
    """
    if family == "datasets":
        with h5py.File(folder / form.matrix, "r+") as file:
            DATASETS[kind](file, rng)
        return form.matrix
    if family in ("table", "matrix"):
        return _damage_parts(folder, form, family, kind, rng)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = files[rng.integers(len(files))]
    if family == "bytes":
        path.write_bytes(bytes(BYTES[kind](bytearray(path.read_bytes()), rng)))
    else:
        _damage_file(path, kind, files, rng)
    return path.relative_to(folder).as_posix()


def _damage_file(path: Path, kind: str, files: list[Path], rng: Rng) -> None:
    if kind == "file lost":
        path.unlink()
    elif kind == "file empty":
        path.write_bytes(b"")
    elif kind == "text lines lost":
        lines = path.read_bytes().splitlines(keepends=True)
        start = int(rng.integers(len(lines)))
        path.write_bytes(b"".join(lines[:start] + lines[start + int(rng.integers(1, 4)) :]))
    elif len(files) > 1:
        shutil.copyfile(files[files.index(path) - 1], path)


def _damage_parts(folder: Path, form: Format, family: str, kind: str, rng: Rng) -> str:
    matrix, table = read_parts(folder, form)
    if family == "table":
        table = TABLES[kind](table, rng)
    else:
        matrix = MATRICES[kind](matrix, rng)
    if form.matrix == form.table:
        write_h5ad(folder / form.matrix, matrix, table)
    elif family == "table":
        write_table(folder / form.table, table)
    else:
        write_matrix(folder / form.matrix, matrix)
    return form.table if family == "table" else form.matrix
