"""Cells of lineages that a reference lacks stay unassigned; the others keep their types."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cifm_cli.celltype.apply_report import limits
from cifm_cli.celltype.base import UNASSIGNED, UnlabelledCells
from cifm_cli.celltype.drawn_cells import draw_cells
from cifm_cli.celltype.fitting import TargetSlide, train_classifier
from cifm_cli.celltype.label_names import lineage_of_label
from cifm_cli.celltype.labelled_cells import LabelledCells
from cifm_cli.celltype.lineage_check import LineageCheckedAnnotator, check_lineages, lineages_of_labels
from cifm_cli.celltype.markers import load_markers
from cifm_cli.celltype.profiles import load_profiles
from cifm_cli.celltype.reference import load_classifier, open_reference, save_classifier
from cifm_cli.celltype.taxonomy import lineage_of
from cifm_cli.data.slide import log_normalise
from cifm_cli.provenance import numpy_generator

BLOOD = ("T cell", "B cell", "NK cell", "monocyte")
TISSUE = ("T cell", "monocyte", "ductal cell", "acinar cell", "endothelial cell", "fibroblast")
DEPTH = 80.0


def panel() -> tuple[str, ...]:
    """Marker genes that have profiles."""
    profiled = set(load_profiles().genes)
    wanted = {gene.upper() for name in (*BLOOD, *TISSUE) for gene in load_markers()[name]}
    return tuple(sorted(wanted & profiled))


def profiles(names: tuple[str, ...]) -> LabelledCells:
    """The packaged profiles of some types."""
    packaged = load_profiles()
    rows, _ = packaged.on_panel(panel())
    kept = [packaged.types.index(name) for name in names]
    return LabelledCells(csr_matrix(rows[kept]), panel(), np.array(names, dtype=object))


@pytest.fixture(scope="module")
def tissue() -> LabelledCells:
    return draw_cells(profiles(TISSUE), TargetSlide(panel(), np.full(100, DEPTH)), 1_800, 1)


@pytest.fixture(scope="module")
def classifier_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = TargetSlide(panel(), np.full(100, DEPTH))
    cells = draw_cells(profiles(BLOOD), target, 1_200, 0)
    path = tmp_path_factory.mktemp("types") / "blood.safetensors"
    save_classifier(path, train_classifier(cells, target, max_cells=1_200, threshold=0.5, seed=0))
    return path


def unlabelled(cells: LabelledCells) -> UnlabelledCells:
    totals = np.asarray(cells.counts.sum(axis=1), dtype=np.float64).ravel()
    return UnlabelledCells("tissue", log_normalise(cells.counts, totals, 1e4), cells.symbols, "pancreas")


def test_other_lineages_stay_unassigned_and_own_ones_keep_their_types(
    tissue: LabelledCells, classifier_file: Path
) -> None:
    cells = unlabelled(tissue)
    plain = load_classifier(classifier_file)
    checked = open_reference(classifier_file, cells, trust_pickle=False)
    assert isinstance(checked, LineageCheckedAnnotator)
    assert checked.lineages == plain.lineages == ("lymphoid cell", "myeloid cell")
    before, after = (each.annotate(cells.expression, cells.symbols) for each in (plain, checked))
    is_own = np.isin([lineage_of(name) for name in tissue.labels], plain.lineages)
    assert (before.labels[~is_own] != UNASSIGNED).mean() > 0.3, "without the check they get some name"
    assert (after.labels[~is_own] != UNASSIGNED).mean() < 0.05
    assert (after.labels == before.labels)[is_own].mean() > 0.95
    assert after.is_outside is not None
    assert after.is_outside[~is_own].mean() > 0.9
    assert (after.labels[after.is_outside] == UNASSIGNED).all()
    assert after.take(is_own).is_outside.sum() == after.is_outside[is_own].sum()


def test_probabilities_sum_to_one_with_the_part_of_no_known_type(tissue: LabelledCells, classifier_file: Path) -> None:
    cells = unlabelled(tissue)
    found = open_reference(classifier_file, cells, trust_pickle=False).annotate(cells.expression, cells.symbols)
    assert found.log_probabilities is not None
    assert np.exp(found.log_probabilities).sum(axis=1) == pytest.approx(1, abs=1e-4)
    assert np.exp(found.log_probabilities[found.is_outside, -1]).mean() > 0.5
    assert np.isneginf(found.log_probabilities[~found.is_outside, -1]).all()


def test_the_page_says_how_many_cells_are_of_other_lineages(tissue: LabelledCells, classifier_file: Path) -> None:
    cells = unlabelled(tissue)
    checked = open_reference(classifier_file, cells, trust_pickle=False)
    types = checked.annotate(cells.expression, cells.symbols)
    _, outside, others = limits(types, checked)
    assert outside.startswith(f"{types.is_outside.sum():,} of them (")
    assert outside.endswith("It has: lymphoid cell, myeloid cell.")
    assert others.startswith("The annotator knows 4 types")


def test_labels_of_other_data_have_the_lineage_that_they_mean() -> None:
    names = ("CD16+.monocyte", "mesenchymal.stem.cell", "unassigned", "tanycyte")
    assert [lineage_of_label(name) for name in names] == ["myeloid cell", "stromal cell", "unassigned", "tanycyte"]


def test_lineages_follow_from_names_or_from_expression() -> None:
    named = profiles(("T cell", "fibroblast"))
    assert lineages_of_labels(named) == ("lymphoid cell", "stromal cell")
    nameless = LabelledCells(named.counts, named.symbols, np.array(["cluster 1", "cluster 2"], dtype=object))
    assert lineages_of_labels(nameless) == ("lymphoid cell", "stromal cell")
    noise = numpy_generator(0, "profiles").exponential(size=(2, len(panel())))
    unlike = LabelledCells(csr_matrix(noise), panel(), np.array(["1", "2"], dtype=object))
    assert lineages_of_labels(unlike) == (), "they may be of any lineage"


def test_nothing_is_checked_where_it_cannot_be(tissue: LabelledCells, classifier_file: Path) -> None:
    plain = load_classifier(classifier_file)
    cells = unlabelled(tissue)
    assert check_lineages(plain, (), cells) is plain
    strange = UnlabelledCells("s", cells.expression[:, :2], ("GENE1", "GENE2"))
    assert check_lineages(plain, plain.lineages, strange) is plain
    types = plain.annotate(cells.expression, cells.symbols)
    assert "cells of other lineages are not recognised here" in limits(types, plain)[1]
