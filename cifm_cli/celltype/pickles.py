"""Reading models that others stored as pickles, without running what is in them.

A pickle names functions and classes that unpickling calls. Here numbers, texts, containers, NumPy arrays and torch
tensors are built, and every other class becomes a `Remains`, which keeps the attributes and runs nothing: coefficients
can be read off a scikit-learn estimator without scikit-learn. Still a user has to say `--trust-pickle`: the list of
what may be called is short, but it is a list.
"""

from __future__ import annotations

import pickle
import zipfile
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

_ARRAYS = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
_CALLABLE: Final = frozenset(
    [(module, name) for module in _ARRAYS for name in ("_reconstruct", "scalar", "_frombuffer", "ndarray", "dtype")]
    + [("builtins", name) for name in ("set", "frozenset", "slice", "complex", "bytearray", "object", "dict", "list")]
    + [("collections", "OrderedDict"), ("collections", "defaultdict"), ("copyreg", "_reconstructor")]
    + [("_codecs", "encode"), ("torch", "Size"), ("torch", "device")]
    + [("torch._utils", name) for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")]
    + [("torch", f"{kind}Storage") for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Bool", "Byte")]
    + [("torch.storage", name) for name in ("UntypedStorage", "TypedStorage")]
)
_DAMAGE: Final = (
    pickle.UnpicklingError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, RuntimeError,
)  # fmt: skip
_HINT = "add --trust-pickle if you trust where the file comes from; classes in it are read, not run"


class Remains:
    """What is left of an object whose class was not loaded: its attributes."""

    def __init__(self, *arguments: Any, **attributes: Any) -> None:  # noqa: ANN401 - whatever the pickle says
        self.arguments = arguments
        self.__dict__.update(attributes)

    def __setstate__(self, state: Any) -> None:  # noqa: ANN401 - whatever the pickle says
        """Keep the attributes, of `__dict__` and of slots."""
        for part in state if isinstance(state, tuple) else (state,):
            self.__dict__.update(part if isinstance(part, dict) else {})


class _Unpickler(pickle.Unpickler):
    """Builds plain data, and `Remains` of everything else."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - a class or a function
        """The class that a pickle names."""
        return super().find_class(module, name) if (module, name) in _CALLABLE else Remains


def read_pickle(path: Path, *, trusted: bool) -> Any:  # noqa: ANN401 - whatever it holds
    """Read a pickle.

    Args:
        path: The file.
        trusted: Whether the user vouches for it.

    Returns:
        Plain data, arrays, and `Remains` of everything else.

    Raises:
        CifmError: It is not trusted, or is damaged.
    """
    if not trusted:
        raise CifmError(f"{path}: a pickle, which can hold any code", _HINT)
    try:
        with path.open("rb") as file:
            return _Unpickler(file).load()
    except _DAMAGE as error:
        raise CifmError(f"{path}: not a readable pickle ({error})", "copy the file anew") from error


def read_torch(path: Path, *, trusted: bool) -> Any:  # noqa: ANN401 - whatever it holds
    """Read what `torch.save` wrote: at once where it holds tensors and plain data alone, else as `read_pickle` does.

    Args:
        path: The file.
        trusted: Whether the user vouches for it.

    Returns:
        Its content, tensors on the CPU.

    Raises:
        CifmError: It holds more than that and is not trusted, or is damaged.
    """
    import torch

    if not zipfile.is_zipfile(path):
        raise CifmError(f"{path}: not a readable checkpoint of torch", "copy the file anew")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not trusted:
            raise CifmError(f"{path}: a pickle with more than tensors in it, which can hold any code", _HINT) from error
    except _DAMAGE as error:
        raise CifmError(f"{path}: not a readable checkpoint ({error})", "copy the file anew") from error
    reader = SimpleNamespace(__name__=__name__, Unpickler=_Unpickler)
    try:
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=reader)
    except _DAMAGE as error:
        raise CifmError(f"{path}: not a readable checkpoint ({error})", "copy the file anew") from error
