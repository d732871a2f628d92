"""A synthetic tissue with known truth: domains, cell types that depend on neighbours, genes that respond to neighbours.

The markers are well known from the literature; fractions, rules and fold changes are invented. Letters: N cells,
T types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

MARKERS = {
    "tumour": "EPCAM KRT8 KRT18 CEACAM6 MUC1 KRT19 MKI67 ERBB2 S100P TFF1 AGR2 CLDN4 TOP2A CCND1 CEACAM5 TSPAN8 PCNA CDK1 CD274",
    "acinar": "PRSS1 CPA1 CELA3A PNLIP CLPS AMY2A CTRB2 CEL REG1A CPA2 GP2 SPINK1 CTRC CELA2A REG1B PNLIPRP1 KLK1 GATM",
    "ductal": "CFTR KRT7 SLC4A4 ANXA4 SOX9 MMP7 AQP1 HNF1B KRT19 EPCAM SCTR PROM1 TFF2 ONECUT2 PIGR",
    "endocrine": "INS GCG SST CHGA IAPP TTR PPY CHGB SCG5 PCSK1 SCGN GCK ABCC8 NKX2-2",
    "fibroblast": "COL1A1 DCN LUM COL3A1 PDGFRA COL1A2 PDGFRB FAP THY1 POSTN SPARC ACTA2 CXCL12 MMP2 FBLN1 TAGLN VIM FN1",
    "endothelial": "PECAM1 VWF CDH5 KDR CLDN5 FLT1 EMCN PLVAP ENG ERG TEK EGFL7 ESAM RAMP2 CD34",
    "macrophage": "CD68 CD163 CD14 CSF1R C1QA MRC1 LYZ AIF1 C1QB MSR1 FCGR3A TYROBP HLA-DRA APOE TREM2 SPP1 CXCL9 CXCL10 ITGAX",
    "t_cell": "CD3E CD3D TRAC CD2 IL7R CD3G CD8A CD4 GZMK GZMB NKG7 CCR7 CTLA4 FOXP3 PDCD1 LAG3 TIGIT LCK ITK TCF7 CD5 CD7 PRF1",
    "b_cell": "MS4A1 CD79A CD19 BANK1 CD79B PAX5 TNFRSF13C FCRL1 BLK CXCR5 HLA-DRA FCER2 SPIB",
    "plasma": "MZB1 JCHAIN TNFRSF17 SDC1 DERL3 XBP1 PRDM1 IRF4 CD38 SLAMF7 FCRL5 IGHG1 IGKC POU2AF1",
}
UBIQUITOUS = (
    "ACTB B2M GAPDH EEF1A1 TMSB4X PTPRC MYC JUN FOS HIF1A VEGFA TGFB1 CCL2 CXCL8 IL6 STAT1 IRF1 NFKB1 TP53 CDH1"
)
MITOCHONDRIAL = "MT-CO1 MT-ND1"  # to be dropped by the filter; real Xenium panels do not have them
TYPES = tuple(MARKERS)

# Fractions of the types in each domain, before the rules are applied.
DOMAINS = {
    "lobule": {"acinar": 0.8, "ductal": 0.04, "fibroblast": 0.06, "endothelial": 0.05, "macrophage": 0.05},
    "nest": {"tumour": 0.76, "macrophage": 0.08, "t_cell": 0.07, "fibroblast": 0.06, "endothelial": 0.03},
    "stroma": {
        "fibroblast": 0.52,
        "macrophage": 0.14,
        "t_cell": 0.12,
        "plasma": 0.1,
        "endothelial": 0.08,
        "tumour": 0.04,
    },
    "aggregate": {"t_cell": 0.42, "b_cell": 0.38, "plasma": 0.1, "macrophage": 0.06, "endothelial": 0.04},
    "islet": {"endocrine": 0.85, "endothelial": 0.1, "macrophage": 0.05},
    "duct": {"ductal": 0.82, "fibroblast": 0.13, "t_cell": 0.05},
    "vessel": {"endothelial": 0.72, "fibroblast": 0.2, "macrophage": 0.04, "t_cell": 0.04},
}
# (type, neighbour, strength): increase of the log-odds of the type if all neighbours are of the other type.
RULES = (
    *((name, name, 1.5) for name in ("tumour", "acinar", "ductal", "endocrine", "endothelial", "t_cell")),
    ("t_cell", "macrophage", 2.5),
    ("t_cell", "b_cell", 2.0),
    ("macrophage", "tumour", 1.0),
    ("plasma", "ductal", 2.0),
    ("plasma", "fibroblast", 1.0),
    ("t_cell", "acinar", -2.0),
)


class Effect(NamedTuple):
    """A ligand-receptor effect: cells of type `receiver` express `gene` up to `fold` times as much near a `sender`."""

    receiver: str
    gene: str
    sender: str
    fold: float


EFFECTS = (
    Effect("tumour", "CD274", "t_cell", 6.0),  # interferon gamma induces PD-L1
    Effect("macrophage", "CXCL10", "t_cell", 6.0),
    Effect("macrophage", "CXCL9", "t_cell", 6.0),
    Effect("macrophage", "SPP1", "tumour", 5.0),
    Effect("fibroblast", "FAP", "tumour", 5.0),  # TGF-beta turns fibroblasts into myofibroblasts
    Effect("fibroblast", "ACTA2", "tumour", 4.0),
    Effect("t_cell", "PDCD1", "tumour", 6.0),
    Effect("endothelial", "PLVAP", "tumour", 4.0),
    Effect("acinar", "REG1A", "macrophage", 4.0),
    Effect("plasma", "IGHG1", "fibroblast", 2.0),
)

# Gives about 100 um2 per cell.
_SPACING_UM = 10.0
# Levels of a random field, in standard deviations: the lumen, and the duct around it.
_LUMEN, _LUMEN_WALL = 1.9, 1.5
# Reaches the first two rings of neighbours.
_NEIGHBOURS_UM = 25.0
_FIELD_SCALES_UM = {"ground": 55.0, "aggregate": 50.0, "islet": 40.0, "lumen": 50.0, "vessel": 90.0}
# Real downloads contain segmented cells without any count.
_VOID_FRACTION = 0.01


@dataclass(frozen=True)
class Tissue:
    """A synthetic tissue without expression."""

    xy_um: NDArray[np.float64]  # (N, 2) cell centres, micrometres
    cell_type: NDArray[np.int64]  # (N,) positions in `TYPES`
    domain: NDArray[np.int64]  # (N,) positions in `DOMAINS`
    void: NDArray[np.bool_]  # (N,) whether a cell has no counts
    senders: NDArray[np.float32]  # (N, T) number of cells of each type within 25 um


def grow_tissue(num_cells: int, seed: int) -> Tissue:
    """Generate a tissue with about 100 um2 per cell.

    Args:
        num_cells: N.
        seed: Seed; the same seed gives the same tissue.

    Returns:
        The tissue; its cells are not sorted in space.
    """
    xy_um, domain = _place_cells(num_cells, seed)
    adjacency = _neighbours(xy_um)
    cell_type = _draw_types(domain, adjacency, numpy_generator(seed, "types"))
    void = numpy_generator(seed, "void").random(num_cells) < _VOID_FRACTION
    senders = adjacency @ np.eye(len(TYPES), dtype=np.float32)[cell_type]
    return Tissue(xy_um, cell_type, domain, void, senders)


def _place_cells(num_cells: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Cell centres on a jittered hexagonal lattice that leaves lumens free, and the domain of each cell."""
    generator = numpy_generator(seed, "place")
    # More points than cells, so that lumens can stay empty.
    lattice = _lattice(int(1.12 * num_cells) + 50)
    xy_um = lattice + generator.normal(scale=0.18 * _SPACING_UM, size=lattice.shape)
    fields = {name: smooth_field(xy_um, scale, numpy_generator(seed, name)) for name, scale in _FIELD_SCALES_UM.items()}
    priority = generator.random(len(xy_um)) + (fields["lumen"] > _LUMEN)  # points in a lumen are used last
    chosen = np.argsort(priority)[:num_cells]
    return xy_um[chosen], _domains({name: values[chosen] for name, values in fields.items()})


def _lattice(num_points: int) -> NDArray[np.float64]:
    """At least `num_points` points of a hexagonal lattice, in a rectangle of 5 : 3."""
    pitch = np.array([_SPACING_UM, _SPACING_UM * np.sqrt(0.75)])
    height = np.sqrt(0.6 * num_points * pitch.prod())
    rows, columns = int(np.ceil(height / pitch[1])), int(np.ceil(height / 0.6 / pitch[0]))
    row, column = np.divmod(np.arange(rows * columns), columns)
    return np.asarray(np.stack([column + 0.5 * (row % 2), row], axis=1) * pitch)


def place_cells_on_lattice(num_cells: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Cell centres on a jittered hexagonal lattice without gaps, about 100 um2 per cell.

    Args:
        num_cells: N.
        generator: Source of randomness.

    Returns:
        (N, 2) micrometres.
    """
    lattice = _lattice(num_cells)[:num_cells]
    return lattice + generator.normal(scale=0.18 * _SPACING_UM, size=lattice.shape)


def smooth_field(xy_um: NDArray[np.float64], scale_um: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """A smooth random field of zero mean and unit variance: a sum of plane waves with random phases.

    Args:
        xy_um: (N, 2) positions, micrometres.
        scale_um: Length over which the field changes.
        generator: Source of randomness.

    Returns:
        (N,) values of the field.
    """
    # 32 waves are enough for a nearly Gaussian field; 4 is the standard deviation of the sum of 32 cosines.
    waves = generator.normal(scale=1.0 / scale_um, size=(2, 32))
    return np.asarray(np.cos(xy_um @ waves + generator.uniform(0, 2 * np.pi, size=32)).sum(axis=1) / 4.0)


def _domains(fields: dict[str, NDArray[np.float64]]) -> NDArray[np.int64]:
    names = list(DOMAINS)
    lobule, nest = fields["ground"] > 0.25, fields["ground"] < -0.25
    # In order of precedence: `np.select` takes the first case that applies.
    cases = {
        "duct": (fields["lumen"] > _LUMEN_WALL) & ~nest,
        "islet": (fields["islet"] > 1.6) & lobule,
        "aggregate": (fields["aggregate"] > 1.4) & ~lobule,
        "vessel": np.abs(fields["vessel"]) < 0.06,
        "lobule": lobule,
        "nest": nest,
    }
    return np.select(list(cases.values()), [names.index(name) for name in cases], names.index("stroma"))


def _neighbours(xy_um: NDArray[np.float64]) -> csr_matrix:
    """(N, N) adjacency of cells within 25 um, zero on the diagonal."""
    pairs = cKDTree(xy_um).query_pairs(_NEIGHBOURS_UM, output_type="ndarray")
    ends = np.concatenate([pairs, pairs[:, ::-1]]).T
    return csr_matrix((np.ones(ends.shape[1], dtype=np.float32), (ends[0], ends[1])), shape=(len(xy_um), len(xy_um)))


def _draw_types(domain: NDArray[np.int64], adjacency: csr_matrix, generator: np.random.Generator) -> NDArray[np.int64]:
    """Draw types by domain, then redraw those of random halves of the cells, given their neighbours, four times."""
    # A type that a domain does not list is rare there, but not impossible.
    fractions = np.array([[DOMAINS[name].get(kind, 0.002) for kind in TYPES] for name in DOMAINS])
    prior = np.log(fractions)[domain]
    strength = np.zeros((len(TYPES), len(TYPES)))
    for kind, neighbour, value in RULES:
        strength[TYPES.index(neighbour), TYPES.index(kind)] = value
    degree = np.maximum(np.asarray(adjacency.sum(axis=1)), 1.0)
    # The largest of logits with Gumbel noise is a draw from their softmax.
    cell_type: NDArray[np.int64] = np.argmax(prior + generator.gumbel(size=prior.shape), axis=1)
    # Gibbs sampling: only half of the cells change at a time, as neighbours that change together would oscillate.
    for _ in range(4):
        influence = (adjacency @ np.eye(len(TYPES))[cell_type] / degree) @ strength
        redrawn = np.argmax(prior + influence + generator.gumbel(size=prior.shape), axis=1)
        cell_type = np.where(generator.random(len(domain)) < 0.5, redrawn, cell_type)
    return cell_type
