"""An annotator that knows one type by one gene."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.celltype.base import UNASSIGNED, Annotation
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from scipy.sparse import csr_matrix

    from cifm_cli.celltype.base import UnlabelledCells


class OneGene:
    """Cells that express a gene are of one type."""

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self.names = (f"{symbol}+ cell", UNASSIGNED)  # the last is always unassigned

    def annotate(self, expression: csr_matrix, symbols: Sequence[str]) -> Annotation:
        """Assign types to (N, G) log-normalised expression of G genes."""
        shown = expression[:, [symbols.index(self.symbol)]].toarray()[:, 0] > 0
        return Annotation(self.names, np.where(shown, 0, 1), np.ones(len(shown), np.float32))


def open_one_gene(path: Path | None, cells: UnlabelledCells, *, trust_pickle: bool) -> OneGene:
    """Open `onegene:SYMBOL`: the text after the colon arrives as a path.

    Raises:
        CifmError: No gene was named, or the slide does not measure it. It is shown as an error and a hint.
    """
    del trust_pickle  # nothing is unpickled
    if path is None or path.name not in cells.symbols:
        raise CifmError(
            f"--annotator onegene: {path or 'no gene'} is not measured on {cells.name}",
            f"name one of its genes: --annotator onegene:{cells.symbols[0]}",
        )
    return OneGene(path.name)
