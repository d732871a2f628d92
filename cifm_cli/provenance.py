"""Provenance of output files, and random generators, which are all derived from one seed."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import zlib
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli.errors import CifmError
from cifm_cli.path_text import path_text
from cifm_cli.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch

_PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "anndata",
    "h5py",
    "pandas",
    "scikit-learn",
    "safetensors",
    "dgl",
    "numba",
    "triton",
)
_BLOCK = 1 << 20  # bytes that are read at a time: slides may be larger than the memory


def numpy_generator(seed: int, *stream: int | str) -> np.random.Generator:
    """Create a NumPy generator for one purpose.

    Args:
        seed: The user's `--seed`.
        stream: Words and numbers that identify the purpose, such as `("mask", step)`. Different streams
            are independent.

    Returns:
        A generator whose numbers depend on the arguments only, on every machine.

    Raises:
        CifmError: The seed is negative.
    """
    if seed < 0:
        raise CifmError(f"seed {seed}: negative", "give a whole number from 0 on")
    # The stream is a spawn key and not entropy, because SeedSequence treats the entropies [7] and [7, 0] as equal.
    # CRC-32 and not `hash`, which differs between processes.
    key = tuple(zlib.crc32(word.encode()) if isinstance(word, str) else word for word in stream)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def torch_generator(seed: int, *stream: int | str) -> torch.Generator:
    """Create a torch generator on the CPU for one purpose; arguments as `numpy_generator`."""
    import torch

    # torch seeds are 64-bit integers; this one is drawn from the stream, so that both libraries share one scheme.
    generator = torch.Generator()
    generator.manual_seed(int(numpy_generator(seed, *stream).integers(2**63 - 1)))
    return generator


@contextmanager
def seeded_torch(seed: int, *stream: int | str) -> Iterator[None]:
    """Seed torch's global generator within a block, such as the creation of weights, and restore it afterwards.

    Args:
        seed: The user's `--seed`.
        stream: The purpose, see `numpy_generator`.

    Yields:
        Nothing.
    """
    import torch

    # Weights are created on the CPU, so generators of GPUs need no state.
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(torch_generator(seed, *stream).get_state())
        yield


def hash_file(path: Path) -> str:
    """Compute the SHA-256 of a file, or of the names and the content of all files of a folder.

    Args:
        path: The file or folder.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    if path.is_dir():  # such as a Zarr store
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            digest.update(f"{path_text(file.relative_to(path))} {hash_file(file)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def collect(command: str, *, seed: int | None = None, inputs: Iterable[Path] = (), **facts: Any) -> dict[str, Any]:  # noqa: ANN401
    """Collect the provenance that is stored in every output file.

    Args:
        command: The subcommand, such as `train`.
        seed: The user's seed, if the command uses random numbers.
        inputs: Input files; each is stored as the user named it, with its SHA-256.
        facts: Further JSON values, such as `backend`, `device` or `recipe`.

    Returns:
        A dictionary of JSON values.
    """
    return {
        "command": command,
        "cifm": __version__,
        "git": _git_revision(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "packages": _versions(),
        "seed": seed,
        "inputs": {path_text(path): hash_file(path) for path in inputs},
        **facts,
    }


def _versions() -> dict[str, str]:
    """Versions of the installed packages that results depend on."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            # Optional packages, such as DGL, may be missing.
            continue
    return versions


def _git_revision() -> str | None:
    """Revision of the checkout, with `+dirty` after uncommitted changes; None for an installed wheel."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():  # git would look for a repository in the parent folders
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty=+dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    # Provenance is optional: a machine without git, or a repository of another owner, must not stop a command.
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
