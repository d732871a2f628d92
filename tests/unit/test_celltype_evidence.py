"""Types need evidence on a slide before they may claim cells; a slide of another tissue than the references'."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cifm_cli.celltype.marker_annotator import MarkerAnnotator, fit_marker_annotator
from cifm_cli.celltype.markers import load_markers
from cifm_cli.celltype.profiles import load_profiles
from cifm_cli.celltype.taxonomy import load_taxonomy
from cifm_cli.data.slide import log_normalise
from cifm_cli.provenance import numpy_generator

# A breast panel in small: fibroblast and luminal genes, and two of erythroid cells, which the slide does not contain.
PANEL = (
    *("LUM", "POSTN", "DPT", "PDGFRA", "FBLN1", "SFRP4", "PCOLCE", "MMP2", "CXCL12", "CCDC80"),
    *("EPCAM", "KRT8", "KRT7", "FOXA1", "GATA3", "ESR1", "MLPH", "ERBB2", "AR", "CDH1", "CLDN4", "ELF3", "AGR3"),
    *("PTPRC", "CD3E", "CD3D", "CD2", "TRAC", "IL7R", "CD4", "CD8A", "CCL5"),
    *("CD68", "CD163", "CD14", "AIF1", "MRC1", "LYZ", "FCGR3A"),
    *("PECAM1", "VWF", "KDR", "CLDN5", "EGFL7", "CLEC14A"),
    *("AHSP", "SLC4A1", "ADIPOQ", "LEP", "PLIN4"),
)
TRUTH = {
    "fibroblast": 600,
    "luminal epithelial cell": 900,
    "CD4 T cell": 300,
    "macrophage": 200,
    "endothelial cell": 200,
}


@pytest.fixture(scope="module")
def slide() -> tuple[csr_matrix, np.ndarray]:
    """Cells with a tenth of their counts from elsewhere, and 0.02 counts of each erythroid gene."""
    generator = numpy_generator(0, "breast")
    profiles, _ = load_profiles().on_panel(PANEL)
    truth = np.repeat(np.array(list(TRUTH), dtype=object), list(TRUTH.values()))
    rows = np.array([load_profiles().types.index(name) for name in truth])
    rate = profiles[rows] * np.exp(generator.normal(0, 0.5, len(PANEL)))
    rate /= rate.sum(axis=1, keepdims=True)
    rate = 60 * (0.9 * rate + 0.1 * rate.mean(axis=0))
    rate[:, [PANEL.index("AHSP"), PANEL.index("SLC4A1")]] = 0.02
    return csr_matrix(generator.poisson(rate).astype(np.float32)), truth


def fit(slide: tuple[csr_matrix, np.ndarray], tissue: str | None) -> tuple[MarkerAnnotator, np.ndarray]:
    counts, _ = slide
    expression = log_normalise(counts, np.asarray(counts.sum(axis=1)).ravel(), 1e4)
    annotator = fit_marker_annotator(expression, PANEL, load_markers(), tissue=tissue)
    return annotator, annotator.annotate(expression, PANEL).labels


def test_barely_expressed_markers_found_no_type(slide) -> None:
    annotator, labels = fit(slide, None)
    assert not annotator.evidence.is_found[annotator.types.index("erythroid cell")]
    assert not np.isin(labels, ["erythroid cell", "adipocyte"]).any()


def test_types_of_a_tissue_are_recovered(slide) -> None:
    taxonomy, truth = load_taxonomy(), slide[1]
    annotator, labels = fit(slide, "breast cancer")
    assert annotator.tissue == "breast"
    assert (labels[truth == "luminal epithelial cell"] == "luminal epithelial cell").mean() > 0.9
    assert (labels[truth == "fibroblast"] == "fibroblast").mean() > 0.95
    for name in ("T cell", "macrophage", "endothelial cell"):
        is_called = np.array([taxonomy.is_below(label, name) for label in labels])
        is_actual = np.array([taxonomy.is_below(label, name) for label in truth])
        assert is_called[is_actual].mean() > 0.9, name
        assert is_actual[is_called].mean() > 0.9, name


def test_a_tissue_excludes_types_that_it_lacks(slide) -> None:
    annotator, labels = fit(slide, "lung")
    assert not {"luminal epithelial cell", "acinar cell", "erythroid cell"} & set(annotator.names)
    assert all(load_taxonomy().is_possible(label, "lung") for label in set(labels))


def test_positions_play_no_part_and_cells_are_named_one_by_one(slide) -> None:
    annotator, labels = fit(slide, "breast")
    counts = slide[0][::97]
    expression = log_normalise(counts, np.asarray(counts.sum(axis=1)).ravel(), 1e4)
    assert annotator.annotate(expression, PANEL).labels.tolist() == labels[::97].tolist()


def test_types_that_the_panel_hardly_tells_apart_are_listed(slide) -> None:
    annotator, _ = fit(slide, "breast")
    names = {frozenset(pair) for pair in annotator.indistinct}
    assert frozenset(("fibroblast", "luminal epithelial cell")) not in names
    assert all(not load_taxonomy().are_related(*pair) for pair in annotator.indistinct)


@pytest.mark.parametrize(
    "counts",
    [
        np.zeros((5, 20)),
        np.zeros((0, 20)),
        np.ones((1, 20)),
        np.full((40, 20), 1e6),
        np.eye(30, 20),
        numpy_generator(0, "noise").poisson(0.02, (300, 20)),
    ],
)
def test_slides_without_information_give_finite_scores(counts: np.ndarray) -> None:
    matrix = csr_matrix(counts.astype(np.float32))
    totals = np.maximum(np.asarray(matrix.sum(axis=1)).ravel(), 1.0)
    expression = log_normalise(matrix, totals, 1e4)
    found = fit_marker_annotator(expression, PANEL[:20], load_markers()).annotate(expression, PANEL[:20])
    assert found.codes.shape == (len(counts),)
    assert np.isfinite(found.scores).all()
    assert found.log_probabilities is not None
    assert np.allclose(np.exp(found.log_probabilities.astype(np.float64)).sum(axis=1), 1, atol=1e-4)


# Genes of a bone marrow panel, and what a thousand counts of each of five kinds of cells hold beyond a background of 5 each.
MARROW = ("CTSG", "PLPPR3", "CD24", "KIT", "CPA3", "MS4A2", "MMP8", "LTF", "CEACAM8", "MMRN1", "CAVIN2", "GNG11", "VWF", "PECAM1",
          "CLEC14A", "EGFL7", "PROX1", "LYVE1", "COL1A1", "IBSP", "SPP1", "ALPL", "CXCL12", "PDGFRA", "LGI4", "CD3E", "TRAC")  # fmt: skip
MARROW_CELLS = {
    "neutrophil progenitor": {"CTSG": 400, "PLPPR3": 60, "CD24": 150},
    "megakaryocyte": {"MMRN1": 250, "CAVIN2": 250, "GNG11": 60, "VWF": 60, "PECAM1": 100},
    "endothelial cell": {"PECAM1": 150, "VWF": 150, "CLEC14A": 60, "EGFL7": 60},
    "osteoblast": {"COL1A1": 450, "IBSP": 60, "SPP1": 200, "ALPL": 40},
    "neutrophil": {"MMP8": 200, "LTF": 500, "CEACAM8": 50},
}


def test_cells_of_the_bone_marrow_have_names_of_their_own() -> None:
    generator = numpy_generator(0, "marrow")
    rates = np.full((len(MARROW_CELLS), len(MARROW)), 5.0)
    for row, genes in enumerate(MARROW_CELLS.values()):
        rates[row, [MARROW.index(gene) for gene in genes]] += list(genes.values())
    truth = np.repeat(np.arange(len(rates)), 300)
    counts = csr_matrix(generator.poisson(25 * (rates / rates.sum(axis=1, keepdims=True))[truth]).astype(np.float32))
    expression = log_normalise(counts, np.asarray(counts.sum(axis=1)).ravel(), 1e4)
    annotator = fit_marker_annotator(expression, MARROW, load_markers(), tissue="bone marrow")
    labels = annotator.annotate(expression, MARROW).labels
    assert "lymphatic endothelial cell" not in annotator.names
    for row, name in enumerate(MARROW_CELLS):
        assert (labels[truth == row] == name).mean() > 0.8, name
    # Without the types of the marrow, these are called mast cells, lymphatic vessels and Schwann cells.
    assert not np.isin(labels, ["mast cell", "Schwann cell"]).any()
