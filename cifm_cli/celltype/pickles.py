"""Reading of models stored as pickles, without running code from them.

A pickle names functions and classes, and unpickling calls them. Here only numbers, strings, containers, NumPy arrays
and torch tensors are constructed, the arrays by `pickled_arrays`. Every other class becomes an `OpaqueObject`, which
keeps the attributes and runs nothing: that is enough to read the coefficients of a scikit-learn estimator, without
scikit-learn. The user still has to pass `--trust-pickle`, because torch's own functions are not proven to be harmless.
"""

from __future__ import annotations

import pickle
import zipfile
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

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

if TYPE_CHECKING:
    from pathlib import Path

_STAND_INS: Final = {
    "_reconstruct": PickledArray,
    "ndarray": PickledArray,
    "dtype": PickledDtype,
    "scalar": scalar,
    "_frombuffer": array_from_buffer,
}
_NUMPY_MODULES = (
    "numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric",
)  # fmt: skip
_ZIP_MAGIC = b"PK\x03\x04"
_ALLOWED: Final = frozenset(
    [("builtins", name) for name in ("set", "frozenset", "slice", "complex", "object", "dict", "list")]
    + [("collections", "OrderedDict"), ("collections", "defaultdict"), ("copyreg", "_reconstructor")]
    + [("torch", "Size"), ("torch", "device")]
    + [("torch._utils", name) for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")]
    + [("torch", f"{kind}Storage") for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Bool", "Byte")]
    + [("torch.storage", name) for name in ("UntypedStorage", "TypedStorage")]
)
# Exceptions that unpickling a damaged file can raise; the pickle module has no single one for it.
_UNPICKLING_ERRORS: Final = (
    pickle.UnpicklingError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, RuntimeError,
)  # fmt: skip
_HINT = "add --trust-pickle if you trust the source of the file; its arrays are rebuilt and its classes are not loaded"


class OpaqueObject:
    """The attributes of an object whose class was not loaded."""

    def __init__(self, *arguments: Any, **attributes: Any) -> None:  # noqa: ANN401 - any content of a pickle
        self.arguments = arguments
        self.__dict__.update(attributes)

    def __setstate__(self, state: Any) -> None:  # noqa: ANN401 - any content of a pickle
        """Store the attributes, those of `__dict__` and those of slots."""
        for attributes in state if isinstance(state, tuple) else (state,):
            self.__dict__.update(attributes if isinstance(attributes, dict) else {})


class _Unpickler(pickle.Unpickler):
    """Constructs plain data, and an `OpaqueObject` for everything else."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - a class or a function
        """Return a stand-in or an allowed class or function, `OpaqueObject` for any other."""
        if module in _NUMPY_MODULES and name in _STAND_INS:
            return _STAND_INS[name]
        if module in ("builtins", "__builtin__") and name in ("bytes", "bytearray"):
            return copy_bytes
        if (module, name) == ("_codecs", "encode"):
            return encode_text
        return super().find_class(module, name) if (module, name) in _ALLOWED else OpaqueObject


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
        raise CifmError(f"{path}: a pickle, which can hold any code", _HINT)
    try:
        with path.open("rb") as file:
            return resolve(_Unpickler(file).load())
    except _UNPICKLING_ERRORS as error:
        raise CifmError(f"{path}: not a readable pickle ({error})", "copy the file anew") from error


def read_torch(path: Path, *, trusted: bool) -> Any:  # noqa: ANN401 - any content of a pickle
    """Read a file that `torch.save` wrote; one that holds only tensors and plain data needs no trust.

    Args:
        path: The file.
        trusted: Whether the user trusts it.

    Returns:
        Its content, tensors on the CPU, and an `OpaqueObject` for everything but tensors and plain data.

    Raises:
        CifmError: The file holds more than tensors and plain data and is not trusted, or it is damaged.
    """
    import torch

    # The first bytes decide, as they do for torch. A file that is a zip only at its end would be read as a tar, by
    # code of torch <= 2.5 that runs code from the file even with `weights_only`.
    if not _starts_as_zip(path) or not zipfile.is_zipfile(path):
        raise CifmError(f"{path}: not a readable checkpoint of torch", "copy the file anew")
    try:
        # First with torch's own restricted reader, which suffices for checkpoints that hold tensors alone.
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not trusted:
            raise CifmError(f"{path}: a pickle with more than tensors in it, which can hold any code", _HINT) from error
    except _UNPICKLING_ERRORS as error:
        raise CifmError(f"{path}: not a readable checkpoint ({error})", "copy the file anew") from error
    # torch takes the unpickler from a module; this object stands for one.
    restricted_pickle = SimpleNamespace(__name__=__name__, Unpickler=_Unpickler)
    try:
        return resolve(torch.load(path, map_location="cpu", weights_only=False, pickle_module=restricted_pickle))
    except _UNPICKLING_ERRORS as error:
        raise CifmError(f"{path}: not a readable checkpoint ({error})", "copy the file anew") from error


def _starts_as_zip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
    except OSError:  # as `zipfile.is_zipfile`, which answers for files that cannot be opened too
        return False
