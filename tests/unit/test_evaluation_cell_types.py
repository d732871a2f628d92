"""Agreement of types, against numbers worked out by hand; and the ceiling that noise sets."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cifm_cli.celltype.base import UNASSIGNED, Annotation
from cifm_cli.data.slide import slide_from_arrays
from cifm_cli.evaluation.dataset import EvaluationDataset
from cifm_cli.evaluation.metrics.cell_types import CellTypes, compare_types, top_k_overlap, type_cells
from cifm_cli.evaluation.report.page import cell_type_section
from cifm_cli.evaluation.report.tables import cell_type_table
from cifm_cli.inference.prediction import Prediction
from cifm_cli.provenance import numpy_generator
from cifm_cli.statistics.bootstrap import spatial_bootstrap

NAMES = ("a", "b", "c", UNASSIGNED)


def annotation(codes: list[int], probabilities: list[list[float]] | None = None) -> Annotation:
    """Types of cells from the probabilities of a, b and c."""
    with np.errstate(divide="ignore"):
        weighed = None if probabilities is None else np.log(np.array([[*row, 0.0] for row in probabilities]))
    scores = np.full(len(codes), 0.25, dtype=np.float32)
    return Annotation(
        NAMES, np.array(codes, dtype=np.int64), scores, None if weighed is None else weighed.astype(np.float32)
    )


def test_agreement_by_hand() -> None:
    """Four cells a, a, a, b; found a, a, unassigned, c."""
    actual = annotation([0, 0, 0, 1], [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.5, 0.3, 0.2], [0.3, 0.6, 0.1]])
    found = annotation([0, 0, 3, 2], [[0.5, 0.4, 0.1], [0.8, 0.1, 0.1], [0.4, 0.35, 0.25], [0.3, 0.2, 0.5]])
    agreement = compare_types(actual, found)
    assert agreement.accuracy == pytest.approx(2 / 4)
    assert agreement.balanced_accuracy == pytest.approx((2 / 3 + 0) / 2)
    assert agreement.assigned == pytest.approx(3 / 4)
    assert agreement.confidence == pytest.approx((0.5 + 0.8 + 0.4 + 0.5) / 4)
    assert agreement.log_loss == pytest.approx(-np.log([0.5, 0.8, 0.4, 0.2]).mean(), rel=1e-6)
    # k = 1: a a, a a, a a, b c. k = 2: ab ab, ab with a and half of b or c, ab ab, ba with c and a. k = 3: all.
    assert agreement.top_k == pytest.approx([3 / 4, (1 + 0.75 + 1 + 0.5) / 4, 1])
    assert agreement.to_json()["top_k"] == list(agreement.top_k)


def test_a_type_of_the_same_lineage_is_counted_apart_from_the_same_type() -> None:
    names = ("CD8 T cell", "B cell", "fibroblast", "own type", UNASSIGNED)

    def typed(codes: list[int]) -> Annotation:
        return Annotation(names, np.array(codes), np.ones(len(codes), dtype=np.float32), None)

    # The same type, another lymphoid cell, another lineage, a type that the taxonomy lacks, and no type.
    agreement = compare_types(typed([0, 0, 0, 3, 0]), typed([0, 1, 2, 3, 4]))
    assert agreement.accuracy == pytest.approx(2 / 5)
    assert agreement.lineage_accuracy == pytest.approx(3 / 5)


def test_improbable_types_do_not_agree_by_their_order() -> None:
    """Of ten types one is certain; the other k - 1 places are drawn from nine at random, on each side."""
    sure = np.log(np.array([[1.0] + [1e-30] * 9]))
    assert top_k_overlap(sure, sure) == pytest.approx([(1 + (k - 1) ** 2 / 9) / k for k in range(1, 11)])


def test_k_is_at_most_the_number_of_types() -> None:
    generator = numpy_generator(0)
    ours, theirs = generator.normal(size=(2, 20, 4)).astype(np.float32)
    overlap = top_k_overlap(ours, theirs)
    assert len(overlap) == 4
    assert overlap[-1] == 1
    assert top_k_overlap(ours, ours) == (1, 1, 1, 1)
    assert len(top_k_overlap(*generator.normal(size=(2, 5, 30)).astype(np.float32))) == 10


def test_random_rankings_overlap_by_chance() -> None:
    ours, theirs = numpy_generator(1).normal(size=(2, 4000, 20)).astype(np.float32)
    assert top_k_overlap(ours, theirs) == pytest.approx([k / 20 for k in range(1, 11)], abs=0.02)


def test_without_probabilities_there_is_no_overlap() -> None:
    agreement = compare_types(annotation([0, 1]), annotation([0, 2]))
    assert (agreement.accuracy, agreement.balanced_accuracy, agreement.assigned) == (0.5, 0.5, 1)
    assert (agreement.top_k, agreement.log_loss, agreement.confidence) == ((), None, 0.25)


def test_without_cells_the_agreement_is_zero() -> None:
    facts = compare_types(annotation([]), annotation([])).to_json()
    assert facts.pop("top_k") == []
    assert facts.pop("log_loss") is None
    assert set(facts.values()) == {0}


class LargestGene:
    """Names a cell by the gene that it expresses most; void cells are unassigned."""

    names = NAMES

    def annotate(self, expression: csr_matrix, _symbols: tuple[str, ...]) -> Annotation:
        values = expression.toarray()
        codes = np.where(values.any(axis=1), values.argmax(axis=1), 3)
        weighed = np.hstack([values - 10, np.full((len(values), 1), -np.inf)]).astype(np.float32)
        return Annotation(NAMES, codes, np.ones(len(codes), dtype=np.float32), weighed)


@pytest.fixture
def dataset() -> EvaluationDataset:
    """Sixty cells with ten counts of one gene and one of another, and one void cell; three scored genes of four."""
    counts = np.zeros((61, 4), dtype=np.float32)
    for cell in range(60):
        counts[cell, [cell % 3, (cell + 1) % 3, 3]] = 10, 1, 5
    xy_um = np.arange(122.0).reshape(61, 2)
    slide = slide_from_arrays("s", xy_um, csr_matrix(counts), ("A", "B", "C", "D"), 20.0)
    return EvaluationDataset(slide, np.arange(3), 10_000.0, 20.0, 40.0, 0)


def typed(dataset: EvaluationDataset, number: int = 61, annotator: type = LargestGene) -> CellTypes:
    """The first cells, typed."""
    rows = np.arange(number)  # small blocks: a few large ones decide nothing
    return type_cells(annotator(), dataset, rows, spatial_bootstrap(dataset.slide.xy_um[rows], 1.0, 0))


def test_only_noise_lowers_the_ceiling(dataset: EvaluationDataset) -> None:
    types = typed(dataset)
    assert types.typed.tolist() == [True] * 60 + [False]
    assert types.actual.composition().tolist() == [20, 20, 20, 0]
    facts = types.to_json()
    assert facts["num_typed"] == 60
    assert facts["types"] == {"a": 20, "b": 20, "c": 20}
    assert facts["chance_top_k"] == pytest.approx([1 / 3, 2 / 3, 1])
    assert 0.9 < facts["ceiling"]["accuracy"] <= 1  # ten counts thinned to five still exceed one thinned to a half
    assert facts["ceiling"]["top_k"][1] < 1  # the second gene is often lost


def test_actual_expression_agrees_with_all_types_and_zeros_with_none(dataset: EvaluationDataset) -> None:
    types = typed(dataset)
    values = dataset.slide.expression(np.arange(61), 10_000.0)[:, :3].toarray()
    types.agreement["oracle"] = types.compare({"mean": values, "gated": np.zeros_like(values)})
    types.agreement["zeros"] = types.compare(
        {"mean": np.zeros_like(values), "sampled": values}
    )  # the form sampled is not compared
    actual, nothing = types.agreement["oracle"]["mean"], types.agreement["oracle"]["gated"]
    assert actual.accuracy == actual.balanced_accuracy == actual.top_k[0] == 1
    assert (nothing.accuracy, nothing.assigned) == (0, 0)
    paired = types.paired("oracle", ["zeros"])
    assert (paired["model_form"], paired["best_baseline"], paired["form"]) == ("mean", "zeros", "mean")
    assert paired["difference"] == paired["low"] == paired["high"] == 1


def test_the_interval_reflects_which_blocks_agree(dataset: EvaluationDataset) -> None:
    """Half of the tissue is right, so the fraction of right cells differs between draws of blocks."""
    types = typed(dataset, 60)
    values = dataset.slide.expression(np.arange(60), 10_000.0)[:, :3].toarray()
    half = values.copy()
    half[:30] = 0
    types.agreement["half"] = types.compare({"mean": half})
    types.agreement["zeros"] = types.compare({"mean": 0 * values})
    paired = types.paired("half", ["zeros"])
    assert paired["difference"] == pytest.approx(0.5)
    assert 0.1 < paired["low"] < 0.5 < paired["high"] < 0.9


def test_a_region_of_void_cells_has_no_types(dataset: EvaluationDataset) -> None:
    rows = np.array([60])
    types = type_cells(LargestGene(), dataset, rows, spatial_bootstrap(dataset.slide.xy_um[rows], 20.0, 0))
    types.agreement["model"] = types.compare({"mean": np.ones((1, 3), dtype=np.float32)})
    types.agreement["zeros"] = types.compare({"mean": np.zeros((1, 3), dtype=np.float32)})
    assert types.to_json()["num_typed"] == types.to_json()["confidence"] == 0
    assert types.paired("model", ["zeros"])["difference"] == 0
    assert len(cell_type_table(types).rows) == 4
    assert cell_type_section(types, "s").images == []


def test_table_and_section(dataset: EvaluationDataset) -> None:
    types = typed(dataset)
    values = dataset.slide.expression(np.arange(61), 10_000.0)[:, :3].toarray()
    types.agreement["model"] = types.compare({"mean": 0 * values, "gated": values})
    table = cell_type_table(types)
    assert [row[0] for row in table.rows] == ["actual", "ceiling: half of the counts", "model, mean", "model, gated"]
    assert {len(row) for row in table.rows} == {len(table.columns)}
    assert table.best == [(3, 1)]
    section = cell_type_section(types, "s, scattered")
    assert section.heading == "s, scattered: cell types of 60 cells"
    assert len(section.images) == 1
    assert types.to_json()["agreement"]["model"]["gated"]["accuracy"] == 1


def test_expression_is_renormalised_for_the_annotator(dataset: EvaluationDataset) -> None:
    """log1p of counts scaled to 1 becomes log1p of counts scaled to 10,000."""
    seen = []

    class Spy(LargestGene):
        def annotate(self, expression: csr_matrix, symbols: tuple[str, ...]) -> Annotation:
            seen.append(expression.toarray())
            return super().annotate(expression, symbols)

    other = EvaluationDataset(dataset.slide, dataset.columns, 1.0, 20.0, 40.0, 0)
    types = typed(other, 60, Spy)
    types.agreement["model"] = types.compare({"mean": dataset.slide.expression(np.arange(60), 1.0)[:, :3].toarray()})
    assert seen[-1] == pytest.approx(seen[0], rel=1e-4)


def test_sampled_counts_have_the_depth_of_the_cell(dataset: EvaluationDataset) -> None:
    types = typed(dataset, 60)
    targets = dataset.targets(np.arange(60))
    mean = np.tile(targets.values.mean(axis=0), (60, 1)).astype(np.float32)
    prediction = Prediction(mean, np.full((60, 3), 2 / 3, dtype=np.float32))
    sampled = types.sample_counts(prediction, targets, "model")
    counts = np.expm1(sampled) / 10_000 * dataset.slide.total_counts[:60, None]
    assert counts == pytest.approx(np.rint(counts), abs=1e-3)
    assert counts.sum() == pytest.approx(targets.counts.sum(), rel=0.15)
    assert np.array_equal(sampled, types.sample_counts(prediction, targets, "model"))
    assert not np.array_equal(sampled, types.sample_counts(prediction, targets, "knn"))
