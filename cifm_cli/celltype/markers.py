"""Marker tables: the packaged one, the user's on top of it, and finding a type by the name a user types.

The packaged table lists what is generally known of the major human cell types, in the words of histology. A user's TSV
has the same two columns; a type in it replaces the packaged type of that name.
"""

from __future__ import annotations

import csv
import difflib
import re
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Markers = dict[str, tuple[str, ...]]
"""Gene symbols by cell type."""

COLUMNS: Final = ("cell_type", "symbol")
FEWEST: Final = 2  # markers on the panel; one gene alone is as often spillover from a neighbour as a type


def load_markers(extra: Path | None = None, option: str = "--markers FILE.tsv") -> Markers:
    """Read the packaged table, and the user's on top of it.

    Args:
        extra: A TSV with the columns `cell_type` and `symbol`, one marker a line.
        option: How the user names it, for the hint.

    Returns:
        Symbols by type, in the order of the tables.

    Raises:
        CifmError: The user's file is missing or is not such a table.
    """
    markers = _read(Path(str(resources.files("cifm_cli.celltype"))) / "markers.tsv")
    if extra is None:
        return markers
    try:
        own = _read(extra)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CifmError(f"{extra}: not a readable marker table ({error})", f"name a TSV file: {option}") from error
    replaced = {name_key(name) for name in own}
    return {name: genes for name, genes in markers.items() if name_key(name) not in replaced} | own


def _read(path: Path) -> Markers:
    markers: dict[str, dict[str, None]] = {}
    with path.open(encoding="utf8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        if not set(COLUMNS) <= set(rows.fieldnames or ()):
            raise CifmError(
                f"{path}: no columns cell_type and symbol, but {', '.join(rows.fieldnames or ('nothing',))}",
                "separate the columns by tabs and name them in the first line: cell_type, symbol",
            )
        for row in rows:
            name, symbol = (row[column] or "" for column in COLUMNS)
            if name.strip() and symbol.strip():
                markers.setdefault(name.strip(), {})[symbol.strip()] = None
    return {name: tuple(genes) for name, genes in markers.items()}


def measured(markers: Markers, symbols: Iterable[str]) -> tuple[Markers, dict[str, int]]:
    """Keep what a panel measures.

    Args:
        markers: Symbols by type.
        symbols: Gene symbols of the panel.

    Returns:
        Types with at least two markers on the panel, with those markers; and the number of markers on the panel of
        every type left out.
    """
    panel = {symbol.upper() for symbol in symbols}
    found = {name: tuple(gene for gene in genes if gene.upper() in panel) for name, genes in markers.items()}
    kept = {name: genes for name, genes in found.items() if len(genes) >= FEWEST}
    return kept, {name: len(genes) for name, genes in found.items() if len(genes) < FEWEST}


def name_key(name: str) -> str:
    """What is left of a name when case, spaces, punctuation and a plural s don't count: `T cells` is `tcell`."""
    return re.sub(r"[^a-z0-9]", "", name.lower()).removesuffix("s")


def find_type(wanted: str, names: Sequence[str], left_out: Mapping[str, int]) -> str:
    """Find the cell type a user means.

    Args:
        wanted: What was typed, such as `tcell`.
        names: Types that can be told on this slide.
        left_out: Types that cannot, with the number of their markers on the panel.

    Returns:
        The type's name.

    Raises:
        CifmError: There is no such type, or the panel measures too few of its markers.
    """
    by_key = {name_key(name): name for name in (*left_out, *names)}
    found = by_key.get(name_key(wanted))
    if found is None:
        near = difflib.get_close_matches(name_key(wanted), by_key, n=1, cutoff=0.5)
        nearest = f"did you mean {by_key[near[0]]}? " if near else ""
        raise CifmError(f"no cell type {wanted!r}", f"{nearest}known here: {', '.join(names)}")
    if found in left_out:
        raise CifmError(
            f"{found}: the slide measures {left_out[found]} of its markers, at least {FEWEST} are needed to tell it",
            "add genes that mark it on this panel with --markers FILE.tsv (columns cell_type and symbol)",
        )
    return found
