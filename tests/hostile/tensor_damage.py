"""Damage to safetensors files with a JSON header: bytes, layout, header and values, with the checksum kept, removed or forged."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

from cifm_cli.tensor_files import content_checksum
from cifm_cli.training.state import state_checksum

Damage = Callable[[np.random.Generator, Path], str]

TEXTS = ["", "x", "ENSG00000000003", "\ud800", "\x1b[31m", "a" * 10_000, "../../etc/passwd", "nan", "1"]
NUMBERS = [
    -1,
    0,
    1,
    2,
    3,
    7,
    64,
    1000,
    65_536,
    100_000,
    2**31,
    2**53,
    2**63,
    10**30,
    -(10**30),
    0.5,
    -0.5,
    1e-300,
    1e300,
]
OTHERS = [None, True, False, [], {}, [[]], ["a", "a"], {"a": {"b": 1}}, [1, 2.5, "x"]]
# What no JSON writer makes, in the place of a value.
RAW = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "9" * 5_000,
    "[" * 100_000,
    '{"a":' * 3_000 + "1" + "}" * 3_000,
    '{"a":1,"a":2}',
    "tru",
    "",
]
_MARK = "\u0001mark\u0001"


def read_parts(path: Path) -> tuple[dict[str, Any], bytes]:
    """The JSON header of safetensors and the values behind it."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_parts(path: Path, layout: dict[str, Any], values: bytes) -> None:
    """The reverse of `read_parts`, without any check."""
    header = json.dumps(layout).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + values)


def flip_bytes(generator: np.random.Generator, path: Path) -> str:
    """Single bits, half of them in the header."""
    content = bytearray(path.read_bytes())
    length = 8 + int.from_bytes(content[:8], "little")
    count = int(generator.choice([1, 1, 1, 2, 20]))
    for _ in range(count):
        place = int(generator.integers(length) if generator.random() < 0.5 else generator.integers(len(content)))
        content[place] ^= 1 << int(generator.integers(8))
    path.write_bytes(content)
    return f"{count} bits flipped"


def cut(generator: np.random.Generator, path: Path) -> str:
    """Another length, or bytes of zero."""
    content = path.read_bytes()
    place = int(generator.integers(len(content)))
    way = str(generator.choice(["truncated", "extended", "zeros", "empty", "length", "only header"]))
    length = int.from_bytes(content[:8], "little")
    path.write_bytes(
        {
            "truncated": content[:place],
            "extended": content + b"\0" * 100,
            "zeros": content[:place] + b"\0" * min(500, len(content) - place) + content[place + 500 :],
            "empty": b"",
            "length": struct.pack("<Q", int(generator.choice([0, 7, length - 1, length + 1, 2**40, 2**63])))
            + content[8:],
            "only header": content[: 8 + length],
        }[way]
    )
    return way


def change_layout(generator: np.random.Generator, path: Path) -> str:
    """Name, type, shape or place of a tensor in the header of safetensors."""
    layout, values = read_parts(path)
    name = str(generator.choice([key for key in layout if key != "__metadata__"]))
    way = str(generator.choice(["deleted", "renamed", "dtype", "shape", "offsets", "exchanged", "added"]))
    entry = layout[name]
    if way == "deleted":
        del layout[name]
    elif way == "renamed":
        layout[f"{name}.x" if generator.random() < 0.5 else f"others.0.{name}"] = layout.pop(name)
    elif way == "dtype":
        entry["dtype"] = str(generator.choice(["F64", "F16", "BF16", "I32", "I64", "U8", "BOOL", "F8_E4M3", "X"]))
    elif way == "shape":
        entry["shape"] = [[1, *entry["shape"]], entry["shape"][::-1], [2**40], [-1], [0], [2**62, 4]][
            int(generator.integers(6))
        ]
    elif way == "offsets":
        first, last = entry["data_offsets"]
        entry["data_offsets"] = [[last, first], [first, last + 4], [0, 2**60], [first - 4, last - 4]][
            int(generator.integers(4))
        ]
    elif way == "exchanged":
        other = str(generator.choice([key for key in layout if key != "__metadata__"]))
        layout[name], layout[other] = layout[other], layout[name]
    else:
        layout["extra"] = {"dtype": "F32", "shape": [2], "data_offsets": [len(values), len(values) + 8]}
        values += b"\0" * 8
    write_parts(path, layout, values)
    return f"tensor {name}: {way}"


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values in JSON, those of long lists only in part."""
    inner = (
        content.items() if isinstance(content, dict) else enumerate(content[:3]) if isinstance(content, list) else ()
    )
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


def put(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """JSON with another value at a path."""
    if not path:
        return value
    target = content
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return content


def change_header(generator: np.random.Generator, path: Path, checksum: str = "kept") -> str:
    """One value of the header of cifm deleted or replaced; with `checksum` "kept", "removed" or "forged"."""
    layout, values = read_parts(path)
    header = json.loads(layout["__metadata__"]["cifm"])
    every = places(header)
    # Keys that are read are chosen as often as all others, such as versions of packages.
    essential = [place for place in every if len(place) == 1 or (place and place[0] in {"recipe", "position", "began"})]
    place = (essential if generator.random() < 0.7 else every)[int(generator.integers(len(essential)))]
    pool = [TEXTS, NUMBERS, OTHERS][int(generator.integers(3))]
    value = pool[int(generator.integers(len(pool)))]
    if place and generator.random() < 0.2:
        parent = header
        for key in place[:-1]:
            parent = parent[key]
        del parent[place[-1]]
        value = "deleted"
    else:
        header = put(header, place, value)
    finish(path, layout, values, header, checksum)
    return f"header {'.'.join(map(str, place))} = {value!r:.40}, checksum {checksum}"


def change_text(generator: np.random.Generator, path: Path) -> str:
    """A value of the header replaced by text that is no JSON, or that readers of JSON treat differently."""
    layout, values = read_parts(path)
    header = json.loads(layout["__metadata__"]["cifm"])
    every = places(header)
    place = every[int(generator.integers(len(every)))]
    raw = RAW[int(generator.integers(len(RAW)))]
    layout["__metadata__"]["cifm"] = json.dumps(put(header, place, _MARK)).replace(json.dumps(_MARK), raw)
    write_parts(path, layout, values)
    return f"header {'.'.join(map(str, place))} = {raw[:20]}"


def change_values(generator: np.random.Generator, path: Path, checksum: str = "kept") -> str:
    """Values of a tensor out of range, exchanged or scaled."""
    layout, _ = read_parts(path)
    header = json.loads(layout["__metadata__"]["cifm"])
    tensors = load(path.read_bytes())
    name = str(generator.choice(sorted(tensors)))
    flat = tensors[name].clone().reshape(-1)
    way = str(generator.choice(["nan", "inf", "negative", "zero", "large", "permuted", "scaled", "one"]))
    place = int(generator.integers(max(1, len(flat))))
    numbers = {"nan": float("nan"), "inf": float("inf"), "zero": 0.0, "large": 1e38}
    if way in numbers:
        # Sketches of cells are whole numbers, which are never NaN.
        flat[: 1 + place] = numbers[way] if flat.is_floating_point() else -1
    elif way == "negative":
        flat = -flat.abs() - 1
    elif way == "permuted":
        flat = flat.flip(0)
    elif way == "scaled":
        flat = flat * 2
    elif len(flat):
        flat[place] += 1
    tensors[name] = flat.reshape(tensors[name].shape).contiguous()
    written = save(tensors, layout["__metadata__"])
    path.write_bytes(written)
    layout, values = read_parts(path)
    finish(path, layout, values, header, checksum)
    return f"tensor {name}: {way}, checksum {checksum}"


def finish(path: Path, layout: dict[str, Any], values: bytes, header: Any, checksum: str) -> None:
    """Write a file whose header was changed."""
    if isinstance(header, dict) and checksum == "removed":
        header.pop("sha256", None)
    layout["__metadata__"]["cifm"] = json.dumps(header)
    write_parts(path, layout, values)
    if isinstance(header, dict) and checksum == "forged":
        try:
            tensors = load(path.read_bytes())
            if "crc32" in header:
                header["crc32"] = state_checksum(tensors, {key: header.get(key) for key in ("position", "began")})
            else:
                header["sha256"] = content_checksum(tensors, header)
        except Exception:  # noqa: BLE001 - the file is damaged anyway
            header["crc32"] = zlib.crc32(b"")
        layout["__metadata__"]["cifm"] = json.dumps(header)
        write_parts(path, layout, values)


def swap_with_text(_generator: np.random.Generator, path: Path) -> str:
    """Another file under the name."""
    path.write_bytes(torch.zeros(3).numpy().tobytes() + b"\x89HDF\r\n\x1a\n" + b"text")
    return "another file"


DAMAGES: dict[str, Damage] = {
    "bits": flip_bytes,
    "length": cut,
    "layout": change_layout,
    "header": change_header,
    "text": change_text,
    "values": change_values,
    "other": swap_with_text,
}
# Whoever forges a checksum can write any model: the result may differ, but nothing else may happen.
FORGERIES: dict[str, Damage] = {
    "header without checksum": lambda generator, path: change_header(generator, path, "removed"),
    "header with forged checksum": lambda generator, path: change_header(generator, path, "forged"),
    "values with forged checksum": lambda generator, path: change_values(generator, path, "forged"),
}
