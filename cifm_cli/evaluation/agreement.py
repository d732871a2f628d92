"""Whether predicted and actual expression of a cell are given the same cell type (paper, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scipy.sparse import csr_matrix

from cifm_cli import keys
from cifm_cli.celltype.markers import load_markers
from cifm_cli.celltype.typer import fit_typer
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cifm_cli.celltype.base import Annotator
    from cifm_cli.data.slide import Rows
    from cifm_cli.evaluation.predictors import Bench

MARKERS = "markers"


def find_annotator(wanted: str, bench: Bench) -> Annotator:
    """Fit the annotator a user named on the training cells of a slide.

    Args:
        wanted: `markers`, or `markers:FILE.tsv` with the user's own table on top.
        bench: The slide and what is scored.

    Returns:
        The annotator.

    Raises:
        CifmError: There is no such annotator, its table can't be read, or the panel has too few markers.
    """
    name, _, path = wanted.partition(":")
    if name != MARKERS:
        raise CifmError(f"--annotator {wanted}: no such annotator", f"known: {MARKERS}, or {MARKERS}:FILE.tsv")
    expression = bench.slide.expression(bench.slide.region(keys.TRAIN), bench.target_sum)[:, bench.columns]
    typer = fit_typer(expression, bench.symbols, load_markers(Path(path) if path else None))
    if len(typer.names) < 3:
        raise CifmError(
            f"slide {bench.slide.name}: its panel marks {len(typer.names) - 1} cell types, too few to tell them apart",
            f"add genes that mark types on this panel with --annotator {MARKERS}:FILE.tsv",
        )
    return typer


@dataclass(frozen=True)
class Types:
    """The types of the scored cells, from their actual expression.

    Args:
        annotator: Who says so.
        symbols: P gene symbols.
        codes: (Q,) types.
        typed: (Q,) whether the cell has a type at all.
    """

    annotator: Annotator
    symbols: tuple[str, ...]
    codes: NDArray[np.int64]
    typed: NDArray[np.bool_]

    def agreement(self, mean: NDArray[np.float32]) -> float:
        """Share of the cells typed from their actual expression whose prediction is given the same type.

        Args:
            mean: (Q, P) log-normalised prediction.

        Returns:
            The share; a prediction that is left unassigned disagrees.
        """
        found = self.annotator.annotate(csr_matrix(mean[self.typed]), self.symbols)
        return float((found.codes == self.codes[self.typed]).mean()) if self.typed.any() else 0.0


def actual_types(annotator: Annotator, bench: Bench, rows: Rows) -> Types:
    """Type cells from their actual expression.

    Args:
        annotator: Who says so.
        bench: The slide and what is scored.
        rows: (Q,) scored rows.

    Returns:
        Their types.
    """
    expression = bench.slide.expression(rows, bench.target_sum)[:, bench.columns]
    codes = annotator.annotate(expression, bench.symbols).codes
    return Types(annotator, bench.symbols, codes, codes != len(annotator.names) - 1)
