"""The answer and the remarks of the page of `cifm annotate apply`."""

from __future__ import annotations

import numpy as np

from cifm_cli.celltype.apply_report import answer, limits
from cifm_cli.celltype.base import UNASSIGNED, Annotation

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
