"""Backends of the edge part of a layer, found through the entry-point group `cifm.backends`.

A broken or missing backend is a line in `cifm backends`, never a crash.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cifm_backends.base import Backend

GROUP = "cifm.backends"
PREFERENCE = ("fused", "dgl", "torch")


class BackendUnavailableError(LookupError):
    """A backend was asked for that is not installed, does not load, or does not run on the device."""


@dataclass(frozen=True)
class BackendStatus:
    """What became of one registered backend.

    Args:
        name: As given to `--backend`.
        backend: The backend, when it loads.
        problem: Why it does not load, in one line.
    """

    name: str
    backend: Backend | None
    problem: str | None


def available() -> dict[str, BackendStatus]:
    """Try every registered backend, which may take seconds to import.

    Returns:
        Name to status, in order of preference, then by name.
    """
    return {name: _status(name) for name in _entries()}


def select(name: str, device: str) -> Backend:
    """Choose a backend, importing no other.

    Args:
        name: A registered name, or `auto` for the fastest that runs on the device.
        device: Device type, such as `cpu` or `cuda`.

    Returns:
        The backend.

    Raises:
        BackendUnavailableError: It is unknown, does not load, or does not run on the device.
    """
    if name == "auto":
        for candidate in _entries():
            backend = _status(candidate).backend
            if backend is not None and backend.supports(device):
                return backend
        raise BackendUnavailableError(f"no backend runs on {device}")
    if name not in _entries():
        raise BackendUnavailableError(f"unknown backend {name}; installed: {', '.join(_entries())}")
    status = _status(name)
    if status.backend is None:
        raise BackendUnavailableError(f"backend {name} does not load: {status.problem}")
    if not status.backend.supports(device):
        raise BackendUnavailableError(f"backend {name} does not run on {device}")
    return status.backend


@cache
def _entries() -> dict[str, metadata.EntryPoint]:
    found = {entry.name: entry for entry in metadata.entry_points(group=GROUP)}
    order = [name for name in PREFERENCE if name in found] + sorted(set(found) - set(PREFERENCE))
    return {name: found[name] for name in order}


@cache
def _status(name: str) -> BackendStatus:
    try:
        backend: Backend = _entries()[name].load()()
        backend.version()
    except Exception as error:  # noqa: BLE001 - whatever a third party's import raises is a line in the list
        lines = str(error).strip().splitlines() or [""]
        return BackendStatus(name, None, f"{type(error).__name__}: {lines[0]}")
    return BackendStatus(name, backend, None)
