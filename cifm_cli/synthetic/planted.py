"""Planted tissues: slides in memory in which one cell type changes known genes of another one within a known distance.

Layers of epithelium and stroma; T cells and other cells lie in both. Symbols of marker genes are real, so that annotators
work; fractions, rules and fold changes are invented. Letters: N cells, T types, G genes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from cifm_cli.data.counts_source import MemoryCounts, row_sums
from cifm_cli.data.slide import Slide
from cifm_cli.provenance import numpy_generator
from cifm_cli.synthetic.expression import choose_genes, panel
from cifm_cli.synthetic.tissue import MARKERS, UBIQUITOUS, place_cells_on_lattice, smooth_field

if TYPE_CHECKING:
    from numpy.typing import NDArray

Rule = Literal["rule", "none", "confounded"]
"""What changes the planted genes: a cell of the sender nearby, nothing, or stroma, near which the senders lie."""

RULES: Final[tuple[Rule, ...]] = ("rule", "none", "confounded")
# Type in the planted tissue, and the type of `tissue.MARKERS` whose markers it expresses
TYPES: Final = {
    "epithelial cell": "tumour",
    "fibroblast": "fibroblast",
    "T cell": "t_cell",
    "macrophage": "macrophage",
    "endothelial cell": "endothelial",
    "B cell": "b_cell",
}
STROMA: Final = "fibroblast"
_NAMES: Final = tuple(TYPES)
_LAYERS: Final = {  # fractions of the types without the sender
    "epithelium": {"epithelial cell": 0.93, "macrophage": 0.04, "endothelial cell": 0.03},
    "stroma": {"fibroblast": 0.62, "macrophage": 0.16, "endothelial cell": 0.14, "B cell": 0.08},
}
_LAYER_SCALE_UM: Final = 70.0
_MARKER_FOLD: Final = 25.0  # expression of a marker in its type, relative to other types
_CONFOUNDED_DECAY_UM: Final = 15.0  # how far from stroma the senders of a confounded tissue lie
_GAMMA_SHAPE: Final = 5.0  # of the extra variance of counts between cells
_DEPTH_SIGMA: Final = 0.4  # standard deviation of the logarithm of the depth


@dataclass(frozen=True)
class PlantedRule:
    """What is planted."""

    rule: Rule = "rule"
    sender: str = "T cell"  # type near which genes change, if the rule says so
    receiver: str = "epithelial cell"  # type whose genes change
    range_um: float = 30.0  # distance within which a sender (or, if confounded, stroma) changes the genes
    fold: float = 3.0  # factor of the raised genes; the lowered genes are divided by it
    num_raised: int = 15
    num_lowered: int = 15
    sender_share: float = 0.04  # senders among all cells
    depth: float = 150.0  # median sum of counts of a cell
    num_genes: int = 300


@dataclass(frozen=True)
class PlantedTissue:
    """A slide with its truth."""

    slide: Slide
    labels: NDArray[np.str_]  # (N,) types of the cells
    rule: PlantedRule
    raised: tuple[str, ...]  # symbols of the genes that the receivers express more
    lowered: tuple[str, ...]  # and less
    affected: NDArray[np.bool_]  # (N,) receivers whose genes are changed

    def log2_change(self) -> NDArray[np.float64]:
        """(G,) true log2 change of the genes of a receiver that gets its first sender within the range."""
        change = np.zeros(self.slide.num_genes)
        if self.rule.rule == "rule":
            change[np.isin(self.slide.symbols, self.raised)] = np.log2(self.rule.fold)
            change[np.isin(self.slide.symbols, self.lowered)] = -np.log2(self.rule.fold)
        return change


def plant_tissue(num_cells: int, seed: int, rule: PlantedRule | None = None) -> PlantedTissue:
    """Generate a tissue with about 100 um2 per cell.

    Args:
        num_cells: N.
        seed: Seed; the same seed gives the same tissue.
        rule: What is planted; the defaults of `PlantedRule` when absent.

    Returns:
        The tissue with its truth.
    """
    rule = rule or PlantedRule()
    xy_um = place_cells_on_lattice(num_cells, numpy_generator(seed, "planted place"))
    types = _draw_types(xy_um, rule, numpy_generator(seed, "planted types", rule.rule))
    genes = _choose_genes(rule.num_genes)
    planted = genes["symbol"][len(_fixed_symbols()) :].to_numpy()
    raised, lowered = np.split(planted[: rule.num_raised + rule.num_lowered], [rule.num_raised])
    affected = _affected(xy_um, types, rule)
    rates = _profiles(genes["symbol"].to_list(), [*raised, *lowered], numpy_generator(seed, "planted profiles"))[types]
    rates[np.ix_(affected, np.isin(genes["symbol"], raised))] *= rule.fold
    rates[np.ix_(affected, np.isin(genes["symbol"], lowered))] /= rule.fold
    counts = _draw_counts(rates, rule.depth, numpy_generator(seed, "planted counts"))
    slide = Slide(
        name=f"planted-{rule.rule}-{seed}",
        xy_um=xy_um,
        total_counts=row_sums(counts),
        split=np.zeros(num_cells, dtype=np.int8),
        gene_ids=tuple(genes["id"]),
        symbols=tuple(genes["symbol"]),
        radius_um=20.0,
        source=MemoryCounts(counts),
    )
    return PlantedTissue(slide, np.array(_NAMES)[types], rule, tuple(raised), tuple(lowered), affected)


def _draw_types(xy_um: NDArray[np.float64], rule: PlantedRule, generator: np.random.Generator) -> NDArray[np.int64]:
    """(N,) positions in `_NAMES`: types of the layers, of which some are then replaced by senders."""
    field = smooth_field(xy_um, _LAYER_SCALE_UM, generator)
    fractions = np.array([[shares.get(name, 0.0) for name in _NAMES] for shares in _LAYERS.values()])
    in_stroma = (field > np.quantile(field, 0.6)).astype(np.int64)
    drawn = generator.random(len(xy_um))[:, None] > fractions.cumsum(axis=1)[in_stroma]
    types = np.asarray(drawn.sum(axis=1).clip(max=len(_NAMES) - 1))
    weight = np.ones(len(xy_um))
    if rule.rule == "confounded":
        distance, _ = cKDTree(xy_um[in_stroma == 1]).query(xy_um)
        weight = np.exp(-distance / _CONFOUNDED_DECAY_UM) * (in_stroma == 0) + 0.1
    count = round(rule.sender_share * len(xy_um))
    types[types == _NAMES.index(rule.sender)] = _NAMES.index(STROMA)
    types[generator.choice(len(xy_um), size=count, replace=False, p=weight / weight.sum())] = _NAMES.index(rule.sender)
    return types


def _affected(xy_um: NDArray[np.float64], types: NDArray[np.int64], rule: PlantedRule) -> NDArray[np.bool_]:
    """(N,) receivers within the range of the type that changes them."""
    if rule.rule == "none":
        return np.zeros(len(types), dtype=bool)
    cause = _NAMES.index(rule.sender if rule.rule == "rule" else STROMA)
    distance, _ = cKDTree(xy_um[types == cause]).query(xy_um)
    return np.asarray((types == _NAMES.index(rule.receiver)) & (distance <= rule.range_um))


def _fixed_symbols() -> list[str]:
    """Symbols of the panel that are markers of a planted type or expressed by all."""
    wanted = {symbol for name in TYPES.values() for symbol in MARKERS[name].split()} | set(UBIQUITOUS.split())
    return [symbol for symbol in panel()["symbol"] if symbol in wanted]


def _choose_genes(num_genes: int) -> pd.DataFrame:
    """Markers and ubiquitous genes, then further real genes, of which the first are planted."""
    all_genes = choose_genes(len(panel()) + num_genes)
    fixed = all_genes[all_genes["symbol"].isin(_fixed_symbols())]
    further = all_genes[len(panel()) :]
    return pd.concat([fixed, further])[:num_genes].reset_index(drop=True)


def _profiles(symbols: list[str], planted: list[str], generator: np.random.Generator) -> NDArray[np.float64]:
    """(T, G) expected fraction of each gene in the counts of each type."""
    weights = generator.lognormal(sigma=0.7, size=len(symbols)) * np.ones((len(TYPES), 1))
    # Differences between types in genes that are no markers
    weights *= generator.lognormal(sigma=0.3, size=weights.shape)
    weights[:, np.isin(symbols, planted)] = 1.0
    for row, name in enumerate(TYPES.values()):
        marked = np.isin(symbols, MARKERS[name].split())
        weights[:, marked] = np.minimum(weights[:, marked], 0.3 * np.ones(1))
        weights[row, marked] = 0.3 * _MARKER_FOLD * generator.lognormal(sigma=0.5, size=int(marked.sum()))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _draw_counts(rates: NDArray[np.float64], depth: float, generator: np.random.Generator) -> csr_matrix:
    """Gamma-Poisson counts of cells of log-normally distributed depth; every cell has at least one count."""
    rates = rates * (depth * generator.lognormal(sigma=_DEPTH_SIGMA, size=(len(rates), 1)))
    counts = generator.poisson(rates * generator.gamma(_GAMMA_SHAPE, 1 / _GAMMA_SHAPE, size=rates.shape))
    empty = np.flatnonzero(counts.sum(axis=1) == 0)
    counts[empty, rates[empty].argmax(axis=1)] = 1
    return csr_matrix(counts.astype(np.float32))
