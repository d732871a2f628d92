"""Where an artefact came from, and the only source of randomness: generators derived from one seed."""

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

from cifm_cli import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch

_PACKAGES = ("torch", "numpy", "scipy", "anndata", "h5py", "pandas", "scikit-learn", "safetensors", "dgl", "numba")
_BLOCK = 1 << 20


def numpy_generator(seed: int, *stream: int | str) -> np.random.Generator:
    """A NumPy generator of its own for one purpose.

    Args:
        seed: The user's `--seed`.
        stream: What it is for, such as `("mask", step)`; other streams are independent.

    Returns:
        The same generator for the same arguments, on every machine.
    """
    # A spawn key, not more entropy: SeedSequence takes [7] and [7, 0] for the same entropy.
    key = tuple(zlib.crc32(word.encode()) if isinstance(word, str) else word for word in stream)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def torch_generator(seed: int, *stream: int | str) -> torch.Generator:
    """A CPU torch generator of its own for one purpose; arguments as `numpy_generator`."""
    import torch

    generator = torch.Generator()
    generator.manual_seed(int(numpy_generator(seed, *stream).integers(2**63 - 1)))
    return generator


@contextmanager
def seeded_torch(seed: int, *stream: int | str) -> Iterator[None]:
    """Run a block, such as fresh weights, on torch's global generator seeded for it; put the generator back after.

    Args:
        seed: The user's `--seed`.
        stream: What it is for; see `numpy_generator`.

    Yields:
        Nothing.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(torch_generator(seed, *stream).get_state())
        yield


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, read in blocks.

    Args:
        path: The file.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def collect(command: str, *, seed: int | None = None, inputs: Iterable[Path] = (), **facts: Any) -> dict[str, Any]:  # noqa: ANN401
    """What every artefact carries about its origin.

    Args:
        command: The subcommand, such as `train`.
        seed: The user's seed, where there is randomness.
        inputs: Files read; each is stored as it was named, with its SHA-256.
        facts: More, such as `backend`, `device` or `recipe`; JSON values.

    Returns:
        A JSON-serialisable dictionary.
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
        "inputs": {path.as_posix(): hash_file(path) for path in inputs},
        **facts,
    }


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _git_revision() -> str | None:
    """Revision of the checkout this code runs from, with `+dirty`; None for an installed wheel."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty=+dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
