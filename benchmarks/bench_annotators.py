"""Compare the marker annotator with labels on tissue that it was not adjusted on, beside the usual recipe of scanpy.

    python benchmarks/bench_annotators.py DATA [--development] [--no-tissue] [--out RESULT.json]

DATA holds the folders cell_profiles, cosmx_lung, her2_breast_st, luca_profiles, format_fixtures, xenium_pancreas and
xenium_bone_marrow; data sets whose folder is missing are left out. The numbers of clusters, the weights and the
calibration were chosen on the pancreas slide and on cells simulated on its panel (`--development`); some rules, such as the evidence
that a type needs, were chosen in view of the other data as well. The recipe clusters the cells with Leiden and gives each cluster the type with the largest
mean z-score of its markers; it needs scanpy and igraph, and is left out without them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
from record import write_record
from scipy.sparse import csr_matrix, diags
from simulated_types import DEVELOPMENT, UNSEEN, references_without, simulate

from cifm_cli.celltype.base import UNASSIGNED, Annotation, UnlabelledCells
from cifm_cli.celltype.check import check_types
from cifm_cli.celltype.marker_annotator import fit_marker_annotator, open_markers
from cifm_cli.celltype.markers import load_markers, measured_markers
from cifm_cli.data.readers.counts import in_memory
from cifm_cli.data.readers.tenx import read_matrix
from cifm_cli.data.slide import log_normalise

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cifm_cli.celltype.profiles import TypeProfiles

PACKAGES = ("numpy", "scipy", "scikit-learn", "scanpy", "igraph")
PANCREAS_CLUSTERS = {
    "T cell": ("4",),
    "macrophage": ("5",),
    "fibroblast": ("1",),
    "endothelial cell": ("11", "14"),
    "plasma cell": ("22",),
    "mast cell": ("20", "27"),
    "islet cell": ("21", "24", "28"),
    "acinar cell": ("3", "6", "16"),
}
REGIONS = {"invasive cancer", "cancer in situ", "breast glands"}
PBMC = {"CD4+/CD45RO+ Memory": "T cell", "CD4+/CD25 T Reg": "T cell", "CD4+/CD45RA+/CD25- Naive T": "CD4 T cell"}


@dataclass(frozen=True)
class DataSet:
    """Cells with labels."""

    name: str
    tissue: str
    counts: csr_matrix  # (N, G)
    symbols: list[str]
    labels: np.ndarray  # (N,) empty without a label; `epithelial cell` or `other` where only compartments are known
    references: TypeProfiles | None = None
    spacing_um: float | None = None  # of spots


def main() -> None:
    """Print one line for each data set and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--development", action="store_true", help="the data that the constants were chosen on")
    parser.add_argument("--no-tissue", action="store_true", help="do not tell the annotator the tissue")
    parser.add_argument("--cells", type=int, default=15_000, help="maximum number of cells of a data set")
    parser.add_argument("--out", type=Path, help="write JSON here")
    options = parser.parse_args()
    rows = []
    for data in data_sets(options.data, options.cells, development=options.development):
        for method in (by_markers, by_recipe):
            started = time.perf_counter()
            types = method(data, None if options.no_tissue else data.tissue)
            if types is None:
                continue
            row = {"data": data.name, "method": method.__name__.removeprefix("by_"), **scores(data, types)}
            row["seconds"] = round(time.perf_counter() - started, 1)
            rows.append(row)
            print(json.dumps(row), flush=True)
    if options.out:
        write_record(options.out, PACKAGES, {"tissue_known": not options.no_tissue, "results": rows})


def data_sets(folder: Path, max_cells: int, *, development: bool) -> Iterator[DataSet]:
    """The development data, or the others."""
    if development:
        yield from pancreas(folder, max_cells)
    else:
        yield from (*pbmc(folder), *cosmx(folder, max_cells), *breast_spots(folder), *luca(folder))
    profiles = folder / "cell_profiles"
    if not profiles.is_dir():
        return
    builder = load_builder()
    pool = sorted(
        {gene for genes in load_markers().values() for gene in genes} | set(panel(folder / "xenium_pancreas"))
    )
    for number, tissue in enumerate(DEVELOPMENT if development else UNSEEN):
        size = next((int(word) for word in tissue.name.split() if word.isdigit()), 0)
        genes = (
            sorted(np.random.default_rng(number).choice(pool, size, replace=False))
            if size
            else panel(folder / "xenium_pancreas")
        )
        counts, labels = simulate(builder, profiles, tissue, list(genes), 5_000, number + 10)
        references = references_without(builder, profiles, tissue.without)
        yield DataSet(f"simulated {tissue.name}", tissue.tissue, counts, list(genes), labels, references)


def load_builder() -> Any:  # noqa: ANN401 - a module
    """Import `tools/build_cell_profiles.py`."""
    path = Path(__file__).resolve().parents[1] / "tools/build_cell_profiles.py"
    spec = importlib.util.spec_from_file_location("build_cell_profiles", path)
    if spec is None or spec.loader is None:
        sys.exit(f"{path}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def panel(folder: Path) -> list[str]:
    """Genes of a Xenium download, without controls."""
    genes = read_matrix(folder / "cell_feature_matrix.h5").genes
    return [str(name) for name in genes["symbol"][genes["feature_type"] == "Gene Expression"]]


def pancreas(folder: Path, max_cells: int) -> Iterator[DataSet]:
    """Some graph clusters of the pancreas slide."""
    path = folder / "xenium_pancreas"
    if not path.is_dir():
        return
    matrix = read_matrix(path / "cell_feature_matrix.h5")
    genes = np.flatnonzero(matrix.genes["feature_type"].to_numpy() == "Gene Expression")
    rows = sample(len(matrix.barcodes), max_cells)
    counts = csr_matrix(in_memory(matrix.counts)[rows][:, genes], dtype=np.float32)
    table = pd.read_csv(path / "analysis/clustering/gene_expression_graphclust/clusters.csv", dtype=str)
    clusters = table.set_index("Barcode")["Cluster"].reindex(np.asarray(matrix.barcodes)[rows]).to_numpy()
    known = {cluster: name for name, numbers in PANCREAS_CLUSTERS.items() for cluster in numbers}
    labels = np.array([known.get(cluster, "") for cluster in clusters], dtype=object)
    yield DataSet("pancreas clusters", "pancreas", counts, panel(path), labels)


def pbmc(folder: Path) -> Iterator[DataSet]:
    """The 700 labelled cells of scanpy's `pbmc68k_reduced`, whose counts follow from their log-normalised expression."""
    path = folder / "format_fixtures/10x_pbmc68k_reduced.h5ad"
    if not path.is_file():
        return
    cells = ad.read_h5ad(path)
    values = csr_matrix(np.expm1(csr_matrix(cells.raw.X).toarray()))
    smallest = np.array([values[row].data.min() for row in range(values.shape[0])])
    counts = csr_matrix(diags(1 / smallest) @ values, dtype=np.float32)
    counts.data = np.rint(counts.data)
    labels = cells.obs["bulk_labels"].astype(str).replace(PBMC).to_numpy(dtype=object)
    yield DataSet("pbmc68k", "blood", counts, list(cells.raw.var_names), labels)


def cosmx(folder: Path, max_cells: int) -> Iterator[DataSet]:
    """Epithelium by panCK, and what is neither panCK-positive nor in the tumour by the pathologist."""
    path = folder / "cosmx_lung/cosmx_nsclc_lung5rep3.h5ad"
    if not path.is_file():
        return
    cells = ad.read_h5ad(path)
    cells = cells[sample(cells.n_obs, max_cells)].copy()
    is_positive = cells.obs["Level2"].astype(str).str.startswith("Epi").to_numpy()
    is_stroma = (cells.obs["region"].astype(str) == "Stroma").to_numpy() & ~is_positive
    labels = np.where(is_positive, "epithelial cell", np.where(is_stroma, "other", "")).astype(object)
    yield DataSet("CosMx lung", "lung", csr_matrix(cells.X, dtype=np.float32), list(cells.var_names), labels)


def breast_spots(folder: Path) -> Iterator[DataSet]:
    """Regions of five breast tumours: spots of many cells, whose region says what prevails."""
    for path in sorted((folder / "her2_breast_st").glob("?1.h5ad")):
        cells = ad.read_h5ad(path)
        regions = cells.obs["label"].astype(str)
        labels = np.where(regions.isin(REGIONS), "epithelial cell", np.where(regions == "undetermined", "", "other"))
        counts = csr_matrix(cells.X, dtype=np.float32)
        yield DataSet(
            f"her2 {path.stem}", "breast", counts, list(cells.var_names), labels.astype(object), spacing_um=200.0
        )


def luca(folder: Path) -> Iterator[DataSet]:
    """Pseudo-bulk profiles of the lung cancer atlas, from each of which one cell of about 150 counts is drawn."""
    path = folder / "luca_profiles/luca_pseudobulk_298patients.h5ad"
    if not path.is_file():
        return
    profiles = ad.read_h5ad(path)
    generator = np.random.default_rng(1)
    sums = csr_matrix(profiles.X, dtype=np.float64).toarray()
    depth = np.exp(generator.normal(np.log(150), 0.5, len(sums)))
    counts = generator.poisson(sums / sums.sum(axis=1, keepdims=True) * depth[:, None])
    labels = profiles.obs["cell_type"].astype(str).to_numpy(dtype=object)
    yield DataSet("LuCA", "lung", csr_matrix(counts.astype(np.float32)), list(profiles.var_names), labels)


def sample(num_cells: int, max_cells: int) -> np.ndarray:
    """Ascending rows of some of the cells."""
    return np.sort(np.random.default_rng(0).choice(num_cells, min(num_cells, max_cells), replace=False))


def normalised(counts: csr_matrix) -> csr_matrix:
    """Log-normalised expression."""
    return log_normalise(counts, np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1.0), 10_000.0)


def by_markers(data: DataSet, tissue: str | None) -> Annotation:
    """The marker annotator."""
    expression = normalised(data.counts)
    if data.references is None:
        cells = UnlabelledCells(data.name, expression, tuple(data.symbols), tissue, data.spacing_um)
        return open_markers(None, cells, trust_pickle=False).annotate(expression, data.symbols)
    annotator = fit_marker_annotator(
        expression, data.symbols, load_markers(), tissue=tissue, references=data.references
    )
    return annotator.annotate(expression, data.symbols)


def by_recipe(data: DataSet, tissue: str | None) -> Annotation | None:
    """Leiden clusters, each named by the largest mean z-score of its cells over the markers of a type."""
    del tissue
    if not importlib.util.find_spec("scanpy") or not importlib.util.find_spec("igraph"):
        return None
    import scanpy as sc
    from scipy import sparse

    if not hasattr(sparse.csr_array, "getnnz"):  # scanpy 1.11 calls a method that scipy 1.17 has removed
        sparse.csr_array.getnnz = sparse.csr_array._getnnz
    cells = ad.AnnData(normalised(data.counts).astype(np.float64))
    cells.var_names = data.symbols
    cells.var_names_make_unique()
    if cells.n_vars > 3_000:
        sc.pp.highly_variable_genes(cells, n_top_genes=2_000)
    sc.pp.pca(cells, n_comps=min(30, cells.n_obs - 1, cells.n_vars - 1))
    sc.pp.neighbors(cells, n_neighbors=15)
    sc.tl.leiden(cells, flavor="igraph", n_iterations=2)
    values = cells.X.toarray()
    z = (values - values.mean(axis=0)) / (values.std(axis=0) + 1e-9)
    column = {symbol.upper(): position for position, symbol in enumerate(data.symbols)}
    measured, _ = measured_markers(load_markers(), data.symbols)
    score = {name: z[:, [column[gene.upper()] for gene in genes]].mean(axis=1) for name, genes in measured.items()}
    clusters = cells.obs["leiden"].to_numpy()
    best = pd.DataFrame(score).groupby(clusters).mean().idxmax(axis=1).reindex(clusters).to_numpy()
    names = (*measured, UNASSIGNED)
    codes = np.array([names.index(name) for name in best])
    return Annotation(names, codes, np.ones(len(codes), dtype=np.float32))


def scores(data: DataSet, types: Annotation) -> dict[str, Any]:
    """Scores of `cifm annotate check`; for compartments, the accuracy of epithelium against the rest."""
    is_compartment = np.isin(data.labels.astype(str), ("other",)).any()
    facts = check_types(data.labels, types, data.tissue).facts
    impossible = facts["impossible"]["fraction"]
    if not is_compartment:
        keys = ("cells", "lineage_accuracy", "balanced_lineage_accuracy", "type_accuracy", "balanced_type_accuracy")
        row = {key: facts[key] for key in (*keys, "compatible", "unassigned")}
        row["calibration_error"] = facts["calibration"]["error"]
    else:
        from cifm_cli.celltype.taxonomy import lineage_of

        lineages = np.array([lineage_of(name) for name in types.names], dtype=object)[types.codes]
        is_known = data.labels != ""
        is_epithelial = data.labels[is_known] == "epithelial cell"
        correct = np.where(
            is_epithelial,
            lineages[is_known] == "epithelial cell",
            ~np.isin(lineages[is_known].astype(str), ("epithelial cell", UNASSIGNED)),
        )
        balanced = (correct[is_epithelial].mean() + correct[~is_epithelial].mean()) / 2
        row = {
            "cells": int(is_known.sum()),
            "lineage_accuracy": float(correct.mean()),
            "balanced_lineage_accuracy": float(balanced),
            "unassigned": facts["unassigned"],
        }
    row["impossible"] = impossible
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}


if __name__ == "__main__":
    main()
