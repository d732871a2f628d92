"""Names of the modules of the public release in its file of weights, and the tensors under them.

The names of the heads, of the gene encoder, of the decoder, and of the MLPs of inner products, distances, messages and updates
are those that users of the release have published. The others are assumed; a JSON file can replace any of them.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from pydantic import ConfigDict

from cifm_cli.errors import CifmError
from cifm_cli.stored_json import StoredObject, parse_json, validate

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

HINT = "docs/release.md has the names that are known; give other names of modules with --names FILE"


class ReleaseNames(StoredObject):
    """Names of modules."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    gene_encoder: str = "gene_encoder"
    encoder: str = "model"
    decoder: str = "mask_cell_decoder"
    mask: str = "mask_embedding"
    magnitude: str = "mask_cell_expression"
    expressed: str = "mask_cell_dropout"
    unused: str = "proj"
    # in encoder and decoder
    layers: str = "convs"
    output: str = "pred"
    # in a layer
    intensity: str = "innerprod_embedding"
    distance: str = "dist_embedding"
    message: str = "mlp_msg"
    step: str = "mlp_pos"
    update: str = "mlp_upd"


def read_names(path: Path | None) -> ReleaseNames:
    """Read the file of names.

    Args:
        path: A JSON object with any of the fields of `ReleaseNames`; None for the known names.

    Returns:
        The names.

    Raises:
        CifmError: The file is missing, or is no such object.
    """
    if path is None:
        return ReleaseNames()
    try:
        return validate(ReleaseNames, parse_json(path.read_bytes()))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CifmError(f"{path}: not readable as names of modules ({reason!s:.300})", HINT) from error


class TensorStore:
    """The tensors of a file, from which modules are taken one after the other.

    Args:
        path: The file, for messages.
        tensors: Name to tensor.
    """

    def __init__(self, path: Path, tensors: dict[str, Tensor]) -> None:
        self.path = path
        self._left = dict(tensors)

    def take_maps(self, module: str) -> list[Tensor]:
        """Take the linear maps of an MLP: `MODULE.0.weight`, `MODULE.layers.0.weight` or the like, by number.

        Raises:
            CifmError: There are fewer than two, or the output of one is not the input of the next.
        """
        name = re.compile(rf"{re.escape(module)}\.(?:[A-Za-z]\w*\.)?(\d+)\.(?:[A-Za-z]\w*\.)?weight")
        found = sorted((int(match[1]), key) for key in self._left if (match := name.fullmatch(key)))
        maps = [self._left.pop(key) for _, key in found]
        if len(maps) < 2:
            raise CifmError(f"{self.path}: no MLP {module} of at least two maps", HINT)
        for (_, key), weight in zip(found, maps, strict=True):
            if weight.ndim != 2:
                raise CifmError(f"{self.path}: tensor {key} is {tuple(weight.shape)}, a matrix is needed", HINT)
        for first, second in pairwise(maps):
            if second.shape[1] != len(first):
                shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
                raise CifmError(
                    f"{self.path}: consecutive maps of {module} are {shapes}, which do not fit together", HINT
                )
        return maps

    def take_optional_maps(self, module: str) -> list[Tensor]:
        """Take the linear maps of an MLP, if there are tensors under its name."""
        return self.take_maps(module) if any(key.startswith(f"{module}.") for key in self._left) else []

    def take_vector(self, module: str) -> Tensor:
        """Take the only tensor of a module, an embedding of one row or a parameter, as a vector."""
        for key in (f"{module}.weight", module):
            if key in self._left:
                tensor = self._left.pop(key)
                if tensor.ndim and tensor.numel() == tensor.shape[-1]:
                    return tensor.reshape(-1)
                raise CifmError(f"{self.path}: tensor {key} is {tuple(tensor.shape)}, one row is needed", HINT)
        raise CifmError(f"{self.path}: no tensor {module}.weight", HINT)

    def drop(self, module: str) -> list[str]:
        """Leave out the tensors of a module; returns their names."""
        dropped = sorted(key for key in self._left if key == module or key.startswith(f"{module}."))
        for key in dropped:
            del self._left[key]
        return dropped

    def count_layers(self, prefix: str) -> int:
        """Number of numbered modules `PREFIX.0`, `PREFIX.1`, ..."""
        name = re.compile(rf"{re.escape(prefix)}\.(\d+)\..+")
        numbers = {int(match[1]) for key in self._left if (match := name.fullmatch(key))}
        if not numbers or numbers != set(range(len(numbers))):
            raise CifmError(f"{self.path}: no layers {prefix}.0, {prefix}.1, ...", HINT)
        return len(numbers)

    def require_empty(self) -> None:
        """Check that every tensor was taken.

        Raises:
            CifmError: A tensor has no known meaning.
        """
        if self._left:
            key = min(self._left)
            more = f" and {len(self._left) - 1} others" if len(self._left) > 1 else ""
            raise CifmError(f"{self.path}: unknown tensor {key} {tuple(self._left[key].shape)}{more}", HINT)
