"""Simulated cells of known types: profiles of one set of sources, for an annotator that uses others.

Every cell has a type, counts of a gamma-Poisson distribution, a share of counts of a neighbour's type and of the tissue's mean,
and genes whose efficiency differs from that of the references. Tumours are simulated by changing the profile of a type.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix

from cifm_cli.celltype.profiles import STEPS, TypeProfiles

if TYPE_CHECKING:
    from pathlib import Path

Parts = dict[str, dict[str, float]]  # source, then type, to its share of the tissue


@dataclass(frozen=True)
class Tissue:
    """A simulated tissue."""

    name: str
    tissue: str  # for `--tissue`
    parts: Parts
    without: tuple[str, ...]  # sources that the annotator may not use
    depth: float  # median counts
    shift: dict[str, float] = field(default_factory=dict)  # type to the deviation of the log of its tumour-like changes
    background: float = 0.15  # mean share of counts from elsewhere
    efficiency: float = 0.5  # deviation of the log efficiency of genes


LUNG: Parts = {
    "Lung_HCA": {
        "B cell": 0.05,
        "endothelial cell": 0.1,
        "CD4 T cell": 0.08,
        "CD8 T cell": 0.07,
        "ciliated cell": 0.06,
        "dendritic cell": 0.04,
        "fibroblast": 0.15,
        "lymphatic endothelial cell": 0.02,
        "macrophage": 0.15,
        "mast cell": 0.02,
        "monocyte": 0.05,
        "smooth muscle cell": 0.05,
        "NK cell": 0.04,
        "plasma cell": 0.04,
        "alveolar type 1 cell": 0.07,
        "alveolar type 2 cell": 0.1,
        "regulatory T cell": 0.01,
    }
}
PANCREAS: Parts = {
    "Pancreas_HCA": {
        "acinar cell": 0.35,
        "ductal cell": 0.15,
        "alpha cell": 0.03,
        "beta cell": 0.04,
        "delta cell": 0.01,
        "fibroblast": 0.12,
    },
    "Lung_HCA": {
        "endothelial cell": 0.08,
        "CD4 T cell": 0.03,
        "CD8 T cell": 0.03,
        "macrophage": 0.07,
        "mast cell": 0.01,
        "plasma cell": 0.02,
        "B cell": 0.02,
        "smooth muscle cell": 0.03,
    },
}
BREAST: Parts = {
    "Prostate_Henry": {"luminal epithelial cell": 0.45, "basal epithelial cell": 0.06},
    "Skin_HCA": {"fibroblast": 0.18, "endothelial cell": 0.06, "pericyte": 0.04},
    "Spleen_HCA": {
        "CD4 T cell": 0.05,
        "CD8 T cell": 0.04,
        "B cell": 0.03,
        "plasma cell": 0.02,
        "dendritic cell": 0.01,
    },
    "Liver_HCA": {"macrophage": 0.06},
    "Lung_HCA": {"mast cell": 0.01},
}
LIVER: Parts = {
    "Liver_HCA": {
        "hepatocyte": 0.5,
        "ductal cell": 0.06,
        "endothelial cell": 0.1,
        "macrophage": 0.1,
        "T cell": 0.08,
        "NK cell": 0.05,
        "B cell": 0.03,
        "plasma cell": 0.03,
    },
    "Colon_HCA": {"fibroblast": 0.05},
}
SKIN: Parts = {
    "Skin_HCA": {
        "fibroblast": 0.3,
        "keratinocyte": 0.3,
        "lymphatic endothelial cell": 0.03,
        "melanocyte": 0.04,
        "pericyte": 0.08,
        "T cell": 0.1,
        "endothelial cell": 0.1,
    },
    "Liver_HCA": {"macrophage": 0.06},
}
TUMOUR = {"luminal epithelial cell": 1.0}
DEVELOPMENT = (
    Tissue("pancreas, its panel", "pancreas", PANCREAS, ("Pancreas_HCA", "Lung_HCA"), 40),
    Tissue("lung, pancreas panel", "lung", LUNG, ("Lung_HCA",), 40),
    Tissue("breast, pancreas panel", "breast", BREAST, ("Prostate_Henry", "Skin_HCA"), 60, TUMOUR),
)
UNSEEN = (
    Tissue("lung, 480 genes", "lung", LUNG, ("Lung_HCA",), 100),
    Tissue("lung, 300 genes", "lung", LUNG, ("Lung_HCA",), 60),
    Tissue("breast, 480 genes", "breast", BREAST, ("Prostate_Henry", "Skin_HCA", "Spleen_HCA"), 60, TUMOUR),
    Tissue("breast, 300 genes", "breast", BREAST, ("Prostate_Henry", "Skin_HCA"), 130, TUMOUR),
    Tissue("liver, 400 genes", "liver", LIVER, ("Liver_HCA", "Colon_HCA"), 100),
    Tissue("skin, 350 genes", "skin", SKIN, ("Skin_HCA",), 80),
)


def references_without(builder: Any, folder: Path, without: tuple[str, ...]) -> TypeProfiles:  # noqa: ANN401 - a module
    """The annotator's profiles without some sources, by the functions of `tools/build_cell_profiles.py`."""
    tables = [builder.type_profiles(folder, source) for source in builder.COLUMNS if source not in without]
    profiles = builder.informative(builder.combine(tables))
    steps = np.rint(profiles.to_numpy().T * builder.STEPS)
    return TypeProfiles(tuple(profiles.columns), tuple(profiles.index), 2.0 ** (steps / STEPS) - 1)


def simulate(builder: Any, folder: Path, tissue: Tissue, genes: list[str], num_cells: int, seed: int):  # noqa: ANN201, ANN401
    """(N, G) counts and (N,) types."""
    generator = np.random.default_rng(seed)
    names, profiles, shares = [], [], []
    for source, types in tissue.parts.items():
        table = builder.type_profiles(folder, source).reindex([gene.upper() for gene in genes]).fillna(0)
        for name, share in types.items():
            names.append(name)
            profiles.append(table[name].to_numpy())
            shares.append(share)
    rates = np.array(profiles) * np.exp(generator.normal(0, tissue.efficiency, len(genes)))
    for row, name in enumerate(names):
        rates[row] *= np.exp(generator.normal(0, tissue.shift.get(name, 0.0), len(genes)))
    totals = rates.sum(axis=1)
    fractions = rates / totals[:, None]
    weights = np.array(shares) * generator.gamma(3, 1 / 3, len(shares))
    weights /= weights.sum()
    types, neighbours = generator.choice(len(names), (2, num_cells), p=weights)
    # Types with few counts on the panel have fewer counts, but not in proportion.
    relative = np.clip(np.sqrt(totals / np.exp(np.log(totals).mean())), 0.4, 2.5)
    mean = weights @ (fractions * relative[:, None])
    share = generator.beta(1.5, 1.5 / tissue.background - 1.5, num_cells)[:, None]
    expected = (1 - share) * fractions[types] + share * (fractions[neighbours] + mean) / 2
    depth = tissue.depth * relative[types] * np.exp(generator.normal(0, 0.45, num_cells))
    counts = generator.poisson(generator.gamma(2.0, expected * depth[:, None] / 2.0))
    return csr_matrix(counts.astype(np.float32)), np.array(names, dtype=object)[types]
