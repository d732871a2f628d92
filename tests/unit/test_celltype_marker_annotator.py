"""The marker annotator: it recovers planted types, and assigns types to cells independently of each other."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix, vstack

from cifm_cli.celltype.base import UNASSIGNED
from cifm_cli.celltype.marker_annotator import MarkerAnnotator, fit_marker_annotator
from cifm_cli.celltype.markers import load_markers
from cifm_cli.celltype.taxonomy import load_taxonomy
from cifm_cli.data.readers.counts import in_memory
from cifm_cli.data.readers.tenx import read_matrix
from cifm_cli.data.slide import log_normalise, open_slide
from cifm_cli.provenance import numpy_generator

SYMBOLS = tuple(f"G{i}" for i in range(12))
MARKERS = {"left": ("G0", "G1"), "right": ("G2", "G3"), "absent": ("G4", "G5"), "unmeasured": ("Z1", "Z2", "G0")}
# Profiles over the 12 genes: two markers, then the rest. G6 is expressed by `left`, but is no marker in the table.
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
def annotator(planted) -> MarkerAnnotator:
    return fit_marker_annotator(planted[0], SYMBOLS, MARKERS)


def cell(**counts: int) -> csr_matrix:
    row = np.zeros((1, len(SYMBOLS)), dtype=np.float32)
    for gene, number in counts.items():
        row[0, SYMBOLS.index(gene)] = number
    return log_normalise(csr_matrix(row), row.sum(axis=1), 1e4)


def test_planted_types_are_recovered(annotator: MarkerAnnotator, planted) -> None:
    found = annotator.annotate(planted[0], SYMBOLS)
    assert annotator.names == ("left", "right", "absent", UNASSIGNED)
    assert annotator.left_out == {"unmeasured": 1}
    assert (found.codes == planted[1]).mean() > 0.95
    assert found.composition().sum() == 600
    assert found.composition()[annotator.names.index("absent")] <= 2
    assert np.array_equal(found.of_type("right"), np.flatnonzero(found.labels == "right"))


def test_a_profile_includes_genes_that_are_coexpressed_with_its_markers(annotator: MarkerAnnotator) -> None:
    assert annotator.annotate(cell(G6=6, G7=1), SYMBOLS).labels.tolist() == ["left"]


def test_a_profile_never_includes_the_markers_of_another_type(annotator: MarkerAnnotator) -> None:
    foreign = [SYMBOLS.index(gene) for gene in ("G2", "G3", "G4", "G5")]
    assert annotator.log_ratios[foreign, annotator.names.index("left")].max() <= 1e-9 + np.log(1.2)


def test_void_cells_are_unassigned_and_ambiguous_cells_have_low_scores(annotator: MarkerAnnotator) -> None:
    assert annotator.annotate(cell(), SYMBOLS).labels.tolist() == [UNASSIGNED]
    clear = annotator.annotate(cell(G0=5, G1=5), SYMBOLS)
    assert annotator.annotate(cell(G0=1, G2=1), SYMBOLS).scores[0] <= clear.scores[0]
    assert clear.labels.tolist() == ["left"]
    assert 0.9 < clear.scores[0] <= 1


def test_the_type_of_a_cell_does_not_depend_on_the_other_cells(annotator: MarkerAnnotator, planted) -> None:
    alone = [annotator.annotate(planted[0][i], SYMBOLS).codes[0] for i in range(20)]
    order = numpy_generator(1).permutation(20)
    together = annotator.annotate(vstack([planted[0][order]], format="csr"), SYMBOLS)
    assert np.array_equal(together.codes, np.array(alone)[order])


def test_genes_may_come_in_any_order_and_unknown_ones_are_ignored(annotator: MarkerAnnotator, planted) -> None:
    expected = annotator.annotate(planted[0], SYMBOLS)
    order = numpy_generator(2).permutation(len(SYMBOLS))
    noise = csr_matrix(np.full((600, 1), 9.0))
    more = csr_matrix(np.hstack([planted[0].toarray()[:, order], noise.toarray()]))
    found = annotator.annotate(more, [*(SYMBOLS[i].lower() for i in order), "other"])
    assert np.array_equal(found.codes, expected.codes)


def test_fitting_twice_is_the_same_bit_for_bit(annotator: MarkerAnnotator, planted) -> None:
    again = fit_marker_annotator(planted[0], SYMBOLS, MARKERS)
    assert np.array_equal(again.log_ratios, annotator.log_ratios)
    assert np.array_equal(again.log_prior, annotator.log_prior)


def test_without_any_type_every_cell_is_unassigned(planted) -> None:
    annotator = fit_marker_annotator(planted[0], SYMBOLS, {"unmeasured": ("Z1", "Z2")})
    assert set(annotator.annotate(planted[0], SYMBOLS).labels) == {UNASSIGNED}


def test_types_of_the_synthetic_tissue_are_recovered(prepared_synthetic: Path) -> None:
    slide = open_slide(prepared_synthetic)
    expression = slide.expression(np.arange(slide.num_cells), 1e4)
    found = fit_marker_annotator(expression, slide.symbols, load_markers()).annotate(expression, slide.symbols).labels
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
def test_types_of_a_real_tissue(shared_data: Path) -> None:
    """Types agree with the graph clusters of the download, which were computed from the same counts."""
    folder = shared_data / "xenium_pancreas"
    matrix = read_matrix(folder / "cell_feature_matrix.h5")
    genes = matrix.genes["feature_type"].to_numpy() == "Gene Expression"
    counts = in_memory(matrix.counts)[:, np.flatnonzero(genes)].astype(np.float32)
    expression = log_normalise(counts, np.asarray(counts.sum(axis=1)).ravel(), 1e4)
    symbols = matrix.genes["symbol"][genes].tolist()
    found = (
        fit_marker_annotator(expression, symbols, load_markers(), tissue="pancreas")
        .annotate(expression, symbols)
        .labels
    )
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
    taxonomy = load_taxonomy()
    is_known = np.isin(cluster, [number for clusters in known.values() for number in clusters])
    for name, clusters in known.items():
        is_called = np.array([taxonomy.is_below(label, name) for label in found])
        is_actual = np.isin(cluster, clusters)
        recall, precision = is_called[is_actual].mean(), is_actual[is_called & is_known].mean()
        assert recall > 0.74, f"{name}: recall {recall:.3f}"
        assert precision > 0.85, f"{name}: precision {precision:.3f}"
