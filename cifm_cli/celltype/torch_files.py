"""Reading of files that `torch.save` wrote, without torch's own reader.

That reader believes what a file says: the length of a storage may exceed the bytes behind it, sizes and strides may reach
outside of a storage, and versions up to 2.5 run code from a file that they take for a tar archive. Here a file is a zip
archive without compression whose record `data.pkl` is read by `SafeUnpickler`, and whose other records are the storages.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from cifm_cli.celltype.pickled_arrays import resolve
from cifm_cli.celltype.pickles import HINT, UNPICKLING_ERRORS, SafeUnpickler
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_ZIP_MAGIC: Final = b"PK\x03\x04"
_PICKLE: Final = "data.pkl"
_DTYPES: Final = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_MAX_DIMENSIONS: Final = 25


@dataclass(frozen=True)
class _StorageType:
    """The class of a storage, of which only the type of its elements is used."""

    dtype: torch.dtype


def read_torch(
    path: Path, *, trusted: bool, known: Mapping[tuple[str, str], Callable[..., Any]] | None = None, hint: str = HINT
) -> Any:  # noqa: ANN401 - any content of a pickle
    """Read a file that `torch.save` wrote; one that holds only tensors and plain data needs no trust.

    Args:
        path: The file.
        trusted: Whether the user trusts it.
        known: Stand-ins for further classes that are plain data, by module and name.
        hint: What to do about a file that is not trusted.

    Returns:
        Its content, tensors on the CPU, and an `OpaqueObject` for everything but tensors, arrays and plain data.

    Raises:
        CifmError: The file holds more than tensors and plain data and is not trusted, or it is damaged.
    """
    try:
        _check_start(path)
        with zipfile.ZipFile(path) as archive:
            reader = _TorchUnpickler(archive, _root(archive, path.stat().st_size), known or {})
            content = reader.load()
        needs_trust = bool(reader.opaque)
        resolved = resolve(content)
    except UNPICKLING_ERRORS as error:
        raise CifmError(f"{path}: not a readable checkpoint of torch ({error!s:.200})", "copy the file anew") from error
    if needs_trust and not trusted:
        raise CifmError(f"{path}: a pickle with more than tensors in it, which can hold any code", hint)
    return resolved


def _check_start(path: Path) -> None:
    """Check that a file is a zip archive from its first byte on, and not also something else for another reader."""
    with path.open("rb") as file:
        if file.read(len(_ZIP_MAGIC)) != _ZIP_MAGIC:
            raise ValueError("not a zip archive")


def _root(archive: zipfile.ZipFile, num_bytes: int) -> str:
    """The folder of the records in an archive, whose entries are checked.

    Args:
        archive: The archive.
        num_bytes: Size of its file.
    """
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        raise ValueError("two records have the same name")
    # torch does not compress, so that records together are never larger than the file.
    is_plain = all(
        entry.compress_type == zipfile.ZIP_STORED and entry.file_size == entry.compress_size for entry in entries
    )
    if not is_plain or sum(entry.file_size for entry in entries) > num_bytes:
        raise ValueError("its records are compressed or overlap")
    roots = [name.removesuffix(_PICKLE) for name in names if name.endswith(f"/{_PICKLE}") and name.count("/") == 1]
    if len(roots) != 1:
        raise ValueError(f"{len(roots)} records {_PICKLE}")
    order = f"{roots[0]}byteorder"
    if order in names and archive.read(order) != b"little":
        raise ValueError("written on a machine of another byte order")
    return roots[0]


class _TorchUnpickler(SafeUnpickler):
    """Reads `data.pkl`, and the storages that it refers to."""

    def __init__(
        self, archive: zipfile.ZipFile, root: str, known: Mapping[tuple[str, str], Callable[..., Any]]
    ) -> None:
        stand_ins: dict[tuple[str, str], Callable[..., Any]] = {
            **known,
            ("torch._utils", "_rebuild_tensor"): rebuild_tensor,
            ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
            ("torch", "Size"): _size,
            ("torch", "device"): str,
        }
        super().__init__(archive.read(f"{root}{_PICKLE}"), stand_ins)
        self.archive, self.root = archive, root
        self.storages: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - a class or a function
        """Return the type of a storage, a stand-in, or `OpaqueObject`."""
        if module in ("torch", "torch.storage") and name in ("UntypedStorage", *_DTYPES):
            return _StorageType(_DTYPES.get(name, torch.uint8))
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> torch.Tensor:  # noqa: ANN401 - any content of a pickle
        """Read a storage: ("storage", class, name of the record, device, number of elements)."""
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
            raise pickle.UnpicklingError("a reference that is no storage")
        _, kind, key, _, length = pid
        if not isinstance(kind, _StorageType) or not isinstance(key, str):
            raise pickle.UnpicklingError("a storage without type or name")
        if (key, kind.dtype) not in self.storages:
            self.storages[key, kind.dtype] = self._read_storage(key, kind.dtype)
        storage = self.storages[key, kind.dtype]
        if length != len(storage):
            raise pickle.UnpicklingError(f"storage {key} has {len(storage)} elements, not {length}")
        return storage

    def _read_storage(self, key: str, dtype: torch.dtype) -> torch.Tensor:
        """(elements,) content of a record."""
        content = bytearray(self.archive.read(f"{self.root}data/{key}"))
        if len(content) % dtype.itemsize:
            raise pickle.UnpicklingError(f"storage {key} ends within an element")
        return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)


def _size(lengths: Any) -> tuple[int, ...]:  # noqa: ANN401 - any content of a pickle
    """Stand in for `torch.Size`."""
    return tuple(int(length) for length in lengths)


def rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> torch.Tensor:  # noqa: ANN401 - any content of a pickle
    """Stand in for torch's function of this name; sizes and strides must lie within the storage.

    Args:
        storage: (elements,) content of the storage.
        offset: Position of the first element.
        size: Sizes of the axes.
        stride: Elements between two entries of each axis.

    Returns:
        The tensor.

    Raises:
        ValueError: It reaches outside of the storage, or has more elements than that.
    """
    numbers = (offset, *size, *stride)
    if not isinstance(storage, torch.Tensor) or storage.ndim != 1 or len(size) != len(stride):
        raise ValueError("a tensor without storage or strides")
    if not all(type(number) is int and number >= 0 for number in numbers) or len(size) > _MAX_DIMENSIONS:
        raise ValueError("a tensor with a size, a stride or an offset that is no number of elements")
    num_elements = math.prod(size)
    if num_elements == 0:
        return torch.empty(size, dtype=storage.dtype)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if last >= len(storage) or num_elements > len(storage):
        raise ValueError(f"a tensor of {num_elements} elements that reaches outside of its storage of {len(storage)}")
    return storage.as_strided(size, stride, offset)


def state_dict(content: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401 - any content of a pickle
    """Take the weights from a checkpoint.

    Args:
        content: From `read_torch`.

    Returns:
        Name to weight.

    Raises:
        KeyError: There is no state dict.
        TypeError: Content or state dict are no dictionaries, or a name is no text or a weight is no tensor.
        ValueError: A weight is not finite.
    """
    weights = dict(content["state_dict"])
    for name, weight in weights.items():
        if not isinstance(name, str) or not isinstance(weight, torch.Tensor):
            raise TypeError("a state dict that does not hold tensors by name")
        if weight.is_floating_point() and not torch.isfinite(weight).all():
            raise ValueError(f"weight {name} has a value that is not finite")
    return weights
