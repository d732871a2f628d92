"""Tables of marker genes: the packaged one, and a user's table that extends it.

The packaged table lists well-known markers of the major human cell types. A user's TSV has the same two columns; a type
in it replaces the packaged type of that name.
"""

from __future__ import annotations

import difflib
import re
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cifm_cli.data.readers.text_records import read_records
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Markers = dict[str, tuple[str, ...]]
"""Gene symbols by cell type."""

COLUMNS: Final = ("cell_type", "symbol")
# Markers of a type that the panel must measure: the counts of a single gene are as often spillover from a neighbour.
MIN_MARKERS: Final = 2


def load_markers(extra: Path | None = None, option: str = "--markers FILE.tsv") -> Markers:
    """Read the packaged table, extended by a user's.

    Args:
        extra: A TSV with the columns `cell_type` and `symbol`, one marker a line.
        option: The command-line option for it, for the hint.

    Returns:
        Symbols by type, in the order of the tables.

    Raises:
        CifmError: The user's file is missing or is not such a table.
    """
    markers = _read_table(Path(str(resources.files("cifm_cli.celltype"))) / "markers.tsv")
    if extra is None:
        return markers
    try:
        user_markers = _read_table(extra)
    except CifmError as error:
        raise CifmError(f"marker table {error.message}", f"{error.hint}; name it with {option}") from error
    # A user who writes `T cells` means the packaged type `T cell`: both would otherwise compete for the same cells.
    replaced = {normalise_name(name) for name in user_markers}
    return {name: genes for name, genes in markers.items() if normalise_name(name) not in replaced} | user_markers


def _read_table(path: Path) -> Markers:
    # Dictionaries instead of sets, to keep the order of the file.
    markers: dict[str, dict[str, None]] = {}
    records = read_records(path)
    if not set(COLUMNS) <= set(records.columns):
        raise CifmError(
            f"{path}: no columns cell_type and symbol, but {', '.join(records.columns)}",
            "separate the columns by tabs and name them in the first line: cell_type, symbol",
        )
    for name, symbol in zip(*(records.column(column) for column in COLUMNS), strict=True):
        if name and symbol:
            markers.setdefault(name, {})[symbol] = None
    return {name: tuple(genes) for name, genes in markers.items()}


def measured_markers(markers: Markers, symbols: Iterable[str]) -> tuple[Markers, dict[str, int]]:
    """Restrict a table to the genes of a panel.

    Args:
        markers: Symbols by type.
        symbols: Gene symbols of the panel.

    Returns:
        The measured markers of each type that has at least two; and the number of measured markers of each other type.
    """
    panel = {symbol.upper() for symbol in symbols}
    measured = {name: tuple(gene for gene in genes if gene.upper() in panel) for name, genes in markers.items()}
    enough = {name: genes for name, genes in measured.items() if len(genes) >= MIN_MARKERS}
    return enough, {name: len(genes) for name, genes in measured.items() if len(genes) < MIN_MARKERS}


def normalise_name(name: str) -> str:
    """Remove case, spaces, punctuation and a plural s from a name: `T cells` becomes `tcell`."""
    return re.sub(r"[^a-z0-9]", "", name.lower()).removesuffix("s")


def find_type(typed: str, names: Sequence[str], left_out: Mapping[str, int]) -> str:
    """Find a cell type by name, ignoring case, spaces, punctuation and a plural s.

    Args:
        typed: The name as a user typed it, such as `tcell`.
        names: Types that can be recognised on this slide.
        left_out: Types that cannot, with the number of their markers on the panel.

    Returns:
        The type's name.

    Raises:
        CifmError: There is no such type, or the panel measures too few of its markers.
    """
    # Types of the slide come last, so that they replace a type that was left out under the same name.
    by_key = {normalise_name(name): name for name in (*left_out, *names)}
    name = by_key.get(normalise_name(typed))
    if name is None:
        near = difflib.get_close_matches(normalise_name(typed), by_key, n=1, cutoff=0.5)
        suggestion = f"did you mean {by_key[near[0]]}? " if near else ""
        raise CifmError(f"no cell type {typed!r}", f"{suggestion}known here: {', '.join(names)}")
    if name in left_out:
        raise CifmError(
            f"{name}: the slide measures {left_out[name]} of its markers, at least {MIN_MARKERS} are needed",
            "add genes that mark it on this panel with --markers FILE.tsv (columns cell_type and symbol)",
        )
    return name
