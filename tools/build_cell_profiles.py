"""Build `cifm_cli/celltype/profiles.npz`, the mean expression of cell types in public single-cell references.

    python tools/build_cell_profiles.py FOLDER [--without SOURCE] [--out FILE]

FOLDER holds one table `SOURCE.csv.gz` (genes in rows, cell types in columns) for each source in `COLUMNS`: profiles of
the CellProfileLibrary of NanoString (https://github.com/Nanostring-Biostats/CellProfileLibrary, CC BY 4.0), of which
this script keeps, renames and averages some columns. Every column is scaled to counts per million; columns of one type are
averaged within a source, then between sources by the geometric mean, so that genes that leak into all cells of one source
count less. The result is stored as integers, eighths of log2(1 + counts per million).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
# Source, then our type, to the columns of the source. Columns of mixed or transitional cells are left out.
COLUMNS: dict[str, dict[str, list[str]]] = {
    "Colon_HCA": {
        "endothelial cell": ["endothelial.cell.type.1", "endothelial.cell.type.2"],
        "Schwann cell": ["glial.cell"],
        "pericyte": ["pericyte"],
        "plasma cell": ["plasma.cell"],
        "smooth muscle cell": ["smooth.muscle.cell"],
        "fibroblast": [f"stromal.cell.type.{name}" for name in ("1", "2a", "2b", "3", "4")],
    },
    "ImmuneCensus_HCA": {
        "monocyte": ["CD14+.monocyte.type.1", "CD14+.monocyte.type.2", "CD16+.monocyte"],
        "CD4 T cell": ["CD4+.naive.T.cell", "T.helper.cell"],
        "CD8 T cell": ["cytotoxic.T.cell.type.1", "cytotoxic.T.cell.type.2", "naive.CD8+.T.cell"],
        "dendritic cell": ["conventional.dendritic.cell"],
        "erythroid cell": ["erythroid.cell.type.1", "erythroid.cell.type.2"],
        "hematopoietic stem cell": ["hematopoietic.stem.cell"],
        "megakaryocyte": ["megakaryocyte"],
        "B cell": ["memory.B.cell", "naive.B.cell"],
        "NK cell": ["natural.killer.cell"],
        "plasma cell": ["plasma.cell"],
        "plasmacytoid dendritic cell": ["plasmacytoid.dendritic.cell"],
    },
    "ImmuneTumor_safeTME": {
        "macrophage": ["macrophages"],
        "mast cell": ["mast"],
        "B cell": ["B.naive", "B.memory"],
        "plasma cell": ["plasma"],
        "CD4 T cell": ["T.CD4.naive", "T.CD4.memory"],
        "CD8 T cell": ["T.CD8.naive", "T.CD8.memory"],
        "NK cell": ["NK"],
        "plasmacytoid dendritic cell": ["pDCs"],
        "dendritic cell": ["mDCs"],
        "monocyte": ["monocytes.C", "monocytes.NC.I"],
        "neutrophil": ["neutrophils"],
        "regulatory T cell": ["Treg"],
        "endothelial cell": ["endothelial.cells"],
        "fibroblast": ["fibroblasts"],
    },
    "Liver_HCA": {
        "plasma cell": ["Antibody.secreting.B.cells"],
        "T cell": ["CD3+.alpha.beta.T.cells"],
        "endothelial cell": ["Portal.endothelial.cells"],
        "ductal cell": ["Cholangiocytes"],
        "erythroid cell": ["Erthyroid.cells"],
        "hepatocyte": [f"Hep.{number}" for number in range(1, 7)],
        "macrophage": ["Non.inflammatory.macrophages"],
        "B cell": ["Mature.B.cells"],
        "NK cell": ["NK.like.cells"],
    },
    "Lung_HCA": {
        "B cell": ["B.cell"],
        "endothelial cell": ["blood.vessel.cell"],
        "CD4 T cell": ["CD4+.T.cell"],
        "CD8 T cell": ["CD8+.cytotoxic.T.cell"],
        "ciliated cell": ["ciliated.cell"],
        "dendritic cell": ["activated.dendritic.cell", "dendritic.cell.type.1", "dendritic.cell.type.2"],
        "fibroblast": ["fibroblast"],
        "lymphatic endothelial cell": ["lymph.vessel.cell"],
        "macrophage": ["MARCOneg.macrophage", "MARCOpos.macrophage"],
        "mast cell": ["mast.cell"],
        "monocyte": ["monocyte"],
        "smooth muscle cell": ["muscle.cell"],
        "NK cell": ["natural.killer.cell"],
        "plasma cell": ["plasma.cell"],
        "plasmacytoid dendritic cell": ["plasmacytoid.dendritic.cell"],
        "alveolar type 1 cell": ["alveolar.epithelial.cell.type.1"],
        "alveolar type 2 cell": ["alveolar.epithelial.cell.type.2"],
        "regulatory T cell": ["regulatory.T.cell"],
    },
    "Pancreas_HCA": {
        "acinar cell": ["acinar.cell"],
        "alpha cell": ["pancreatic.A.cell"],
        "beta cell": ["type.B.pancreatic.cell"],
        "delta cell": ["pancreatic.D.cell"],
        "fibroblast": ["mesenchymal.cell"],
        "ductal cell": ["pancreatic.ductal.cell"],
    },
    "Prostate_Henry": {
        "basal epithelial cell": ["basal.epithelia"],
        "club cell": ["club.epithelia"],
        "luminal epithelial cell": ["luminal.epithelia"],
        "endothelial cell": ["endothelia"],
        "fibroblast": ["fibroblast"],
        "smooth muscle cell": ["smooth.muscle"],
    },
    "Skin_HCA": {
        "fibroblast": [
            "Mesenchymal.Fibroblast",
            "Pro.inflammatory.Fibroblast",
            "Secretory.papillary.Fibroblast",
            "Secretory.reticular.Fibroblast",
        ],
        "keratinocyte": ["Keratinocytes.1", "Keratinocytes.2"],
        "lymphatic endothelial cell": ["Lymphatic.EC"],
        "melanocyte": ["Melanocytes.1", "Melanocytes.2"],
        "pericyte": ["Pericytes.1", "Pericytes.2"],
        "T cell": ["T.cells"],
        "endothelial cell": ["Vascular.EC"],
    },
    "Spleen_HCA": {
        "B cell": ["hypermutation.B.cell", "mantle.B.cell", "follicular.B.cell"],
        "CD4 T cell": ["CD4+.T.cell", "naive.CD4+.T.cell", "follicular.helper.CD4+.T.cell"],
        "regulatory T cell": ["regulatory.CD4+.T.cell"],
        "CD8 T cell": ["activated.CD8+.T.cell", "cytotoxic.CD8+.T.cell", "MAIT.like.CD8+.T.cell"],
        "dendritic cell": ["dendritic.cell.type.1", "activated.dendritic.cell", "dendritic.cell.type.2"],
        "hematopoietic stem cell": ["CD34+.progenitor"],
        "plasma cell": ["plasma.IgG.expressing.cell", "plasma.IgM.expressing.cell"],
        "macrophage": ["macrophage"],
        "monocyte": ["monocyte"],
        "NK cell": ["CD160+.natural.killer.cell", "FCGR3A+.natural.killer.cell"],
        "plasmacytoid dendritic cell": ["plasmacytoid.dendritic.cell"],
        "megakaryocyte": ["platelet"],
    },
}
WHOLE_TRANSCRIPTOME = 10_000  # genes from which the sum over a source's genes stands for all expression
STEPS = 8  # stored steps of one log2
MIN_CPM = 20.0  # a gene is stored if a type has as many counts per million,
MIN_RATIO = 3.0  # and as many times the mean over the types


def type_profiles(folder: Path, source: str) -> pd.DataFrame:
    """Genes by type: counts per million of a source, columns of one type averaged."""
    table = pd.read_csv(folder / f"{source}.csv.gz", index_col=0)
    table = table.groupby(table.index.str.upper()).sum()
    if len(table) > WHOLE_TRANSCRIPTOME:
        table = table / table.sum() * 1e6
    return pd.DataFrame({name: table[columns].mean(axis=1) for name, columns in COLUMNS[source].items()})


def combine(sources: list[pd.DataFrame]) -> pd.DataFrame:
    """Genes by type: log2(1 + counts per million), averaged over the sources that measure a gene."""
    whole = [table for table in sources if len(table) > WHOLE_TRANSCRIPTOME]
    genes = sorted(set().union(*(table.index for table in whole)))
    # A type that only small sources have would lack most genes.
    types = sorted(set().union(*(table.columns for table in whole)))
    stacked = {name: [np.log2(1 + table[name].reindex(genes)) for table in whole if name in table] for name in types}
    for table in (table for table in sources if len(table) <= WHOLE_TRANSCRIPTOME):
        # A source with few genes has no total: it is scaled to the others by the genes and types in common.
        shared = [name for name in table if name in stacked]
        known = pd.DataFrame({name: sum(stacked[name]) / len(stacked[name]) for name in shared})
        both = known.index.intersection(table.index)
        ratio = known.loc[both] - np.log2(table.loc[both, shared].where(table.loc[both, shared] > 0))
        shift = np.nanmedian(ratio.where(known.loc[both] > np.log2(MIN_CPM)).to_numpy())
        for name in shared:
            stacked[name].append(np.log2(1 + table[name].reindex(genes) * 2**shift))
    return pd.DataFrame({name: pd.concat(tables, axis=1).mean(axis=1) for name, tables in stacked.items()})


def informative(profiles: pd.DataFrame) -> pd.DataFrame:
    """The genes that tell types apart; genes that no source of a type measures have its mean over types."""
    profiles = profiles.apply(lambda column: column.fillna(profiles.mean(axis=1)))
    linear = 2**profiles - 1
    top = linear.max(axis=1)
    return profiles[(top >= MIN_CPM) & (top >= MIN_RATIO * linear.mean(axis=1))]


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--without", action="append", default=[], help="leave a source out, to test on it")
    parser.add_argument("--out", type=Path, default=ROOT / "cifm_cli/celltype/profiles.npz")
    options = parser.parse_args()
    tables = [type_profiles(options.folder, source) for source in COLUMNS if source not in options.without]
    profiles = informative(combine(tables))
    np.savez_compressed(
        options.out,
        genes=np.array(profiles.index, dtype="S"),
        types=np.array(profiles.columns, dtype="S"),
        steps=np.rint(profiles.to_numpy() * STEPS).astype(np.uint8),
    )
    sys.stdout.write(
        f"{options.out}: {profiles.shape[0]:,} genes, {profiles.shape[1]} types, {options.out.stat().st_size:,} bytes\n"
    )


if __name__ == "__main__":
    main()
