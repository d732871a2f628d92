"""The reference annotator: training, its report, and the round trip through its file."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from scipy.special import log_softmax

from cifm_cli.celltype.base import UNASSIGNED, UnlabelledCells
from cifm_cli.celltype.fitting import (
    MIN_CELLS,
    TargetSlide,
    balanced_calibration_error,
    balanced_log_loss,
    classification_report,
    report_table,
    train_classifier,
)
from cifm_cli.celltype.labelled_cells import LabelledCells, read_labelled_cells
from cifm_cli.celltype.reference import ReferenceClassifier, describe, load_classifier, open_reference, save_classifier
from cifm_cli.data.slide import log_normalise
from cifm_cli.errors import CifmError
from cifm_cli.provenance import numpy_generator

NUM_GENES = 30
SYMBOLS = tuple(f"G{number}" for number in range(NUM_GENES))
PROFILES = numpy_generator(0, "profiles").dirichlet(np.full(NUM_GENES, 0.5), 3)
TYPES = ("alpha", "beta", "gamma")
PLAIN = {"max_cells": 900, "threshold": 0.5, "seed": 0}


def draw(num_cells: int, depth: float, seed: int) -> LabelledCells:
    """Return labelled cells of three types, the first one ten times as common as the last."""
    generator = numpy_generator(seed, "reference")
    codes = generator.choice(3, num_cells, p=[10 / 14, 3 / 14, 1 / 14])
    counts = generator.poisson(PROFILES[codes] * depth).astype(np.float32)
    return LabelledCells(csr_matrix(counts), SYMBOLS, np.array(TYPES, dtype=object)[codes])


def expression(counts: csr_matrix) -> csr_matrix:
    return log_normalise(counts, np.asarray(counts.sum(axis=1), dtype=np.float64).ravel(), 1e4)


@pytest.fixture(scope="module")
def classifier() -> ReferenceClassifier:
    return train_classifier(draw(1500, 40, 0), None, **PLAIN)


def test_reported_scores_hold_on_new_cells(classifier: ReferenceClassifier) -> None:
    new = draw(3000, 40, 1)
    found = classifier.annotate(expression(new.counts), SYMBOLS)
    best = np.array(classifier.types)[found.log_probabilities[:, :-1].argmax(axis=1)]
    report = classifier.report
    assert classifier.names == (*TYPES, UNASSIGNED)
    assert (best == new.labels).mean() == pytest.approx(report["accuracy"], abs=0.07)
    assert report["accuracy"] > 0.85
    assert set(report["recall"]) == set(TYPES)
    assert report["calibration_error"] < 0.1
    called = found.labels != UNASSIGNED
    assert (found.labels == new.labels)[called].mean() == pytest.approx(report["accuracy_of_assigned"], abs=0.07)


def test_scores_are_calibrated(classifier: ReferenceClassifier) -> None:
    """Every type has the same weight in training, so scores are calibrated where types are equally frequent."""
    generator = numpy_generator(5)
    codes = generator.integers(3, size=4000)
    cells = csr_matrix(generator.poisson(PROFILES[codes] * 40).astype(np.float32))
    found = classifier.annotate(expression(cells), SYMBOLS)
    is_correct = found.log_probabilities[:, :-1].argmax(axis=1) == codes
    assert found.confidence.mean() == pytest.approx(is_correct.mean(), abs=0.05)


def test_genes_may_come_in_any_order_and_some_may_be_missing(classifier: ReferenceClassifier) -> None:
    cells = expression(draw(200, 40, 2).counts)
    whole = classifier.annotate(cells, SYMBOLS)
    order = numpy_generator(3).permutation(NUM_GENES)
    reordered = classifier.annotate(cells[:, order], [SYMBOLS[gene].lower() for gene in order])
    assert reordered.log_probabilities == pytest.approx(whole.log_probabilities, abs=1e-4)
    fewer = classifier.annotate(cells[:, :25], SYMBOLS[:25])
    assert (fewer.codes == whole.codes).mean() > 0.7


def test_void_cells_are_unassigned(classifier: ReferenceClassifier) -> None:
    found = classifier.annotate(csr_matrix((2, NUM_GENES), dtype=np.float32), SYMBOLS)
    assert found.labels.tolist() == [UNASSIGNED] * 2
    assert found.scores.tolist() == [0, 0]


def test_the_same_seed_gives_the_same_classifier(classifier: ReferenceClassifier) -> None:
    again = train_classifier(draw(1500, 40, 0), None, **PLAIN)
    assert np.array_equal(again.weights, classifier.weights)
    assert again.report == classifier.report


def test_a_target_slide_sets_genes_and_depth() -> None:
    target = TargetSlide(SYMBOLS[:20], np.full(100, 12.0))
    found = train_classifier(draw(1500, 400, 0), target, **PLAIN)
    assert set(found.genes) <= set(SYMBOLS[:20])
    assert 9 < found.report["median_depth"] < 15
    shallow = TargetSlide(SYMBOLS, np.full(100, 1e6))
    assert train_classifier(draw(1500, 40, 0), shallow, **PLAIN).report["median_depth"] > 35  # counts are never added


def test_rare_types_are_left_out_and_two_types_suffice() -> None:
    labelled = draw(300, 60, 0)
    labels = labelled.labels.copy()
    labels[labels == "gamma"] = "beta"
    labels[:3] = "odd"
    found = train_classifier(LabelledCells(labelled.counts, SYMBOLS, labels), None, **PLAIN)
    assert found.types == ("alpha", "beta")
    assert found.report["left_out"] == {"odd": 3}
    assert found.weights.shape == (len(found.genes), 2)
    named = found.annotate(expression(labelled.counts), SYMBOLS).labels
    assert (named == labels)[3:].mean() > 0.85
    with pytest.raises(CifmError, match=f"1 of 2 types have {MIN_CELLS} cells"):
        train_classifier(
            LabelledCells(labelled.counts, SYMBOLS, np.where(labels == "odd", "odd", "all")), None, **PLAIN
        )


def test_a_slide_without_genes_of_the_labelled_cells_is_refused() -> None:
    with pytest.raises(CifmError, match=r"none of the genes of the slide \(such as X1\)"):
        train_classifier(draw(300, 60, 0), TargetSlide(("X1",), np.ones(3)), **PLAIN)


def test_scores_by_hand() -> None:
    """Five cells of types 0, 0, 0, 0, 1, so that a cell of type 1 has the weight of four of type 0."""
    logits = np.log(np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.3, 0.7]])).astype(np.float32)
    codes = np.array([0, 0, 0, 0, 1])
    assert balanced_log_loss(logits, codes) == pytest.approx(
        -(3 * np.log(0.9) + np.log(0.3)) / 8 - np.log(0.7) / 2, rel=1e-5
    )
    # Bin of 0.9: three correct cells of weight 1/8. Bin of 0.7: one wrong of 1/8, one correct of 1/2.
    assert balanced_calibration_error(logits, codes) == pytest.approx(3 / 8 * 0.1 + abs(-0.7 / 8 + 0.3 / 2), rel=1e-4)
    report = classification_report(logits, codes, ("a", "b"), 0.8)
    assert report["accuracy"] == pytest.approx(0.8)
    assert report["recall"] == pytest.approx({"a": 0.75, "b": 1.0})
    assert report["balanced_accuracy"] == pytest.approx(0.875)
    assert report["unassigned"] == pytest.approx(0.4)
    assert report["accuracy_of_assigned"] == 1
    assert classification_report(logits, codes, ("a", "b"), 0.95)["accuracy_of_assigned"] is None


def test_a_classifier_is_unchanged_after_saving_and_loading(classifier: ReferenceClassifier, tmp_path: Path) -> None:
    save_classifier(tmp_path / "types.safetensors", classifier)
    loaded = load_classifier(tmp_path / "types.safetensors")
    cells = expression(draw(50, 40, 4).counts)
    found, expected = loaded.annotate(cells, SYMBOLS), classifier.annotate(cells, SYMBOLS)
    assert np.array_equal(found.log_probabilities, expected.log_probabilities)
    assert loaded.report == classifier.report
    assert describe(tmp_path / "types.safetensors")["genes"] == len(classifier.genes)
    opened = open_reference(tmp_path / "types.safetensors", UnlabelledCells("s", cells, SYMBOLS), trust_pickle=False)
    assert opened.names == classifier.names
    with pytest.raises(CifmError, match="slide s: its panel measures 7 of"):
        open_reference(
            tmp_path / "types.safetensors", UnlabelledCells("s", cells[:, :7], SYMBOLS[:7]), trust_pickle=False
        )


def test_other_files_are_refused(tmp_path: Path, prepared_synthetic: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CifmError, match="not a cell type classifier of cifm"):
        load_classifier(tmp_path / "other.safetensors")
    with pytest.raises(CifmError, match="not a readable cell type classifier"):
        load_classifier(prepared_synthetic)


def test_the_report_as_a_table(classifier: ReferenceClassifier) -> None:
    table = report_table(classifier.report)
    assert table.columns[0].endswith(f"fitted on {classifier.report['cells']['fit']:,}")
    assert [row[0] for row in table.rows][-3:] == [f"recall of {name}" for name in TYPES]


def test_counts_are_read_from_every_slot_that_can_hold_them(tmp_path: Path) -> None:
    counts = np.array([[1, 0, 2], [0, 3, 0], [4, 0, 0]], dtype=np.float32)
    obs = pd.DataFrame({"type": pd.Categorical(["a", None, "b"])}, index=list("xyz"))
    var = pd.DataFrame({"feature_name": ["CD3E", "CD4", "MS4A1"]}, index=["ENSG1", "ENSG2", "ENSG3"])
    scaled = csr_matrix(counts / 3)
    plain = ad.AnnData(csr_matrix(counts), obs=obs, var=var)
    layered = ad.AnnData(scaled, obs=obs, var=var, layers={"counts": csr_matrix(counts)})
    raw = ad.AnnData(scaled[:, :2], obs=obs, var=var.iloc[:2])
    raw.raw = plain
    for name, table in {"plain": plain, "layered": layered, "raw": raw}.items():
        table.write_h5ad(tmp_path / f"{name}.h5ad")
        found = read_labelled_cells(tmp_path / f"{name}.h5ad", "type")
        assert found.symbols == ("CD3E", "CD4", "MS4A1"), name
        assert found.labels.tolist() == ["a", "b"]
        assert np.array_equal(found.counts.toarray(), counts[[0, 2]])


def test_ensembl_ids_without_symbols_are_looked_up_in_the_packaged_table(tmp_path: Path) -> None:
    obs = pd.DataFrame({"type": ["a"]}, index=["x"])
    table = ad.AnnData(csr_matrix(np.ones((1, 2), dtype=np.float32)), obs=obs)
    table.var_names = ["ENSG00000198851.10", "ENSG00000010610"]
    table.write_h5ad(tmp_path / "ids.h5ad")
    assert read_labelled_cells(tmp_path / "ids.h5ad", "type").symbols == ("CD3E", "CD4")


@pytest.mark.parametrize(
    ("values", "label", "message"),
    [(1.0, "types", "no obs column 'types'"), (0.5, "type", "neither X nor layers")],
)
def test_a_file_without_labels_or_counts_is_refused(tmp_path: Path, values: float, label: str, message: str) -> None:
    table = ad.AnnData(np.full((1, 2), values, dtype=np.float32), obs=pd.DataFrame({"type": ["a"]}, index=["x"]))
    table.write_h5ad(tmp_path / "t.h5ad")
    with pytest.raises(CifmError, match=message):
        read_labelled_cells(tmp_path / "t.h5ad", label)


def test_probabilities_sum_to_one(classifier: ReferenceClassifier) -> None:
    found = classifier.annotate(expression(draw(20, 40, 6).counts), SYMBOLS)
    assert np.exp(found.log_probabilities).sum(axis=1) == pytest.approx(np.ones(20), abs=1e-5)
    assert log_softmax(found.log_probabilities[:, :-1], axis=1) == pytest.approx(
        found.log_probabilities[:, :-1], abs=1e-5
    )


def labelled_file(path: Path) -> Path:
    """Write counts of ten labelled cells as sparse rows."""
    counts = csr_matrix(np.ones((10, NUM_GENES), dtype=np.float32))
    obs = pd.DataFrame({"type": ["a", "b"] * 5}, index=[f"c{number}" for number in range(10)])
    ad.AnnData(counts, obs, pd.DataFrame(index=list(SYMBOLS))).write_h5ad(path)
    return path


def test_indices_outside_of_a_matrix_are_an_error(tmp_path: Path) -> None:
    path = labelled_file(tmp_path / "labelled.h5ad")
    assert read_labelled_cells(path, "type").counts.shape == (10, NUM_GENES)
    with h5py.File(path, "r+") as file:
        file["X/indices"][3] = 2**30
    with pytest.raises(CifmError, match=r"labelled\.h5ad: a matrix that cannot be read"):
        read_labelled_cells(path, "type")


def test_labelled_cells_that_claim_a_size_or_another_encoding_are_an_error(tmp_path: Path) -> None:
    path = labelled_file(tmp_path / "labelled.h5ad")
    with h5py.File(path, "r+") as file:
        del file["X/data"]
        file["X"].create_dataset("data", shape=(10**12,), dtype="f4")
    with pytest.raises(CifmError, match=r"labelled\.h5ad: damaged"):
        read_labelled_cells(path, "type")
    path = labelled_file(tmp_path / "labelled.h5ad")
    with h5py.File(path, "r+") as file:
        file["obs"].attrs["encoding-type"] = "unknown"
    with pytest.raises(CifmError, match=r"labelled\.h5ad: damaged"):
        read_labelled_cells(path, "type")
