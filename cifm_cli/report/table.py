"""A table of text, which `terminal.show_table` prints and `html.Section` holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Table:
    """Rows and columns of text."""

    columns: Sequence[str]  # column names. The first column is left-aligned, the others are right-aligned.
    rows: Sequence[Sequence[str]]  # one sequence of texts per row, each as long as `columns`
    best: Sequence[tuple[int, int]] = ()  # (row, column) positions that are highlighted
    caption: str = ""  # what a reader has to know besides the heading of the section; that heading by default
