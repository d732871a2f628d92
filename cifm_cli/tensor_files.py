"""Safetensors files with a JSON header: models, training states and classifiers of cell types.

What a file says about itself is checked before its tensors are read: the header against a schema, then names, types and
shapes of the tensors against those that the header requires. The library checks that the tensors lie within the file, so
reading them takes as much memory as the file has bytes.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from cifm_cli.errors import CifmError
from cifm_cli.stored_json import StoredObject, parse_json, validate
from cifm_cli.verification import SKIP_HINT, verification_enabled
from cifm_cli.workspace import atomic_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    Tensors = Mapping[str, Any]  # name to array of NumPy or tensor of torch

Framework = Literal["numpy", "pt"]
_HEADER = "cifm"  # key of the JSON in the metadata of safetensors
_CHECKSUM = "sha256"  # key in that JSON
_FLOATS = {"F16", "BF16", "F32", "F64"}


class Layout(NamedTuple):
    """Type and shape of a stored tensor."""

    dtype: str  # as safetensors names it, such as F32
    shape: tuple[int, ...]

    def __str__(self) -> str:
        """For messages: `F32 (3, 8)`."""
        return f"{self.dtype} {self.shape}"


@dataclass(frozen=True)
class FileKind:
    """A kind of file."""

    noun: str  # for messages
    format: int  # number that is raised when older files can no longer be read
    schema: type[StoredObject]  # the header
    hint: str  # what to do about a damaged file
    label: str | None = None  # value of the key `kind` in the header, by which the kind is told from others

    def error(self, path: Path, reason: object) -> CifmError:
        """Error for a file that is missing or damaged."""
        return CifmError(f"{path}: not a readable {self.noun} ({reason})", self.hint)


@dataclass(frozen=True)
class TensorFile:
    """An open file, whose header is that of its kind and whose tensors are not read yet."""

    path: Path  # the file
    kind: FileKind  # what it is
    header: dict[str, Any]  # its header
    layouts: dict[str, Layout]  # name of each tensor to its type and shape
    _file: Any  # handle of safetensors

    def require(self, expected: Mapping[str, Layout], reason: str) -> None:
        """Check that the file holds the tensors that it should, and no others.

        Args:
            expected: Name of each tensor to its type and shape.
            reason: Beginning of the message, such as `the weights do not fit the recipe stored beside them`.

        Raises:
            CifmError: A tensor is missing or unknown, or differs in type or shape.
        """
        problem = layout_problem(self.layouts, expected)
        if problem:
            raise CifmError(f"{self.path}: {reason}: {problem}", self.kind.hint)

    def load(self) -> dict[str, Any]:
        """Read all tensors.

        Raises:
            CifmError: The file is damaged, or has a value that is not finite.
        """
        try:
            tensors = {name: self._file.get_tensor(name) for name in self.layouts}
        # A type of number that torch or NumPy lacks is a TypeError, ValueError or AttributeError.
        except (SafetensorError, OSError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise self.kind.error(self.path, error) from error
        for name, tensor in tensors.items():
            # The sum of squares would overflow, the extremes are NaN where any value is.
            if self.layouts[name].dtype in _FLOATS and 0 not in tensor.shape:
                extremes = float(tensor.min()), float(tensor.max())
                if not np.isfinite(extremes).all():
                    raise self.kind.error(self.path, f"tensor {name} has a value that is not finite")
        return tensors

    def verify(self, tensors: Tensors) -> None:
        """Compare the content with its checksum. Files of earlier versions have none.

        Args:
            tensors: From `load`.

        Raises:
            CifmError: The content was changed after it was written.
        """
        stored = self.header.get(_CHECKSUM)
        if stored is None or not verification_enabled():
            return
        if stored != content_checksum(tensors, self.header):
            raise CifmError(f"{self.path}: damaged, its checksum is wrong", f"{self.kind.hint}; {SKIP_HINT}")


def layout_problem(stored: Mapping[str, Layout], expected: Mapping[str, Layout]) -> str | None:
    """Describe the first difference between the tensors of a file and those that it should hold; None without any."""
    for name in sorted(expected):
        if name not in stored:
            return f"no tensor {name}"
        if stored[name] != expected[name]:
            return f"tensor {name} is {stored[name]}, {expected[name]} is needed"
    unknown = sorted(stored.keys() - expected.keys())
    return f"unknown tensor {unknown[0]}" if unknown else None


@contextmanager
def open_tensors(path: Path, kind: FileKind, framework: Framework = "pt") -> Iterator[TensorFile]:
    """Open a file of a kind, and check its header.

    Args:
        path: The file.
        kind: What it should be.
        framework: Library of the tensors that are read.

    Yields:
        The file, whose header fits the schema of the kind.

    Raises:
        CifmError: The file is missing or damaged, is of another program or kind, or has another format.
    """
    header = read_header(path, kind)
    if header is None or header.get("kind") != kind.label:
        # Other programs write safetensors files too, such as the public release of the paper.
        raise CifmError(f"{path}: safetensors, but not a {kind.noun} of cifm", kind.hint)
    if header.get("format") != kind.format:
        stored = header.get("format")
        earlier = "; trained by an earlier version" if isinstance(stored, int) and stored < kind.format else ""
        raise CifmError(
            f"{path}: {kind.noun} format {stored!s:.20}, this cifm reads {kind.format}{earlier}",
            "use the version of cifm that wrote it, or train again",
        )
    try:
        validate(kind.schema, header)
    except ValueError as error:
        raise kind.error(path, f"header: {error}") from error
    with safe_open(path, framework=framework) as file:
        yield TensorFile(path, kind, header, _layouts(file), file)


def read_header(path: Path, kind: FileKind) -> dict[str, Any] | None:
    """Read the header of a safetensors file.

    Args:
        path: The file.
        kind: What it is taken for, for messages.

    Returns:
        The header; None if the file has none.

    Raises:
        CifmError: The file is missing or damaged.
    """
    # A pipe has no size, and reading it could wait forever.
    if not path.is_file():
        raise kind.error(path, "no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        content = parse_json(metadata[_HEADER]) if _HEADER in metadata else None
    except (SafetensorError, OSError, ValueError) as error:
        raise kind.error(path, error) from error
    if content is not None and not isinstance(content, dict):
        raise kind.error(path, "its header is not a JSON object")
    return content


def _layouts(file: Any) -> dict[str, Layout]:  # noqa: ANN401 - safetensors has no types
    """Types and shapes of the tensors of an open file."""
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    return {name: Layout(part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}


def save_tensors(
    path: Path, tensors: Tensors, header: dict[str, Any], framework: Framework = "pt", *, checksum: bool = True
) -> None:
    """Write tensors and a JSON header as one safetensors file, whole or not at all.

    Args:
        path: The file.
        tensors: Name to tensor.
        header: Values that `json` can write.
        framework: Library of the tensors.
        checksum: Whether to store a checksum of header and tensors, which `TensorFile.verify` compares.

    Raises:
        CifmError: The disk is full, or there is no permission to write.
    """
    # safetensors refuses tensors that are not contiguous.
    if framework == "pt":
        ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    else:
        ready = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    if checksum:
        header = {**header, _CHECKSUM: content_checksum(ready, header)}
    with atomic_path(path) as temporary:
        try:
            # The header is one JSON string, because safetensors stores text values only.
            library = import_module("safetensors.torch" if framework == "pt" else "safetensors.numpy")
            library.save_file(ready, temporary, metadata={_HEADER: json.dumps(header, allow_nan=False)})
        except SafetensorError as error:  # of a full disk; `atomic_path` explains an OSError to the user
            raise OSError(str(error)) from error


def content_checksum(tensors: Tensors, header: Mapping[str, Any]) -> str:
    """Compute the checksum of a file.

    Args:
        tensors: Name to contiguous tensor on the CPU.
        header: The header; a checksum in it is left out.

    Returns:
        SHA-256 of the header, and of names, types, shapes and values of the tensors.
    """
    content = {key: value for key, value in header.items() if key != _CHECKSUM}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        dtype = str(tensor.dtype).removeprefix("torch.")
        digest.update(f"\n{name} {dtype} {list(tensor.shape)}\n".encode(errors="surrogatepass"))
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def tensor_bytes(tensor: Any) -> memoryview:  # noqa: ANN401 - an array of NumPy or a tensor of torch
    """The values of a contiguous tensor on the CPU as bytes, without copying them."""
    if isinstance(tensor, np.ndarray):
        return tensor.reshape(-1).view(np.uint8).data
    import torch

    flat = tensor.detach().reshape(-1)
    # A tensor of one value or none is contiguous with any stride, but it can be viewed as bytes with a stride of 1 only.
    view: memoryview = flat.as_strided(flat.shape, (1,)).view(torch.uint8).numpy().data
    return view
