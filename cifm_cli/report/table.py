"""A table of text, which `terminal.show_table` prints and `html.Section` holds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


_BEGINS_WITH_NUMBER = re.compile(r"[\[(<+-]?\s*[\d-]").match


@dataclass(frozen=True)
class Table:
    """Rows and columns of text."""

    columns: Sequence[str]  # column names. The first column is left-aligned, the others are right-aligned.
    rows: Sequence[Sequence[str]]  # one sequence of texts per row, each as long as `columns`
    best: Sequence[tuple[int, int]] = ()  # (row, column) positions that are highlighted
    caption: str = ""  # what a reader has to know besides the heading of the section; that heading by default

    @property
    def text_columns(self) -> frozenset[int]:
        """Columns without a number, and those of values of all kinds, which pages align at the left."""
        columns = enumerate(zip(*self.rows, strict=True))
        without = {j for j, cells in columns if not any(_BEGINS_WITH_NUMBER(cell) for cell in cells)}
        return frozenset(without | {j for j, name in enumerate(self.columns) if name == "value"})
