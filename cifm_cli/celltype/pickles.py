"""Reading of models stored as pickles, without running code from them.

A pickle names functions and classes, and unpickling calls them. Here only numbers, strings, containers, NumPy arrays
and torch tensors are constructed. Every other class becomes an `OpaqueObject`, which keeps the attributes and runs
nothing: that is enough to read the coefficients of a scikit-learn estimator, without scikit-learn. The user still has
to pass `--trust-pickle`, because the allowed functions are not proven to be harmless.
"""

from __future__ import annotations

import pickle
import zipfile
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

_NUMPY_MODULES = (
    "numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric",
)  # fmt: skip
_NUMPY_NAMES = ("_reconstruct", "scalar", "_frombuffer", "ndarray", "dtype")
_ALLOWED: Final = frozenset(
    [(module, name) for module in _NUMPY_MODULES for name in _NUMPY_NAMES]
    + [("builtins", name) for name in ("set", "frozenset", "slice", "complex", "bytearray", "object", "dict", "list")]
    + [("collections", "OrderedDict"), ("collections", "defaultdict"), ("copyreg", "_reconstructor")]
    + [("_codecs", "encode"), ("torch", "Size"), ("torch", "device")]
    + [("torch._utils", name) for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")]
    + [("torch", f"{kind}Storage") for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Bool", "Byte")]
    + [("torch.storage", name) for name in ("UntypedStorage", "TypedStorage")]
)
# What unpickling a damaged file can raise: the pickle machine has no single error for it.
_UNPICKLING_ERRORS: Final = (
    pickle.UnpicklingError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, RuntimeError,
)  # fmt: skip
_HINT = "add --trust-pickle if you trust the source of the file; classes in it are read, not run"


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
        """Return an allowed class or function, `OpaqueObject` for any other."""
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
            return _Unpickler(file).load()
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

    # Since version 1.6, torch writes zip archives.
    if not zipfile.is_zipfile(path):
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
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=restricted_pickle)
    except _UNPICKLING_ERRORS as error:
        raise CifmError(f"{path}: not a readable checkpoint ({error})", "copy the file anew") from error
