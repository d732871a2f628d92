"""Damage to prepared and embedded slides: slots deleted, replaced, retyped, resized, linked; values; attributes; bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from intact import COMMANDS, EMBEDDED, SLIDE
from outcomes import Mutation

Change = Callable[[np.random.Generator, Path], str]

_READS_EMBEDDED = [name for name, argv in COMMANDS.items() if str(EMBEDDED) in argv]
_READS_SLIDE = [name for name in COMMANDS if name not in _READS_EMBEDDED]
_CHEAP = ("inspect", "inspect embedded", "embed", "embed embedded", "predict")
_LARGE = 10**12


def on_a_slide(change: Change, commands: Sequence[str] = tuple(COMMANDS)) -> Mutation:
    """A mutation that changes the prepared or the embedded slide, and runs one of some commands that reads it."""

    def mutate(generator: np.random.Generator, _intact: Path, target: Path) -> tuple[list[str], str]:
        embedded = bool(generator.random() < 0.3)
        readers = _READS_EMBEDDED if embedded else _READS_SLIDE
        # Cheap commands more often, as an evaluation or a simulation takes seconds.
        names = [name for name in commands if name in readers for _ in range(3 if name in _CHEAP else 1)]
        argv = COMMANDS[str(generator.choice(names))]
        path = target / (EMBEDDED if embedded else SLIDE)
        return [*argv, *(["--no-verify"] if generator.random() < 0.25 else [])], change(generator, path)

    return mutate


def slots(file: h5py.File, kind: type = h5py.HLObject) -> list[str]:
    """Names of all objects of a kind in the file."""
    found: list[str] = []
    file.visititems(lambda name, item: found.append(name) if isinstance(item, kind) else None)
    return found


# Slots that commands read are chosen as often as all others, such as the annotation of the cells.
_ESSENTIAL = (
    "X", "X/data", "X/indices", "X/indptr", "obs", "obs/_index", "obs/total_counts", "obs/split", "obs/split/codes",
    "obs/split/categories", "obs/download_row", "obs/cifm_checksum", "obs/cluster", "obs/cluster/codes", "obsm", "obsm/spatial",
    "obsm/X_cifm", "obsm/X_cifm_cell", "var", "var/_index", "var/symbol", "uns", "uns/cifm", "uns/cifm/format",
    "uns/cifm/radius_um", "uns/cifm/platform", "uns/cifm/report", "uns/cifm/provenance", "uns/cifm/content",
    "uns/cifm/embedding",
)  # fmt: skip


def choose(generator: np.random.Generator, file: h5py.File, kind: type = h5py.HLObject) -> str:
    """The name of a random object of a kind."""
    every = slots(file, kind)
    essential = [name for name in _ESSENTIAL if name in every]
    return str(generator.choice(essential if essential and generator.random() < 0.6 else every))


def replace(file: h5py.File, name: str, **how: Any) -> None:
    """Replace an object by a new array, with the attributes of the old one."""
    attributes = dict(file[name].attrs)
    del file[name]
    file.create_dataset(name, **how)
    for key, value in attributes.items():
        file[name].attrs[key] = value


def delete(generator: np.random.Generator, path: Path) -> str:
    with h5py.File(path, "r+") as file:
        name = choose(generator, file)
        del file[name]
    return f"{name} deleted"


def retype(generator: np.random.Generator, path: Path) -> str:
    """Values of an array as another type."""
    types = [
        "f2",
        "f4",
        "f8",
        ">f4",
        ">i4",
        ">i8",
        "i1",
        "i2",
        "u1",
        "u4",
        "u8",
        "i8",
        "c8",
        "S5",
        "V4",
        "?",
        "text",
        "compound",
    ]
    with h5py.File(path, "r+") as file:
        name, kind = choose(generator, file, h5py.Dataset), str(generator.choice(types))
        values = file[name][()]
        if kind == "compound":
            made = np.zeros(np.shape(values), [("a", "i4"), ("b", "f8")])
        elif kind == "text":
            made = np.full(np.shape(values), "text", dtype=object)
        else:
            try:
                with np.errstate(all="ignore"):
                    made = np.asarray(values).astype(kind)
            except (ValueError, TypeError):
                made = np.zeros(np.shape(values), dtype=kind)
        replace(file, name, data=made, **({"dtype": h5py.string_dtype()} if kind == "text" else {}))
    return f"{name} as {kind}"


def reshape(generator: np.random.Generator, path: Path) -> str:
    """Another number of entries or axes."""
    with h5py.File(path, "r+") as file:
        name = choose(generator, file, h5py.Dataset)
        values, dtype = np.asarray(file[name][()]), file[name].dtype
        ways: dict[str, Callable[[], np.ndarray]] = {
            "shorter": lambda: values[: len(values) // 2] if values.ndim else values.reshape(1),
            "one shorter": lambda: values[:-1] if values.ndim else values,
            "longer": lambda: np.concatenate([values, values[:3]]) if values.ndim else np.array([values] * 2),
            "empty": lambda: values.ravel()[:0],
            "scalar": lambda: np.asarray(values.ravel()[0]) if values.size else values,
            "one more axis": lambda: values[..., None],
            "flat": values.ravel,
            "transposed": lambda: values.T,
            "one column": lambda: values[:, :1] if values.ndim == 2 else values,
            "three columns": lambda: np.stack([values.ravel()] * 3, axis=1),
        }
        way = str(generator.choice(list(ways)))
        replace(file, name, data=ways[way](), dtype=dtype)
    return f"{name}: {way}"


def empty_dataspace(generator: np.random.Generator, path: Path) -> str:
    with h5py.File(path, "r+") as file:
        name = choose(generator, file, h5py.Dataset)
        replace(file, name, data=h5py.Empty("f4"))
    return f"{name} without a dataspace"


def swap_group_and_array(generator: np.random.Generator, path: Path) -> str:
    """A group where an array belongs, or the reverse."""
    with h5py.File(path, "r+") as file:
        name = choose(generator, file)
        was_group = isinstance(file[name], h5py.Group)
        attributes = dict(file[name].attrs)
        del file[name]
        made = file.create_dataset(name, data=np.arange(4)) if was_group else file.create_group(name)
        if generator.random() < 0.5:
            made.attrs.update(attributes)
    return f"{name}: {'array instead of group' if was_group else 'group instead of array'}"


_NUMBERS = [-1, 0, 1, 255, 2**31 - 1, 2**31, 2**62, -(2**31), 0.5, 1e-300, 1e30, 1e300, np.nan, np.inf, -np.inf]


def set_values(generator: np.random.Generator, path: Path) -> str:
    """Some numbers of an array, or all, out of range."""
    with h5py.File(path, "r+") as file:
        name = choose(generator, file, h5py.Dataset)
        values, number = np.array(file[name][()]), generator.choice(_NUMBERS)
        if values.dtype.kind not in "iuf" or not values.size:
            return f"{name}: nothing changed"
        count = int(generator.choice([1, 3, values.size]))
        flat = values.ravel()
        with np.errstate(all="ignore"):
            flat[generator.integers(values.size, size=count) if count < values.size else slice(None)] = np.asarray(
                number
            ).astype(values.dtype)
        file[name][...] = flat.reshape(values.shape)
    return f"{name}: {count} values set to {number}"


def disturb_values(generator: np.random.Generator, path: Path) -> str:
    """Values of an array moved, exchanged, scaled or noisy."""
    with h5py.File(path, "r+") as file:
        name = choose(generator, file, h5py.Dataset)
        values = np.array(file[name][()])
        if values.dtype.kind not in "iuf" or values.ndim == 0 or len(values) < 2:
            return f"{name}: nothing changed"
        way = str(generator.choice(["permuted", "reversed", "one exchanged", "plus one", "doubled", "halved", "log1p"]))
        made: dict[str, Callable[[], np.ndarray]] = {
            "permuted": lambda: generator.permutation(values),
            "reversed": lambda: values[::-1],
            "one exchanged": lambda: values[[1, 0, *range(2, len(values))]],
            "plus one": lambda: values + 1,
            "doubled": lambda: values * 2,
            "halved": lambda: values / 2,
            "log1p": lambda: np.log1p(np.abs(values)),
        }
        with np.errstate(all="ignore"):
            file[name][...] = made[way]().astype(values.dtype)
    return f"{name}: {way}"


_TEXTS = [
    "", "text", "\n", "a" * 10_000, "nan", "-1", "{}", "[]", "null", "{", '{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}',
    "[" * 5_000, '{"a": ' * 900 + "1" + "}" * 900, "../../etc/passwd", "[red]x[/red]", "<script>", "ENSG00000000003", "Ünïcode",
]  # fmt: skip


def set_texts(generator: np.random.Generator, path: Path) -> str:
    """One text of an array, or the only one, replaced."""
    with h5py.File(path, "r+") as file:
        texts = [name for name in slots(file, h5py.Dataset) if h5py.check_string_dtype(file[name].dtype)]
        in_metadata = [name for name in texts if name.startswith("uns/cifm/")]
        name = str(generator.choice(in_metadata if in_metadata and generator.random() < 0.6 else texts))
        text = str(generator.choice(_TEXTS))
        if file[name].shape == ():
            file[name][()] = text
        elif len(file[name]):
            place = int(generator.integers(len(file[name])))
            file[name][place] = text if generator.random() < 0.7 else file[name][0]
    return f"{name}: text {text[:30]!r}"


def set_metadata(generator: np.random.Generator, path: Path) -> str:
    """An entry of `uns["cifm"]` of another type or value."""
    values: list[Any] = [
        *_NUMBERS,
        *_TEXTS[:8],
        True,
        [1.0, 2.0],
        ["a", "b"],
        np.float32(20),
        np.int8(1),
        10**6,
        1.5,
        2,
    ]
    with h5py.File(path, "r+") as file:
        name = str(generator.choice(list(file["uns/cifm"])))
        value = values[int(generator.integers(len(values)))]
        del file[f"uns/cifm/{name}"]
        file[f"uns/cifm/{name}"] = value
        if generator.random() < 0.7:
            kind = "string" if isinstance(value, str) else "array" if isinstance(value, list) else "numeric-scalar"
            file[f"uns/cifm/{name}"].attrs.update({"encoding-type": kind, "encoding-version": "0.2.0"})
    return f"uns/cifm/{name} = {value!r:.40}"


def edit_json(generator: np.random.Generator, path: Path) -> str:
    """One entry of a JSON text removed or replaced."""
    with h5py.File(path, "r+") as file:
        names = [name for name in file["uns/cifm"] if h5py.check_string_dtype(file[f"uns/cifm/{name}"].dtype)]
        names = [name for name in names if file[f"uns/cifm/{name}"].asstr()[()].startswith("{")]
        name = str(generator.choice(names))
        content = json.loads(file[f"uns/cifm/{name}"].asstr()[()])
        if not content:
            return f"uns/cifm/{name}: nothing to change"
        key = str(generator.choice(list(content)))
        if generator.random() < 0.4:
            del content[key]
        else:
            content[key] = [None, -1, "x", [], {}, 1e308, True][int(generator.integers(7))]
        file[f"uns/cifm/{name}"][()] = json.dumps(content)
    return f"uns/cifm/{name}: JSON entry {key!r} changed"


def change_attribute(generator: np.random.Generator, path: Path) -> str:
    """An attribute deleted or replaced."""
    with h5py.File(path, "r+") as file:
        name = choose(generator, file)
        if not len(file[name].attrs):
            return f"{name}: no attributes"
        key = str(generator.choice(list(file[name].attrs)))
        values: list[Any] = [
            None, "", "array", "dict", "dataframe", "csr_matrix", "csc_matrix", "categorical", "string-array", "awkward-array",
            "nullable-integer", "unknown", "9.9.9", 7, [3, 3], [2**40, 2**40], np.nan, "no_such_column", ["a", "b"], [-1, 5],
        ]  # fmt: skip
        value = values[int(generator.integers(len(values)))]
        del file[name].attrs[key]
        if value is not None:
            file[name].attrs[key] = value
    return f"{name}: attribute {key} = {value!r}"


def link(generator: np.random.Generator, path: Path) -> str:
    """A link to another place, another file, or back to a parent; an array that is stored elsewhere."""
    other = path.with_name("other.bin")
    other.write_bytes(b"\1" * 100_000)
    with h5py.File(path, "r+") as file:
        name = choose(generator, file)
        group = file[name].parent
        way = str(generator.choice(["soft", "dangling", "external", "parent", "virtual", "elsewhere"]))
        shape = file[name].shape if isinstance(file[name], h5py.Dataset) else (5,)
        del file[name]
        if way == "soft":
            file[name] = h5py.SoftLink("/X/data")
        elif way == "dangling":
            file[name] = h5py.SoftLink("/nowhere")
        elif way == "external":
            file[name] = h5py.ExternalLink(str(path.with_name("other.h5")), "/X")
            with h5py.File(path.with_name("other.h5"), "w") as second:
                second["X"] = np.ones(shape or 1)
        elif way == "parent":
            file[name] = group
        elif way == "virtual":
            layout = h5py.VirtualLayout(shape or (1,), "f4")
            layout[...] = h5py.VirtualSource(str(path.with_name("other.h5")), "X", shape or (1,))
            file.create_virtual_dataset(name, layout)
        else:
            file.create_dataset(name, shape or (1,), "f4", external=[(str(other), 0, h5py.h5f.UNLIMITED)])
    return f"{name}: link, {way}"


def claim_size(generator: np.random.Generator, path: Path) -> str:
    """An array that claims far more entries than it stores."""
    with h5py.File(path, "r+") as file:
        name = choose(generator, file, h5py.Dataset)
        way = str(generator.choice(["contiguous", "chunked", "compressed", "large chunk", "large items", "zeros"]))
        kind = file[name].dtype if file[name].dtype.kind in "iuf" else np.dtype("f4")
        how: dict[str, dict[str, Any]] = {
            "contiguous": {"shape": (_LARGE,), "dtype": kind},
            "chunked": {"shape": (_LARGE,), "dtype": kind, "chunks": (1 << 20,)},
            "compressed": {"shape": (_LARGE,), "dtype": kind, "chunks": (1 << 20,), "compression": "gzip"},
            "large chunk": {"shape": (800,), "dtype": "i1", "chunks": ((1 << 32) - 10,), "maxshape": (None,)},
            "large items": {"shape": (800,), "dtype": "S1000000000"},
            "zeros": {"data": np.zeros(40_000_000, dtype=kind), "compression": "gzip", "compression_opts": 9},
        }
        replace(file, name, **how[way])
    return f"{name}: claims a size, {way}"


def flip_bytes(generator: np.random.Generator, path: Path) -> str:
    """Some bytes of the file changed, or a range of it set to zero."""
    content = bytearray(path.read_bytes())
    count, start = int(generator.choice([1, 1, 2, 8, 64])), None
    if generator.random() < 0.15:
        start = int(generator.integers(len(content)))
        content[start : start + 512] = bytes(len(content[start : start + 512]))
    else:
        for place in generator.integers(len(content), size=count):
            content[place] ^= 1 << int(generator.integers(8))
    path.write_bytes(content)
    return f"{count} bits flipped" if start is None else f"512 bytes from {start} set to zero"


def flip_structure(generator: np.random.Generator, path: Path) -> str:
    """A bit changed in what is not the data of the counts: headers, trees, texts and small arrays."""
    with h5py.File(path) as file:
        plain = [
            (item.id.get_offset(), item.id.get_storage_size())
            for item in (file[name] for name in slots(file, h5py.Dataset))
            if item.id.get_offset() is not None and item.id.get_storage_size() > 10_000
        ]
    content = bytearray(path.read_bytes())
    mask = np.ones(len(content), dtype=bool)
    for offset, size in plain:
        mask[offset : offset + size] = False
    for place in generator.choice(np.flatnonzero(mask), int(generator.choice([1, 2, 8]))):
        content[place] ^= 1 << int(generator.integers(8))
    path.write_bytes(content)
    return "bits of the structure flipped"


def truncate(generator: np.random.Generator, path: Path) -> str:
    """The file cut, or something appended."""
    content = path.read_bytes()
    if generator.random() < 0.2:
        path.write_bytes(content + generator.bytes(1000))
        return "1000 bytes appended"
    kept = int(generator.choice([0, 1, 100, 2048, generator.integers(len(content)), len(content) - 1]))
    path.write_bytes(content[:kept])
    return f"truncated to {kept} bytes"


def rewrite(generator: np.random.Generator, path: Path) -> str:
    """What other programs do to a slide through AnnData."""
    import anndata as ad
    import pandas as pd
    from scipy import sparse

    adata = ad.read_h5ad(path)
    rows, genes = generator.permutation(adata.n_obs), generator.permutation(adata.n_vars)
    ways: dict[str, Callable[[], ad.AnnData]] = {
        "nothing": lambda: adata,
        "cells sorted": adata[rows].copy,
        "genes sorted": adata[:, genes].copy,
        "cells removed": adata[rows[:500]].copy,
        "genes removed": adata[:, genes[:100]].copy,
        "raw": lambda: _changed(adata, raw=adata.copy()),
        "CSC": lambda: _changed(adata, X=sparse.csc_matrix(adata.X)),
        "dense": lambda: _changed(adata, X=adata.X.toarray()),
        "whole numbers": lambda: _changed(adata, X=adata.X.astype(np.int64)),
        "logarithms": lambda: _changed(adata, X=adata.X.log1p()),
        "scaled": lambda: _changed(adata, X=sparse.csr_matrix(adata.X * 0.37)),
        "doubled": lambda: _changed(adata, X=sparse.csr_matrix(adata.X * 2)),
        "nullable texts": lambda: _nullable(adata, pd),
        "symbols as categories": lambda: _changed(adata, var=adata.var.astype({"symbol": "category"})),
        "split as texts": lambda: _changed(adata, obs=adata.obs.assign(split=adata.obs["split"].astype(str))),
        "missing split": lambda: _changed(adata, obs=adata.obs.assign(split=adata.obs["split"].where(rows > 3))),
        "another column": lambda: _changed(
            adata, obs=adata.obs.assign(mine=pd.array([None] * len(rows), dtype="Int64"))
        ),
        "a frame": lambda: (adata.obsm.update({"frame": pd.DataFrame({"u": rows}, index=adata.obs_names)}), adata)[1],
    }
    way = str(generator.choice(list(ways)))
    with ad.settings.override(allow_write_nullable_strings=True):
        ways[way]().write_h5ad(path, compression="gzip" if generator.random() < 0.4 else None)
    return f"another program: {way}"


def _changed(adata: Any, **slots_: Any) -> Any:
    for name, value in slots_.items():
        setattr(adata, name, value)
    return adata


def _nullable(adata: Any, pd: Any) -> Any:
    adata.obs["nullable"] = pd.array(["a", None] * (adata.n_obs // 2), dtype="string")
    adata.var["symbol"] = pd.array(list(adata.var["symbol"]), dtype="string")
    adata.obs_names, adata.var_names = adata.obs_names.astype("string"), adata.var_names.astype("string")
    return adata


CHANGES: dict[str, Change] = {
    "delete": delete,
    "type": retype,
    "shape": reshape,
    "no dataspace": empty_dataspace,
    "group or array": swap_group_and_array,
    "values": set_values,
    "values disturbed": disturb_values,
    "texts": set_texts,
    "metadata": set_metadata,
    "json": edit_json,
    "attribute": change_attribute,
    "link": link,
    "size": claim_size,
    "bytes": flip_bytes,
    "structure": flip_structure,
    "truncate": truncate,
    "other program": rewrite,
}
MUTATIONS: dict[str, Mutation] = {name: on_a_slide(change) for name, change in CHANGES.items()}
