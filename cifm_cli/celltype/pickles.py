"""Reading of models stored as pickles, without running code from them.

A pickle names functions and classes, and unpickling calls them. Here only numbers, strings and containers are
constructed; NumPy arrays are rebuilt by `pickled_arrays`, tensors of torch by `torch_files`. Every other class becomes an
`OpaqueObject`, which keeps the attributes and runs nothing: that is enough to read the coefficients of a scikit-learn
estimator, without scikit-learn. The unpickler is that of the standard library written in Python, because the compiled one
allocates the memory that a file asks for before it reads.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict, defaultdict
from typing import TYPE_CHECKING, Any, ClassVar, Final

from cifm_cli.celltype.pickled_arrays import (
    PickledArray,
    PickledDtype,
    array_from_buffer,
    copy_bytes,
    encode_text,
    resolve,
    scalar,
)
from cifm_cli.errors import CifmError
from cifm_cli.system_errors import DAMAGED_FILE_ERRORS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_NUMPY_MODULES = (
    "numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric",
)  # fmt: skip
_NUMPY_STAND_INS: Final[dict[str, Callable[..., Any]]] = {
    "_reconstruct": PickledArray,
    "ndarray": PickledArray,
    "dtype": PickledDtype,
    "scalar": scalar,
    "_frombuffer": array_from_buffer,
}
# Tuples may be keys of a dictionary, and Python's hash of a tuple in a tuple in a tuple ... has no limit of its depth.
MAX_TUPLE_DEPTH: Final = 100
# Exceptions that unpickling a damaged file can raise; the pickle module has no single one for it.
UNPICKLING_ERRORS: Final = (
    *DAMAGED_FILE_ERRORS,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    AttributeError,
    AssertionError,
)
HINT: Final = (
    "add --trust-pickle if you trust the source of the file; its arrays are rebuilt and its classes are not loaded"
)


class OpaqueObject:
    """The attributes of an object whose class was not loaded."""

    def __init__(self, *arguments: Any, **attributes: Any) -> None:  # noqa: ANN401 - any content of a pickle
        self.__setstate__(attributes)
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:  # noqa: ANN401 - any content of a pickle
        """Store the attributes, those of `__dict__` and those of slots."""
        for attributes in state if isinstance(state, tuple) else (state,):
            if isinstance(attributes, dict):
                # Not methods of this class, which the attributes would hide.
                own = {name: value for name, value in attributes.items() if isinstance(name, str) and name[:2] != "__"}
                self.__dict__.update(own)


def _reconstruct_object(*_: Any) -> OpaqueObject:  # noqa: ANN401 - any content of a pickle
    """Stand in for `copyreg._reconstructor`, by which old protocols make objects."""
    return OpaqueObject()


_CONTAINERS: Final[tuple[type, ...]] = (set, frozenset, complex, dict, list)
_STAND_INS: Final[dict[tuple[str, str], Callable[..., Any]]] = {
    **{(module, name): made for module in _NUMPY_MODULES for name, made in _NUMPY_STAND_INS.items()},
    **{(module, name): copy_bytes for module in ("builtins", "__builtin__") for name in ("bytes", "bytearray")},
    ("_codecs", "encode"): encode_text,
    ("copyreg", "_reconstructor"): _reconstruct_object,
    ("copy_reg", "_reconstructor"): _reconstruct_object,
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    **{(module, made.__name__): made for module in ("builtins", "__builtin__") for made in _CONTAINERS},
}


class SafeUnpickler(pickle._Unpickler):
    """Constructs plain data and stand-ins, and an `OpaqueObject` for everything else.

    Args:
        content: The pickle.
        stand_ins: Further functions that the pickle may call, by module and name.
    """

    stack: list[Any]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, content: bytes, stand_ins: dict[tuple[str, str], Callable[..., Any]] | None = None) -> None:
        # From memory: a file allocates as much as it is asked to read.
        super().__init__(io.BytesIO(content))
        self.stand_ins = _STAND_INS | (stand_ins or {})
        self.opaque: set[str] = set()  # names that became an `OpaqueObject`
        self._depths: dict[int, int] = {}  # of the tuples so far, by their identifiers
        self._tuples: list[Any] = []  # keeps them, as the identifier of a deleted object is used again

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - a class or a function
        """Return a stand-in, and `OpaqueObject` for any other class or function."""
        made = self.stand_ins.get((module, name))
        if made is None:
            self.opaque.add(f"{module}.{name}")
        return OpaqueObject if made is None else made

    def _call(self, function: Any, arguments: Any, named: Any = None) -> None:  # noqa: ANN401 - any content of a pickle
        """Put the value of a function on the stack."""
        if function is not OpaqueObject and all(function is not known for known in self.stand_ins.values()):
            raise pickle.UnpicklingError("a call of something that is no function")
        self.stack.append(function(*arguments, **(named or {})))

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        self._call(self.stack.pop(), arguments)

    def _new_object_with_names(self) -> None:
        named, arguments = self.stack.pop(), self.stack.pop()
        self._call(self.stack.pop(), arguments, named)

    def _object(self) -> None:
        function, *arguments = self.pop_mark()
        self._call(function, arguments)

    def _instance(self) -> None:
        module, name = (self.readline()[:-1].decode("ascii") for _ in range(2))
        self._call(self.find_class(module, name), self.pop_mark())

    def _build(self) -> None:
        """Set the state of a stand-in. That of anything else, such as the attributes of a dictionary, is left out."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, OpaqueObject | PickledArray | PickledDtype):
            target.__setstate__(state)

    def _make_tuple(self, elements: list[Any]) -> None:
        depth = 1 + max((self._depths.get(id(element), 0) for element in elements), default=0)
        if depth > MAX_TUPLE_DEPTH:
            raise pickle.UnpicklingError("tuples nested too deeply")
        made = tuple(elements)
        self._depths[id(made)] = depth
        self._tuples.append(made)
        self.stack.append(made)

    def _take_tuple(self, length: int) -> None:
        if len(self.stack) < length:
            raise pickle.UnpicklingError("the stack has too few elements")
        elements = self.stack[-length:]
        del self.stack[-length:]
        self._make_tuple(elements)

    def _extend(self, elements: list[Any]) -> None:
        """Append to a list, or add to a set; an object whose class is not loaded keeps no elements."""
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(elements)
        elif isinstance(target, set):
            target.update(elements)
        elif not isinstance(target, OpaqueObject):
            raise pickle.UnpicklingError("elements of something that is no list")

    def _set_items(self, elements: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update(zip(elements[::2], elements[1::2], strict=True))
        elif not isinstance(target, OpaqueObject):
            raise pickle.UnpicklingError("items of something that is no dictionary")

    def _byte_array(self) -> None:
        (length,) = struct.unpack("<Q", self.read(8))
        # The length is that of the file, and `read` returns what is there.
        content = self.read(length)
        if len(content) != length:
            raise EOFError("the file ends within bytes")
        self.stack.append(content)

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("a code of the extension registry")


_OPCODES: Final[dict[bytes, Callable[[SafeUnpickler], None]]] = {
    pickle.REDUCE: SafeUnpickler._reduce,
    pickle.NEWOBJ: SafeUnpickler._reduce,
    pickle.NEWOBJ_EX: SafeUnpickler._new_object_with_names,
    pickle.OBJ: SafeUnpickler._object,
    pickle.INST: SafeUnpickler._instance,
    pickle.BUILD: SafeUnpickler._build,
    pickle.TUPLE: lambda self: self._make_tuple(self.pop_mark()),
    pickle.TUPLE1: lambda self: self._take_tuple(1),
    pickle.TUPLE2: lambda self: self._take_tuple(2),
    pickle.TUPLE3: lambda self: self._take_tuple(3),
    pickle.APPEND: lambda self: self._extend([self.stack.pop()]),
    pickle.APPENDS: lambda self: self._extend(self.pop_mark()),
    pickle.ADDITEMS: lambda self: self._extend(self.pop_mark()),
    pickle.SETITEM: lambda self: self._set_items([self.stack.pop(-2), self.stack.pop()]),
    pickle.SETITEMS: lambda self: self._set_items(self.pop_mark()),
    pickle.BYTEARRAY8: SafeUnpickler._byte_array,
    **dict.fromkeys((pickle.EXT1, pickle.EXT2, pickle.EXT4), SafeUnpickler._refuse),
}
SafeUnpickler.dispatch.update({opcode[0]: operation for opcode, operation in _OPCODES.items()})


def read_pickle(path: Path, *, trusted: bool) -> Any:  # noqa: ANN401 - any content of a pickle
    """Read a pickle.

    Args:
        path: The file.
        trusted: Whether the user trusts it.

    Returns:
        Plain data, arrays, and an `OpaqueObject` for everything else.

    Raises:
        CifmError: The file is not trusted, or damaged.
    """
    if not trusted:
        raise CifmError(f"{path}: a pickle, which can hold any code", HINT)
    try:
        return resolve(SafeUnpickler(path.read_bytes()).load())
    except UNPICKLING_ERRORS as error:
        raise CifmError(f"{path}: not a readable pickle ({error!s:.200})", "copy the file anew") from error
