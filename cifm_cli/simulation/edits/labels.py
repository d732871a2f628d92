"""The labels by which edits name cells: types of the annotator, or a column of the slide's `obs`.

Letters: N cells.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cifm_cli.celltype.base import UNASSIGNED
from cifm_cli.celltype.markers import find_type, normalise_name
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from cifm_cli.celltype.base import Annotation
    from cifm_cli.data.slide import Rows

_MAX_LISTED = 30  # labels in a hint


class CellLabels(Protocol):
    """Labels of N cells."""

    def find(self, typed: str) -> str:
        """Find a label by name; raises a `CifmError` with the nearest names if there is none."""
        ...

    def rows(self, label: str) -> Rows:
        """Ascending rows of the cells of a label that `find` returned."""
        ...


@dataclass(frozen=True)
class AnnotatorLabels:
    """Labels that an annotator assigned."""

    annotation: Annotation  # of the N cells
    left_out: Mapping[str, int]  # types that the annotator cannot recognise, with their number of markers on the panel

    def find(self, typed: str) -> str:
        """Find a type by name, ignoring case, spaces, punctuation and a plural s.

        Raises:
            CifmError: There is no such type, or the panel measures too few of its markers.
        """
        if typed.strip().lower() == UNASSIGNED:
            return UNASSIGNED
        return find_type(typed, self.annotation.names[:-1], self.left_out)

    def rows(self, label: str) -> Rows:
        """Ascending rows of the cells of a type, and of the types below it in the taxonomy."""
        return self.annotation.of_type(label)


@dataclass(frozen=True)
class ColumnLabels:
    """Labels of a column of `obs`."""

    column: str  # its name
    labels: NDArray[np.object_]  # (N,) text; None for a cell without a label

    def find(self, typed: str) -> str:
        """Find a label, as it is written or ignoring case, spaces, punctuation and a plural s.

        Raises:
            CifmError: The column has no such label.
        """
        names = sorted({label for label in self.labels if label is not None})
        return find_name(typed, names, f"obs column {self.column}: no label")

    def rows(self, label: str) -> Rows:
        """Ascending rows of the cells of a label."""
        return np.flatnonzero(self.labels == label)

    def take(self, rows: Rows) -> ColumnLabels:
        """The labels of some of the cells."""
        return ColumnLabels(self.column, self.labels[rows])


def find_name(typed: str, names: Sequence[str], problem: str) -> str:
    """Find a name, as it is written or ignoring case, spaces, punctuation and a plural s.

    Args:
        typed: The name as a user typed it.
        names: The names that exist.
        problem: Start of the error message.

    Returns:
        The name.

    Raises:
        CifmError: There is no such name; the hint suggests the nearest.
    """
    if typed in names:
        return typed
    by_key = {normalise_name(name): name for name in reversed(names)}
    if found := by_key.get(normalise_name(typed)):
        return found
    near = difflib.get_close_matches(normalise_name(typed), by_key, n=1, cutoff=0.5)
    suggestion = f"did you mean {by_key[near[0]]}? " if near else ""
    more = f" and {len(names) - _MAX_LISTED:,} others" if len(names) > _MAX_LISTED else ""
    raise CifmError(f"{problem} {typed!r}", f"{suggestion}known here: {', '.join(names[:_MAX_LISTED])}{more}")


def find_gene(typed: str, symbols: Sequence[str], gene_ids: Sequence[str]) -> int:
    """Find a gene by symbol, ignoring case, or by Ensembl id.

    Args:
        typed: The gene as a user typed it.
        symbols: P symbols.
        gene_ids: P Ensembl ids without version.

    Returns:
        Its position.

    Raises:
        CifmError: There is no such gene; the hint suggests the nearest symbols.
    """
    names = [*map(str.upper, symbols), *map(str.upper, gene_ids)]
    key = typed.strip().upper()
    key = key.split(".")[0] if key.startswith("ENS") else key
    if key in names:
        return names.index(key) % len(symbols)
    near = difflib.get_close_matches(key, [symbol.upper() for symbol in symbols], n=3, cutoff=0.5)
    found = [symbols[names.index(name)] for name in near]
    hint = f"did you mean {', '.join(found)}?" if found else f"genes here: {', '.join(sorted(symbols)[:_MAX_LISTED])}"
    raise CifmError(f"no gene {typed!r} among the {len(symbols):,} genes that slide and model share", hint)
