"""Counts of a synthetic tissue: a panel of genes with known effects, and any number of further genes.

Counts are generated in blocks of cells, so that N x G is never dense. Letters: N cells, T types, G genes, n cells of a
block.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, hstack

from cifm_cli.data.prepare.gene_symbols import packaged_symbols
from cifm_cli.provenance import numpy_generator
from cifm_cli.synthetic.tissue import EFFECTS, MARKERS, MITOCHONDRIAL, TYPES, UBIQUITOUS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from cifm_cli.synthetic.tissue import Tissue

_BLOCK = 4096
_MEDIAN_COUNTS = 58.0  # median sum over the panel
_FURTHER_COUNTS = 0.07  # mean of each further gene; of 5,000, a cell expresses about 300
_PROGRAMME_FRACTION, _PROGRAMME_FOLD = 0.25, 6.0  # fraction of further genes that one type expresses more
# Genes with low Ensembl numbers and plain symbols: 99 % are protein-coding, which the table does not state.
_LAST_ID, _PLAIN_SYMBOL = "ENSG00000150000", "[A-Z][A-Z0-9]{2,}"


def panel() -> pd.DataFrame:
    """The genes of the panel, columns symbol and id; the best markers of all types come first."""
    with resources.files(__package__).joinpath("genes.csv").open(encoding="utf8") as file:
        return pd.read_csv(file)


def choose_genes(num_genes: int | None) -> pd.DataFrame:
    """Choose the first genes of the panel, or the panel and further real genes.

    Args:
        num_genes: Number of genes, at most about 9,000; None for the whole panel.

    Returns:
        Columns symbol and id, the same for every seed.
    """
    genes = panel()
    if num_genes is None or num_genes <= len(genes):
        return genes[:num_genes]
    table = packaged_symbols()
    table = table[table["id"].between("ENSG0", _LAST_ID)]
    table = table[table["symbol"].str.fullmatch(_PLAIN_SYMBOL) & ~table["id"].isin(genes["id"])]
    table = table[~table["symbol"].isin(genes["symbol"])]
    # Genes with an ambiguous symbol would be dropped by `cifm prepare` in layouts without ids.
    unambiguous = table[~table["symbol"].duplicated(keep=False) & ~table["id"].duplicated(keep=False)].sort_values("id")
    # A fixed seed: the panel must be the same in all downloads.
    drawn = numpy_generator(0, "genes").permutation(len(unambiguous))[: num_genes - len(genes)]
    return pd.concat([genes, unambiguous.iloc[drawn]], ignore_index=True)[["symbol", "id"]]


def draw_counts(tissue: Tissue, genes: pd.DataFrame, seed: int) -> Iterator[csr_matrix]:
    """Draw the counts of all cells. Counts of the panel do not depend on the number of further genes.

    Args:
        tissue: N cells.
        genes: Return value of `choose_genes`.
        seed: Seed; the same seed gives the same counts.

    Yields:
        (n, G) int32 counts of consecutive cells.
    """
    symbols = list(genes["symbol"][: len(panel())])
    profiles = _profiles(symbols, numpy_generator(seed, "profiles"))
    further = _further_profiles(len(genes) - len(symbols), numpy_generator(seed, "further profiles"))
    for start in range(0, len(tissue.xy_um), _BLOCK):
        rows = slice(start, start + _BLOCK)
        kinds, alive = tissue.cell_type[rows], ~tissue.void[rows]
        generator = numpy_generator(seed, "counts", start)
        # Total counts of real cells are about log-normally distributed.
        depth = generator.lognormal(sigma=0.45, size=(len(kinds), 1))
        rates = profiles[kinds] * (_MEDIAN_COUNTS * depth)
        _apply_effects(rates, kinds, tissue.senders[rows], symbols)
        # Gamma-Poisson counts vary more between cells than Poisson counts, as real counts do.
        rates *= generator.gamma(5.0, 0.2, size=rates.shape) * alive[:, None]
        counts = csr_matrix(generator.poisson(rates).astype(np.int32))
        # From a generator of their own, so that the counts of the panel do not depend on them.
        if further.shape[1]:
            drawn = _draw_further(kinds, depth.ravel() * alive, further, numpy_generator(seed, "further", start))
            counts = csr_matrix(hstack([counts, drawn]))
        yield counts


def _profiles(symbols: list[str], generator: np.random.Generator) -> NDArray[np.float64]:
    """(T, G) expected fraction of each gene of the panel in the counts of each type."""
    weights = 0.02 * generator.lognormal(sigma=0.5, size=len(symbols)) * np.ones((len(TYPES), 1))
    weights[:, [symbol in UBIQUITOUS.split() for symbol in symbols]] *= 12.0
    weights[:, [symbol in MITOCHONDRIAL.split() for symbol in symbols]] *= 60.0
    for row, kind in enumerate(TYPES):
        marked = [symbol in MARKERS[kind].split() for symbol in symbols]
        weights[row, marked] += generator.lognormal(mean=0.0, sigma=0.6, size=sum(marked))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _further_profiles(num_genes: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """(T, num_genes) expected fraction of each further gene; some belong to the programme of one type."""
    weights = generator.lognormal(sigma=1.0, size=num_genes) * np.ones((len(TYPES), 1))
    # Numbers beyond the types stand for genes without a programme.
    programme = generator.integers(0, int(len(TYPES) / _PROGRAMME_FRACTION), size=num_genes)
    weights[programme == np.arange(len(TYPES))[:, None]] *= _PROGRAMME_FOLD
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _apply_effects(
    rates: NDArray[np.float64], kinds: NDArray[np.int64], senders: NDArray[np.float32], symbols: list[str]
) -> None:
    """Increase the rates of genes that respond to neighbours, in place; the increase saturates with the number of senders."""
    for effect in EFFECTS:
        if effect.gene in symbols:
            received = np.where(kinds == TYPES.index(effect.receiver), senders[:, TYPES.index(effect.sender)], 0.0)
            rates[:, symbols.index(effect.gene)] *= 1.0 + (effect.fold - 1.0) * -np.expm1(-received / 2.0)


def _draw_further(
    kinds: NDArray[np.int64],
    depth: NDArray[np.float64],
    profiles: NDArray[np.float64],
    generator: np.random.Generator,
) -> csr_matrix:
    """(n, num_genes) counts, drawn molecule by molecule, as most genes have no counts in most cells."""
    num_genes = profiles.shape[1]
    molecules = generator.poisson(_FURTHER_COUNTS * num_genes * depth)
    cells = np.repeat(np.arange(len(kinds)), molecules)
    # By inversion of the cumulative distribution: one search per molecule.
    genes = np.empty(len(cells), dtype=np.int64)
    for kind, fractions in enumerate(profiles):
        chosen = kinds[cells] == kind
        cumulative = np.cumsum(fractions)
        genes[chosen] = np.searchsorted(cumulative / cumulative[-1], generator.random(int(chosen.sum())), side="right")
    return csr_matrix((np.ones(len(cells), dtype=np.int32), (cells, genes)), shape=(len(kinds), num_genes))
