"""Mutations after which another result is no fault: texts without checksum, and files whose checksum is forged or removed."""

from __future__ import annotations

from outcomes import Mutation

_MARKED: set[int] = set()
_KEPT: list[Mutation] = []  # keeps the functions, so that no identifier is used again


def may_differ(mutation: Mutation) -> Mutation:
    """Mark a mutation, whose command may give another result without a warning."""
    _MARKED.add(id(mutation))
    _KEPT.append(mutation)
    return mutation


def is_allowed(mutation: Mutation, outcome: str) -> bool:
    """Whether an outcome is that of another, valid input."""
    return outcome == "different result" and id(mutation) in _MARKED
