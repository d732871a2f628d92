"""The marker typer: a mixture of cell types, started from marker genes, fitted once on a slide and then frozen.

Averages of standardised markers call a third of the T cells of a 377-gene slide T cells: a cell of 17 counts shows two
or three of its markers, and one stray count of a rare gene outweighs them. So every type is a profile over all genes
(markers ten times the slide's mean profile, the rest as the slide's mean), a cell is explained by the profile that makes
its genes likeliest (multinomial naive Bayes), and a few rounds of expectation and maximisation let a type's profile
learn the genes that come along with its markers. A type never learns the markers of another type, and the mean profile
stays in the race: cells that it explains best are `unassigned`.

Letters: N cells, G genes, T types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.special import logsumexp

from cifm_cli.celltype.base import UNASSIGNED, Annotation
from cifm_cli.celltype.markers import load_markers, measured
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.celltype.base import UnlabelledCells
    from cifm_cli.celltype.markers import Markers

BOOST: Final = 10.0  # a marker in a cell of its type, beside the slide's mean
PRIOR_SHARE: Final = 0.01  # weight of the starting profile, as a share of all expression of the slide
ROUNDS: Final = 5  # later rounds only move cells between types that look alike
CONFIDENT: Final = 0.5  # posterior probability from which a type is called; no runner-up can reach it
SMALLEST_SHARE: Final = 1e-5  # of the slide's expression; keeps the logarithm of an unseen gene finite
OPTION: Final = "--annotator markers:FILE.tsv"
PRIOR_CELLS: Final = 5.0  # cells that every type is thought to have before looking


@dataclass(frozen=True)
class MarkerTyper:
    """A fitted marker typer; see `fit_typer`.

    Args:
        names: T types, then `unassigned`.
        symbols: G gene symbols, upper case.
        log_ratios: (G, T + 1) log of each profile over the slide's mean profile; 0 for `unassigned`.
        log_shares: (T + 1,) log of the share of cells of each type.
        unit: Log-normalised expression that counts as one observation of a gene.
        left_out: Markers on the panel of each type that has too few.
    """

    names: tuple[str, ...]
    symbols: tuple[str, ...]
    log_ratios: NDArray[np.float64]
    log_shares: NDArray[np.float64]
    unit: float
    left_out: dict[str, int]

    def annotate(self, expression: csr_matrix, symbols: Sequence[str]) -> Annotation:
        """Name cells; see `Annotator`. Genes that were not fitted say nothing."""
        row = {symbol: position for position, symbol in enumerate(self.symbols)}
        rows = np.array([row.get(symbol.upper(), -1) for symbol in symbols], dtype=np.int64)
        ratios = np.where(rows[:, None] >= 0, self.log_ratios[rows], 0.0)
        log_posterior = _log_posterior(expression / self.unit, ratios, self.log_shares)
        posterior = np.exp(log_posterior)
        best = posterior.argmax(axis=1)
        confident = posterior[np.arange(len(best)), best]
        unassigned = len(self.names) - 1
        codes = np.where(confident > CONFIDENT, best, unassigned)
        scores = posterior[np.arange(len(best)), codes].astype(np.float32)
        return Annotation(self.names, codes, scores, log_posterior.astype(np.float32))


def open_markers(path: Path | None, cells: UnlabelledCells, *, trust_pickle: bool) -> MarkerTyper:
    """Fit the packaged table, and the user's on top of it, to a slide; see `OpenAnnotator`.

    Args:
        path: A TSV with the columns `cell_type` and `symbol`, or None.
        cells: What the profiles are learnt from.
        trust_pickle: Not needed here.

    Returns:
        The typer.

    Raises:
        CifmError: The table can't be read, or the panel marks fewer than two types.
    """
    markers = load_markers(path, OPTION)
    typer = fit_typer(cells.expression, cells.symbols, markers)
    if len(typer.names) < 3:
        raise CifmError(
            f"slide {cells.name}: its panel marks {len(typer.names) - 1} cell types, too few to tell them apart",
            f"add genes that mark types on this panel with {OPTION}",
        )
    return typer


def fit_typer(expression: csr_matrix, symbols: Sequence[str], markers: Markers) -> MarkerTyper:
    """Learn the profiles of the marked types from a slide.

    Args:
        expression: (N, G) log-normalised.
        symbols: G gene symbols.
        markers: Symbols by type, as `load_markers` gives them.

    Returns:
        The frozen typer.
    """
    kept, left_out = measured(markers, symbols)
    marks = [{gene.upper() for gene in genes} for genes in kept.values()]
    is_marker = np.zeros((len(symbols), len(kept)), dtype=bool)
    for row, symbol in enumerate(symbols):
        is_marker[row] = [symbol.upper() in genes for genes in marks]
    unit = float(expression.data.mean()) if expression.nnz else 1.0
    observed = expression.astype(np.float64) / unit
    mean = np.asarray(observed.sum(axis=0)).ravel()
    mean = mean + max(mean.sum(), 1.0) * SMALLEST_SHARE
    mean /= mean.sum()
    profiles, shares = _expect_and_maximise(observed, mean, is_marker)
    return MarkerTyper(
        names=(*kept, UNASSIGNED),
        symbols=tuple(symbol.upper() for symbol in symbols),
        log_ratios=np.log(profiles / mean[:, None]),
        log_shares=np.log(shares),
        unit=unit,
        left_out=left_out,
    )


def _expect_and_maximise(
    observed: csr_matrix, mean: NDArray[np.float64], is_marker: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit profiles and shares of cells.

    Args:
        observed: (N, G) observations of genes.
        mean: (G,) mean profile.
        is_marker: (G, T).

    Returns:
        (G, T + 1) profiles and (T + 1,) shares; the last profile is the mean's and never moves.
    """
    num_types = is_marker.shape[1]
    start = mean[:, None] * np.column_stack([np.where(is_marker, BOOST, 1.0), np.ones(len(mean))])
    start /= start.sum(axis=0)
    foreign = is_marker.any(axis=1, keepdims=True) & ~is_marker
    profiles, shares = start, np.full(num_types + 1, 1 / (num_types + 1))
    for _ in range(ROUNDS):
        posterior = np.exp(_log_posterior(observed, np.log(profiles / mean[:, None]), np.log(shares)))
        shares = posterior.sum(axis=0) + PRIOR_CELLS
        shares /= shares.sum()
        learnt = np.asarray(observed.T @ posterior) + PRIOR_SHARE * observed.sum() * start
        learnt /= learnt.sum(axis=0)
        learnt[:, :-1] = np.where(foreign, np.minimum(learnt[:, :-1], mean[:, None]), learnt[:, :-1])
        learnt[:, -1] = mean
        profiles = learnt / learnt.sum(axis=0)
    return profiles, shares


def _log_posterior(
    observed: csr_matrix, log_ratios: NDArray[np.float64], log_shares: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(N, T + 1) log probability of each type given a cell's genes."""
    logit = np.asarray(observed @ log_ratios) + log_shares
    result: NDArray[np.float64] = logit - logsumexp(logit, axis=1, keepdims=True)
    return result
