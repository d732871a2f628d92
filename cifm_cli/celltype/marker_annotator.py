"""The `markers` annotator: a mixture of cell types that is initialised from marker genes and fitted to a slide.

Average marker expression is too noisy for targeted panels: a cell with 17 counts shows two or three of its markers,
and one stray count of a rare gene outweighs them. Instead, every type has a profile over all genes, initialised to ten
times the slide's mean profile at its markers and to the mean profile elsewhere. A cell has the type whose profile gives
its counts the highest likelihood (multinomial naive Bayes), and a few rounds of expectation-maximisation adapt the
profiles to genes that are co-expressed with the markers. The markers of other types are excluded from this adaptation.
The mean profile takes part as one more component: cells that it explains best are `unassigned`.

Letters: N cells, G genes, T types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.special import logsumexp

from cifm_cli.celltype.base import UNASSIGNED, Annotation
from cifm_cli.celltype.markers import load_markers, measured_markers
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.celltype.base import UnlabelledCells
    from cifm_cli.celltype.markers import Markers

    Numbers = NDArray[np.float64]

MARKER_RATIO: Final = 10.0  # initial expression of a marker in its type, relative to the slide's mean
PRIOR_WEIGHT: Final = 0.01  # pseudo-counts of the initial profile, as a fraction of all expression of the slide
NUM_ROUNDS: Final = 5  # later rounds only move cells between similar types
THRESHOLD: Final = 0.5  # posterior probability from which a type is called; at most one type can exceed it
MIN_FREQUENCY: Final = 1e-5  # added to the mean profile, so that the logarithm of an unseen gene is finite
PRIOR_CELLS: Final = 5.0  # pseudo-count of cells of every type
OPTION: Final = "--annotator markers:FILE.tsv"


@dataclass(frozen=True)
class MarkerAnnotator:
    """A fitted marker annotator; see `fit_marker_annotator`."""

    names: tuple[str, ...]  # T types, then `unassigned`
    symbols: tuple[str, ...]  # G gene symbols, upper case
    log_ratios: Numbers  # (G, T + 1) log of each profile over the slide's mean profile; 0 for `unassigned`
    log_fractions: Numbers  # (T + 1,) log of the fraction of cells of each type
    unit: float  # log-normalised expression that counts as one observation of a gene
    left_out: dict[str, int]  # number of markers on the panel of each type that has too few

    def annotate(self, expression: csr_matrix, symbols: Sequence[str]) -> Annotation:
        """Assign types to cells; see `Annotator`. Genes that were not fitted are ignored."""
        row = {symbol: position for position, symbol in enumerate(self.symbols)}
        rows = np.array([row.get(symbol.upper(), -1) for symbol in symbols], dtype=np.int64)
        ratios = np.where(rows[:, None] >= 0, self.log_ratios[rows], 0.0)
        log_posterior = _log_posterior(expression / self.unit, ratios, self.log_fractions)
        posterior = np.exp(log_posterior)
        cells, likeliest = np.arange(len(posterior)), posterior.argmax(axis=1)
        codes = np.where(posterior[cells, likeliest] > THRESHOLD, likeliest, len(self.names) - 1)
        scores = posterior[cells, codes].astype(np.float32)
        return Annotation(self.names, codes, scores, log_posterior.astype(np.float32))


def open_markers(path: Path | None, cells: UnlabelledCells, *, trust_pickle: bool) -> MarkerAnnotator:
    """Fit the packaged markers, extended by a user's table, to a slide; see `OpenAnnotator`.

    Args:
        path: A TSV with the columns `cell_type` and `symbol`, or None.
        cells: Cells of the slide.
        trust_pickle: Unused, because a table is no pickle.

    Returns:
        The annotator.

    Raises:
        CifmError: The table cannot be read, or the panel has markers of fewer than two types.
    """
    del trust_pickle
    markers = load_markers(path, OPTION)
    annotator = fit_marker_annotator(cells.expression, cells.symbols, markers)
    # Two types and `unassigned`.
    if len(annotator.names) < 3:
        raise CifmError(
            f"slide {cells.name}: its panel marks {len(annotator.names) - 1} cell types, two are needed",
            f"add genes that mark types on this panel with {OPTION}",
        )
    return annotator


def fit_marker_annotator(expression: csr_matrix, symbols: Sequence[str], markers: Markers) -> MarkerAnnotator:
    """Fit the profiles of the types to the cells of a slide.

    Args:
        expression: (N, G) log-normalised.
        symbols: G gene symbols.
        markers: Symbols by type, from `load_markers`.

    Returns:
        The fitted annotator.
    """
    measured, left_out = measured_markers(markers, symbols)
    upper_case = [{gene.upper() for gene in genes} for genes in measured.values()]
    is_marker = np.zeros((len(symbols), len(measured)), dtype=bool)
    for row, symbol in enumerate(symbols):
        is_marker[row] = [symbol.upper() in genes for genes in upper_case]
    # The likelihood needs counts: in units of the mean non-zero expression, a typical entry is one observation.
    unit = float(expression.data.mean()) if expression.nnz else 1.0
    observed = expression.astype(np.float64) / unit
    mean = np.asarray(observed.sum(axis=0)).ravel()
    mean = mean + max(mean.sum(), 1.0) * MIN_FREQUENCY
    mean /= mean.sum()
    profiles, fractions = _fit_mixture(observed, mean, is_marker)
    return MarkerAnnotator(
        names=(*measured, UNASSIGNED),
        symbols=tuple(symbol.upper() for symbol in symbols),
        log_ratios=np.log(profiles / mean[:, None]),
        log_fractions=np.log(fractions),
        unit=unit,
        left_out=left_out,
    )


def _fit_mixture(observed: csr_matrix, mean: Numbers, is_marker: NDArray[np.bool_]) -> tuple[Numbers, Numbers]:
    """Fit the mixture by expectation-maximisation.

    Args:
        observed: (N, G) observations of genes.
        mean: (G,) mean profile.
        is_marker: (G, T).

    Returns:
        (G, T + 1) profiles and (T + 1,) fractions of the cells; the last profile stays the mean profile.
    """
    num_types = is_marker.shape[1]
    start = mean[:, None] * np.column_stack([np.where(is_marker, MARKER_RATIO, 1.0), np.ones(len(mean))])
    start /= start.sum(axis=0)
    # A profile that took up the markers of another type would turn into that type.
    is_foreign = is_marker.any(axis=1, keepdims=True) & ~is_marker
    profiles, fractions = start, np.full(num_types + 1, 1 / (num_types + 1))
    for _ in range(NUM_ROUNDS):
        posterior = np.exp(_log_posterior(observed, np.log(profiles / mean[:, None]), np.log(fractions)))
        # The prior keeps a type with no cells from a fraction of zero, from which it could not recover.
        fractions = posterior.sum(axis=0) + PRIOR_CELLS
        fractions /= fractions.sum()
        # The prior keeps the profile of a rare type near its markers.
        updated = np.asarray(observed.T @ posterior) + PRIOR_WEIGHT * observed.sum() * start
        updated /= updated.sum(axis=0)
        updated[:, :-1] = np.where(is_foreign, np.minimum(updated[:, :-1], mean[:, None]), updated[:, :-1])
        updated[:, -1] = mean
        profiles = updated / updated.sum(axis=0)
    return profiles, fractions


def _log_posterior(observed: csr_matrix, log_ratios: Numbers, log_fractions: Numbers) -> Numbers:
    """(N, T + 1) log probability of each type given the observations of a cell."""
    # Ratios to the mean profile instead of the profiles: the mean's own likelihood is common to all types and cancels.
    logits = np.asarray(observed @ log_ratios) + log_fractions
    log_posterior: Numbers = logits - logsumexp(logits, axis=1, keepdims=True)
    return log_posterior
