"""Backends of the edge part of a layer, discovered through the entry-point group `cifm.backends`.

A backend that is missing or fails to import is reported by `cifm backends` and does not stop the program.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from cifm_backends.base import Backend

    T = TypeVar("T")

GROUP = "cifm.backends"


class BackendUnavailableError(LookupError):
    """The requested backend is not installed, does not load, or does not run on the device.

    A backend whose constructor raises it gives the reason in one line, which `cifm backends` shows.
    """


@dataclass(frozen=True)
class BackendStatus:
    """State of one registered backend."""

    name: str  # as given to `--backend`
    backend: Backend | None  # the backend; None if it does not load
    problem: str | None  # why it does not load, in one line; None if it does


def available() -> dict[str, BackendStatus]:
    """Load every registered backend. Imports may take seconds.

    Returns:
        Name to status, by descending `Backend.priority`, then by name.
    """
    return {name: _status(name) for name in _names_by_priority()}


def select(name: str, device: str) -> Backend:
    """Choose a backend.

    Args:
        name: A registered name, or `auto` for the backend with the highest `Backend.priority` that runs on the device.
        device: Device type, such as `cpu` or `cuda`.

    Returns:
        The backend. No other backend is created, unless `auto` tried it first.

    Raises:
        BackendUnavailableError: The backend is unknown, does not load, or does not run on the device.
    """
    # `auto` stops at the first backend that runs, so the libraries of the others are not imported.
    if name == "auto":
        for candidate in _names_by_priority():
            backend = _status(candidate).backend
            if backend is not None and backend.supports(device):
                return backend
        raise BackendUnavailableError(f"no backend runs on {device}")
    if name not in _entry_points():
        raise BackendUnavailableError(f"unknown backend {name}; installed: {', '.join(_entry_points())}")
    status = _status(name)
    # A backend that is named is never replaced by another one: results would be reported under the wrong name.
    if status.backend is None:
        raise BackendUnavailableError(f"backend {name} is not available: {status.problem}")
    if not status.backend.supports(device):
        raise BackendUnavailableError(f"backend {name} does not run on {device}")
    return status.backend


# Cached: reading the metadata of all installed packages takes time, and it does not change while a program runs.
@cache
def _entry_points() -> dict[str, metadata.EntryPoint]:
    return {entry.name: entry for entry in sorted(metadata.entry_points(group=GROUP), key=lambda entry: entry.name)}


@cache
def _names_by_priority() -> list[str]:
    """Names of the registered backends; one whose module cannot be imported counts as priority 0."""

    def priority(name: str) -> int:
        """Priority that the class declares; 0 if its module cannot be imported."""
        backend_class, _ = _backend_class(name)
        return getattr(backend_class, "priority", 0)

    return sorted(_entry_points(), key=lambda name: (-priority(name), name))


@cache
def _backend_class(name: str) -> tuple[Callable[[], Backend] | None, str | None]:
    """The registered class, or None and why its module cannot be imported."""
    return _try(_entry_points()[name].load)


# Cached, so that a backend is created once and its problem is the same in every message.
@cache
def _status(name: str) -> BackendStatus:
    backend_class, problem = _backend_class(name)
    if backend_class is None:
        return BackendStatus(name, None, problem)
    backend, problem = _try(backend_class)
    if backend is not None:
        _, problem = _try(backend.version)  # a library that loads only in part often fails here
    return BackendStatus(name, backend if problem is None else None, problem)


def _try(action: Callable[[], T]) -> tuple[T | None, str | None]:
    """Result of an action of third-party code, or None and the first line of the exception."""
    try:
        return action(), None
    except BackendUnavailableError as error:
        return None, str(error)
    except Exception as error:  # noqa: BLE001 - the import of a third-party package may raise anything
        # Import errors of compiled libraries may have many lines; `cifm backends` has one line per backend.
        lines = str(error).strip().splitlines() or [""]
        return None, f"{type(error).__name__}: {lines[0]}"
