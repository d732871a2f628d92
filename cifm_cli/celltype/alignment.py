"""From the genes of a slide to the genes of an annotator: matching, refusing too few, and scoring cells in its order.

Letters: N cells, n of a block, P genes of the slide, G genes of the annotator, T types.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli.celltype.base import TYPING_SUM
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.celltype.base import UnlabelledCells

    Floats = NDArray[np.float32]
    Booleans = NDArray[np.bool_]
    Score = Callable[[Floats, Booleans], NDArray[np.floating[Any]]]

SMALLEST_OVERLAP: Final = 0.25  # of the annotator's genes that a slide must measure
BLOCK_VALUES: Final = 20_000_000  # cells times genes made dense at once: 80 MB


def match_genes(genes: Sequence[str], symbols: Sequence[str]) -> NDArray[np.int64]:
    """Find the genes of an annotator on a panel, by symbol, whatever the case.

    Args:
        genes: G symbols that the annotator knows.
        symbols: P symbols of the panel.

    Returns:
        (G,) columns of the panel; -1 where it lacks the gene.
    """
    column = {symbol.upper(): position for position, symbol in reversed(list(enumerate(symbols)))}
    return np.array([column.get(gene.upper(), -1) for gene in genes], dtype=np.int64)


def require_overlap(who: str, genes: Sequence[str], cells: UnlabelledCells) -> None:
    """Refuse a slide that lacks too many of an annotator's genes.

    Args:
        who: The annotator, as the user named it.
        genes: G symbols that it knows.
        cells: Of the slide.

    Raises:
        CifmError: The slide measures less than a quarter of them.
    """
    num_found = int((match_genes(genes, cells.symbols) >= 0).sum())
    if num_found < SMALLEST_OVERLAP * len(genes):
        raise CifmError(
            f"slide {cells.name}: its panel measures {num_found:,} of the {len(genes):,} genes of {who} "
            f"({num_found / len(genes):.0%}), at least {SMALLEST_OVERLAP:.0%} are needed",
            "train one for the genes of this slide: cifm annotate train LABELLED.h5ad --label COLUMN --for SLIDE",
        )


def score_cells(
    score: Score, genes: Sequence[str], expression: csr_matrix, symbols: Sequence[str], *, renormalise: bool
) -> tuple[NDArray[np.floating[Any]], Booleans]:
    """Score all cells for every type, some cells at a time.

    Args:
        score: From a block's (n, G) expression, and which (G,) genes the panel measures, to (n, T) scores.
        genes: G symbols that the annotator knows.
        expression: (N, P) log-normalised to 10,000.
        symbols: P symbols of the panel.
        renormalise: See `aligned_blocks`.

    Returns:
        (N, T) scores; and (N,) void cells, which express none of the genes.
    """
    columns = match_genes(genes, symbols)
    blocks = aligned_blocks(expression, columns, renormalise=renormalise)
    parts = [(score(block, columns >= 0), ~block.any(axis=1)) for _, block in blocks]
    scores, is_void = (np.concatenate(part) for part in zip(*parts, strict=True))
    return scores, is_void


def aligned_blocks(
    expression: csr_matrix, columns: NDArray[np.int64], *, renormalise: bool
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Go through cells in the annotator's order of genes, densely, some at a time.

    Args:
        expression: (N, P) log-normalised to 10,000.
        columns: (G,) from `match_genes`.
        renormalise: Whether the shared genes shall sum to 10,000, as for models that cut before they normalise.

    Yields:
        Rows, and their (n, G) expression, zero where the panel lacks the gene.
    """
    there = np.flatnonzero(columns >= 0)
    shared = expression[:, columns[there]]
    size = max(1, BLOCK_VALUES // max(len(columns), 1))
    for first in range(0, expression.shape[0], size):
        part = shared[first : first + size].toarray().astype(np.float32)
        if renormalise:
            linear = np.expm1(part)
            total = linear.sum(axis=1, keepdims=True)
            part = np.log1p(linear * (TYPING_SUM / np.where(total > 0, total, 1.0)))
        block = np.zeros((len(part), len(columns)), dtype=np.float32)
        block[:, there] = part
        yield slice(first, first + len(part)), block
