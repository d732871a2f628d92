"""Alignment of a slide's panel with the genes of an annotator.

Letters: N cells, n cells of a block, P genes of the slide, G genes of the annotator, T types.
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

MIN_OVERLAP: Final = 0.25  # fraction of the annotator's genes that a slide must measure
BLOCK_VALUES: Final = 20_000_000  # values (cells times genes) of a dense block: 80 MB


def match_genes(genes: Sequence[str], symbols: Sequence[str]) -> NDArray[np.int64]:
    """Find the genes of an annotator on a panel by symbol, ignoring case.

    Args:
        genes: G symbols of the annotator.
        symbols: P symbols of the panel; of repeated symbols the first counts.

    Returns:
        (G,) columns of the panel; -1 for genes that it lacks.
    """
    # Reversed, so that the first of several columns with one symbol is used.
    column = {symbol.upper(): position for position, symbol in reversed(list(enumerate(symbols)))}
    return np.array([column.get(gene.upper(), -1) for gene in genes], dtype=np.int64)


def require_overlap(annotator: str, genes: Sequence[str], cells: UnlabelledCells) -> None:
    """Check that a slide measures enough of an annotator's genes.

    Args:
        annotator: The annotator, as the user named it.
        genes: G symbols of the annotator.
        cells: Cells of the slide.

    Raises:
        CifmError: The slide measures less than a quarter of the genes.
    """
    num_measured = int((match_genes(genes, cells.symbols) >= 0).sum())
    if num_measured < MIN_OVERLAP * len(genes):
        raise CifmError(
            f"slide {cells.name}: its panel measures {num_measured:,} of the {len(genes):,} genes of {annotator} "
            f"({num_measured / len(genes):.0%}), at least {MIN_OVERLAP:.0%} are needed",
            "train one for the genes of this slide: cifm annotate train LABELLED.h5ad --label COLUMN --for SLIDE",
        )


def score_cells(
    score: Score, genes: Sequence[str], expression: csr_matrix, symbols: Sequence[str], *, renormalise: bool
) -> tuple[NDArray[np.floating[Any]], Booleans]:
    """Apply a scoring function to all cells, block by block.

    Args:
        score: Takes the (n, G) expression of a block and the (G,) mask of measured genes, returns (n, T) scores.
        genes: G symbols of the annotator.
        expression: (N, P) log-normalised to 10,000.
        symbols: P symbols of the panel.
        renormalise: See `aligned_blocks`.

    Returns:
        (N, T) scores; and (N,) a mask of void cells, which express none of the genes.
    """
    columns = match_genes(genes, symbols)
    blocks = aligned_blocks(expression, columns, renormalise=renormalise)
    scored_blocks = [(score(block, columns >= 0), ~block.any(axis=1)) for _, block in blocks]
    scores, is_void = (np.concatenate(arrays) for arrays in zip(*scored_blocks, strict=True))
    return scores, is_void


def aligned_blocks(
    expression: csr_matrix, columns: NDArray[np.int64], *, renormalise: bool
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Iterate over blocks of cells as dense arrays in the annotator's order of genes.

    Args:
        expression: (N, P) log-normalised to 10,000.
        columns: (G,) from `match_genes`.
        renormalise: Whether to scale the shared genes to a sum of 10,000, as for models that select their genes before
            they normalise.

    Yields:
        The slice of cells, and their (n, G) expression, zero for genes that the panel lacks.
    """
    measured = np.flatnonzero(columns >= 0)
    # Sparse until here: only a block at a time is made dense.
    shared = expression[:, columns[measured]]
    block_cells = max(1, BLOCK_VALUES // max(len(columns), 1))
    for first in range(0, expression.shape[0], block_cells):
        values = shared[first : first + block_cells].toarray().astype(np.float32)
        if renormalise:
            # Undo log1p and the factor of the slide's depth; any common factor of a cell cancels.
            linear = np.expm1(values)
            total = linear.sum(axis=1, keepdims=True)
            values = np.log1p(linear * (TYPING_SUM / np.where(total > 0, total, 1.0)))
        block = np.zeros((len(values), len(columns)), dtype=np.float32)
        block[:, measured] = values
        yield slice(first, first + len(values)), block
