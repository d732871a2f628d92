"""The answer and the remarks of the page of `cifm annotate apply`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.sparse import csr_matrix

from cifm_cli.celltype.apply_report import FOREIGN, SPOTS, answer, limits
from cifm_cli.celltype.base import UNASSIGNED, Annotation
from cifm_cli.celltype.marker_annotator import fit_marker_annotator
from cifm_cli.celltype.spots import SpotAnnotator

TYPES = Annotation(
    ("T cell", "fibroblast", UNASSIGNED), np.array([0, 0, 1, 2, 0, 0, 1, 0, 0, 0]), np.ones(10, dtype=np.float32)
)
LINEAGES = np.array(["lymphoid cell", "stromal cell", UNASSIGNED])[TYPES.codes]


def test_the_answer_counts_types_lineages_and_unassigned_cells() -> None:
    assert answer("tissue", TYPES, LINEAGES) == (
        "2 types were found among the 10 cells of tissue; most frequent lineages: lymphoid cell 70%, stromal cell 20%; "
        "1 cells (10.0%) could not be given a type."
    )
    alone = TYPES.take(TYPES.codes == 1)
    assert answer("tissue", alone, LINEAGES[TYPES.codes == 1]).startswith(
        "1 type was found among the 2 cells of tissue;"
    )
    none = TYPES.take(TYPES.codes == 2)
    assert answer("tissue", none, LINEAGES[TYPES.codes == 2]) == "No cell of tissue could be given a type."


def test_a_classifier_knows_nothing_but_its_types() -> None:
    first, second = limits(TYPES, object())
    assert first == "1 of 10 cells are unassigned (10.0%)."
    assert second.startswith("The annotator knows 2 types, and cells of other lineages are not recognised here")


def test_spots_are_no_cells_and_foreign_genes_are_named() -> None:
    spots = object.__new__(SpotAnnotator)  # only its class matters here
    assert limits(TYPES, spots, ["ENSG1", "ENSG2"])[1:] == [SPOTS]
    assert limits(TYPES, spots, ["ENSMUSG1", "ENSMUSG2"])[1:] == [FOREIGN, SPOTS]
    assert FOREIGN not in limits(TYPES, object(), ["ENSMUSG1", "ENSMUSG2"])


def test_similar_types_share_one_entry() -> None:
    expression = csr_matrix(np.eye(4, dtype=np.float32).repeat(10, axis=0))
    markers = {"left": ("G0", "G1"), "right": ("G2", "G3")}
    fitted = fit_marker_annotator(expression, ("G0", "G1", "G2", "G3"), markers)
    similar = replace(fitted, indistinct=(("a", "b"), ("a", "c"), ("b", "c")))
    assert "The panel hardly tells apart: a from b / c, b from c." in limits(TYPES, similar)
