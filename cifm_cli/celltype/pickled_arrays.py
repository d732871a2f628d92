"""NumPy arrays in pickles, rebuilt from their parts without NumPy's own unpickling.

NumPy believes what a pickle says: the state of a dtype contains the flags by which NumPy decides whether bytes are
pointers, and a scalar of type object is made from an address. A crafted file can use both to run code. Here the stand-ins
below collect the parts; arrays are then made from plain dtypes, by name, after a check of the sizes.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PLAIN: Final = re.compile(
    r"[biufc?]\d{0,2}|[SU]\d{1,6}"
)  # numbers, booleans, bytes and text; no objects, records or dates
_OBJECT: Final = re.compile(r"[O|]+\d*")
_BYTE_ORDERS: Final = ("<", ">", "|", "=")


class PickledDtype:
    """A dtype, of which only the name and the byte order are used."""

    def __init__(self, name: object, *_: object) -> None:
        self.name = str(name)
        self.byte_order = "="

    def __setstate__(self, state: Any) -> None:  # noqa: ANN401 - any content of a pickle
        """Take the byte order from the state, and refuse records and subarrays; the flags are ignored."""
        _, byte_order, subarray, names, fields, *_ = state
        if subarray is not None or names is not None or fields is not None or byte_order not in _BYTE_ORDERS:
            raise ValueError("an array of records")
        self.byte_order = byte_order

    @property
    def is_object(self) -> bool:
        """Whether elements are Python objects."""
        return bool(_OBJECT.fullmatch(self.name))

    def to_numpy(self) -> np.dtype[Any]:
        """The dtype; raises ValueError for anything but numbers, booleans, bytes and text."""
        if not _PLAIN.fullmatch(self.name):
            raise ValueError(f"an array of type {self.name!r}")
        if self.byte_order in "<>" and self.name[0] not in "S?" and self.name not in ("i1", "u1", "b1"):
            return np.dtype(self.byte_order + self.name)
        return np.dtype(self.name)


class PickledArray:
    """An array before its parts are known."""

    def __init__(self, *_: object) -> None:
        self.array: NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:  # noqa: ANN401 - any content of a pickle
        """Build the array from its shape, dtype, order and elements."""
        shape, dtype, is_fortran, elements = state[-4:]  # in front of them is a version number
        self.array = build_array(elements, dtype, shape, "F" if is_fortran else "C")


def build_array(elements: Any, dtype: Any, shape: Any, order: str) -> NDArray[Any]:  # noqa: ANN401 - any content of a pickle
    """Build an array.

    Args:
        elements: Bytes; a list where the elements are objects.
        dtype: A `PickledDtype`.
        shape: Sizes of the axes.
        order: `C` or `F`.

    Returns:
        A new array.

    Raises:
        ValueError: The parts do not fit together.
    """
    is_shape = isinstance(shape, tuple) and all(isinstance(length, int) and length >= 0 for length in shape)
    if not isinstance(dtype, PickledDtype) or not is_shape:
        raise ValueError("an array without dtype or shape")
    size = math.prod(shape)
    if dtype.is_object:
        if not isinstance(elements, list) or len(elements) != size:
            raise ValueError("an array of objects whose number differs from its shape")
        flat = np.empty(size, dtype=object)
        for position, element in enumerate(elements):  # one by one: NumPy would make arrays of nested lists
            flat[position] = element
        return flat.reshape(shape, order="F" if order == "F" else "C")
    if not isinstance(elements, bytes | bytearray):  # `bytes` of a number would allocate as many
        raise ValueError("an array whose elements are not bytes")  # noqa: TRY004 - the error of every damaged pickle
    plain, content = dtype.to_numpy(), bytes(elements)
    if len(content) != size * plain.itemsize:
        raise ValueError(f"an array of {size} elements in {len(content)} bytes")
    return np.frombuffer(content, dtype=plain).reshape(shape, order="F" if order == "F" else "C").copy(order="K")


def array_from_buffer(buffer: Any, dtype: Any, shape: Any, order: str) -> NDArray[Any]:  # noqa: ANN401 - any content of a pickle
    """Stand in for `numpy._core.numeric._frombuffer`, which protocol 5 calls."""
    return build_array(buffer, dtype, shape, order)


def scalar(dtype: Any, content: Any = b"") -> Any:  # noqa: ANN401 - any content of a pickle
    """Stand in for `numpy._core.multiarray.scalar`; objects are refused, because NumPy reads their address."""
    if dtype.is_object:
        raise ValueError("a scalar of type object")
    return build_array(content, dtype, (1,), "C")[0]


def encode_text(text: str, encoding: str = "latin1") -> bytes:
    """Stand in for `_codecs.encode`, by which old protocols store bytes as text."""
    if encoding not in ("latin1", "latin-1", "utf8", "utf-8"):
        raise ValueError(f"text in the encoding {encoding!r}")
    return text.encode(encoding)


def copy_bytes(content: Any = b"", *_: object) -> bytes:  # noqa: ANN401 - any content of a pickle
    """Stand in for `bytes` and `bytearray`, which given a number would allocate as many bytes."""
    if not isinstance(content, bytes):
        raise ValueError("bytes that are made of something else")  # noqa: TRY004 - the error of every damaged pickle
    return content


def resolve(content: Any, resolved: dict[int, Any] | None = None) -> Any:  # noqa: ANN401 - any content of a pickle
    """Replace every `PickledArray` in containers and attributes by its array.

    Args:
        content: What was unpickled; lists, dictionaries and objects are changed in place.
        resolved: Identifier of each container that was visited to the container and its result; they may contain each
            other.

    Returns:
        The content without stand-ins.
    """
    resolved = {} if resolved is None else resolved
    if isinstance(content, PickledArray):
        return resolve(content.array, resolved)
    if id(content) in resolved:
        return resolved[id(content)][1]
    if isinstance(content, tuple):
        result = tuple(resolve(element, resolved) for element in content)
        # With the original, whose identifier would otherwise be used again. Without this, tuples that contain a tuple
        # twice, which contains a tuple twice, would take forever.
        resolved[id(content)] = content, result
        return result
    resolved[id(content)] = content, content
    _resolve_elements(content, resolved)
    return content


def _resolve_elements(content: Any, resolved: dict[int, Any]) -> None:  # noqa: ANN401 - any content of a pickle
    """Replace the stand-ins in a container or in the attributes of an object."""
    if isinstance(content, dict):
        for key in content:
            content[key] = resolve(content[key], resolved)
    elif isinstance(content, list):
        content[:] = [resolve(element, resolved) for element in content]
    elif isinstance(content, np.ndarray):
        for position in np.ndindex(content.shape) if content.dtype == object else ():
            content[position] = resolve(content[position], resolved)
    elif hasattr(content, "__dict__") and not isinstance(content, type):
        resolve(vars(content), resolved)
