"""The marker typer: planted types come back, and a frozen typer always says the same of the same cell."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix, vstack

from cifm_cli.celltype.base import UNASSIGNED
from cifm_cli.celltype.markers import load_markers
from cifm_cli.celltype.typer import MarkerTyper, fit_typer
from cifm_cli.data.readers.counts import in_memory
from cifm_cli.data.readers.tenx import read_matrix
from cifm_cli.data.slide import log_normalise, open_slide
from cifm_cli.provenance import numpy_generator

SYMBOLS = tuple(f"G{i}" for i in range(12))
MARKERS = {"left": ("G0", "G1"), "right": ("G2", "G3"), "absent": ("G4", "G5"), "unmeasured": ("Z1", "Z2", "G0")}
# Profiles over the 12 genes: two markers, then the rest. G6 comes along with `left`, though no table says so.
LEFT = [6, 6, 0, 0, 0, 0, 8, 2, 2, 2, 2, 2]
RIGHT = [0, 0, 6, 6, 0, 0, 0, 2, 2, 2, 2, 2]


@pytest.fixture(scope="module")
def planted() -> tuple[csr_matrix, np.ndarray]:
    generator = numpy_generator(0, "planted")
    truth = generator.integers(2, size=600)
    profiles = np.array([LEFT, RIGHT], dtype=float) + 0.05
    counts = generator.poisson(20 * profiles[truth] / profiles[truth].sum(axis=1, keepdims=True))
    matrix = csr_matrix(counts.astype(np.float32))
    return log_normalise(matrix, np.asarray(matrix.sum(axis=1)).ravel(), 1e4), truth


@pytest.fixture(scope="module")
def typer(planted) -> MarkerTyper:
    return fit_typer(planted[0], SYMBOLS, MARKERS)


def cell(**counts: int) -> csr_matrix:
    row = np.zeros((1, len(SYMBOLS)), dtype=np.float32)
    for gene, number in counts.items():
        row[0, SYMBOLS.index(gene)] = number
    return log_normalise(csr_matrix(row), row.sum(axis=1), 1e4)


def test_planted_types_come_back(typer: MarkerTyper, planted) -> None:
    found = typer.annotate(planted[0], SYMBOLS)
    assert typer.names == ("left", "right", "absent", UNASSIGNED)
    assert typer.left_out == {"unmeasured": 1}
    assert (found.codes == planted[1]).mean() > 0.95
    assert found.composition().sum() == 600
    assert found.composition()[typer.names.index("absent")] <= 2
    assert np.array_equal(found.of_type("right"), np.flatnonzero(found.labels == "right"))


def test_a_type_learns_the_genes_that_come_along_with_its_markers(typer: MarkerTyper) -> None:
    assert typer.annotate(cell(G6=6, G7=1), SYMBOLS).labels.tolist() == ["left"]


def test_a_type_never_learns_the_markers_of_another(typer: MarkerTyper) -> None:
    foreign = [SYMBOLS.index(gene) for gene in ("G2", "G3", "G4", "G5")]
    assert typer.log_ratios[foreign, typer.names.index("left")].max() <= 1e-9 + np.log(1.2)


def test_void_cells_and_cells_without_any_clue_are_unassigned(typer: MarkerTyper) -> None:
    assert typer.annotate(cell(), SYMBOLS).labels.tolist() == [UNASSIGNED]
    assert typer.annotate(cell(G0=1, G2=1), SYMBOLS).scores[0] < 0.9
    with_score = typer.annotate(cell(G0=5, G1=5), SYMBOLS)
    assert with_score.labels.tolist() == ["left"]
    assert 0.9 < with_score.scores[0] <= 1


def test_a_cell_is_the_same_in_any_company(typer: MarkerTyper, planted) -> None:
    alone = [typer.annotate(planted[0][i], SYMBOLS).codes[0] for i in range(20)]
    order = numpy_generator(1).permutation(20)
    together = typer.annotate(vstack([planted[0][order]], format="csr"), SYMBOLS)
    assert np.array_equal(together.codes, np.array(alone)[order])


def test_genes_may_come_in_any_order_and_unknown_ones_say_nothing(typer: MarkerTyper, planted) -> None:
    expected = typer.annotate(planted[0], SYMBOLS)
    order = numpy_generator(2).permutation(len(SYMBOLS))
    noise = csr_matrix(np.full((600, 1), 9.0))
    more = csr_matrix(np.hstack([planted[0].toarray()[:, order], noise.toarray()]))
    found = typer.annotate(more, [*(SYMBOLS[i].lower() for i in order), "other"])
    assert np.array_equal(found.codes, expected.codes)


def test_fitting_twice_is_the_same_bit_for_bit(typer: MarkerTyper, planted) -> None:
    again = fit_typer(planted[0], SYMBOLS, MARKERS)
    assert np.array_equal(again.log_ratios, typer.log_ratios)
    assert np.array_equal(again.log_shares, typer.log_shares)


def test_without_any_type_everything_is_unassigned(planted) -> None:
    typer = fit_typer(planted[0], SYMBOLS, {"unmeasured": ("Z1", "Z2")})
    assert set(typer.annotate(planted[0], SYMBOLS).labels) == {UNASSIGNED}


def test_the_synthetic_tissue_is_read_rightly(prepared_synthetic: Path) -> None:
    slide = open_slide(prepared_synthetic)
    expression = slide.expression(np.arange(slide.num_cells), 1e4)
    found = fit_typer(expression, slide.symbols, load_markers()).annotate(expression, slide.symbols).labels
    truth = ad.read_h5ad(prepared_synthetic).obs["cluster"].astype(str).to_numpy()
    for planted_name, name in {
        "t_cell": "T cell",
        "acinar": "acinar cell",
        "ductal": "ductal cell",
        "fibroblast": "fibroblast",
        "endothelial": "endothelial cell",
        "macrophage": "macrophage",
        "plasma": "plasma cell",
    }.items():
        assert (found[truth == planted_name] == name).mean() > 0.9, planted_name


@pytest.mark.data
def test_types_on_real_tissue(shared_data: Path) -> None:
    """The download's own graph clusters, read from the same counts, are no ground truth; but they must be found again."""
    folder = shared_data / "xenium_pancreas"
    matrix = read_matrix(folder / "cell_feature_matrix.h5")
    genes = matrix.genes["feature_type"].to_numpy() == "Gene Expression"
    counts = in_memory(matrix.counts)[:, np.flatnonzero(genes)].astype(np.float32)
    expression = log_normalise(counts, np.asarray(counts.sum(axis=1)).ravel(), 1e4)
    symbols = matrix.genes["symbol"][genes].tolist()
    found = fit_typer(expression, symbols, load_markers()).annotate(expression, symbols).labels
    table = pd.read_csv(folder / "analysis/clustering/gene_expression_graphclust/clusters.csv", dtype=str)
    cluster = table.set_index("Barcode")["Cluster"].reindex(matrix.barcodes).to_numpy()
    known = {
        "T cell": ["4"],
        "macrophage": ["5"],
        "fibroblast": ["1"],
        "endothelial cell": ["11"],
        "acinar cell": ["3", "6", "16"],
        "islet cell": ["21", "24", "28"],
    }
    among = np.isin(cluster, [number for clusters in known.values() for number in clusters])
    for name, clusters in known.items():
        called, there = found == name, np.isin(cluster, clusters)
        recall, precision = called[there].mean(), there[called & among].mean()
        assert recall > 0.78, f"{name}: recall {recall:.3f}"
        assert precision > 0.9, f"{name}: precision {precision:.3f}"
