"""The parts of edits: places, labels, genes, words of the command line, and what they mean on a slide."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from cifm_cli.celltype.stored_labels import labels_of
from cifm_cli.data.slide import slide_from_arrays
from cifm_cli.errors import CifmError
from cifm_cli.provenance import numpy_generator
from cifm_cli.simulation import structure
from cifm_cli.simulation.edits.apply import Addition, GeneChange, Removal, Replacement, apply_edits
from cifm_cli.simulation.edits.labels import ColumnLabels, find_gene
from cifm_cli.simulation.edits.places import area_near, tissue_area
from cifm_cli.simulation.edits.requests import Inject, Knockout, Overexpress, Remove, Swap
from cifm_cli.simulation.edits.resolve import EditContext, resolve_edits
from cifm_cli.simulation.edits.words import EditWords
from cifm_cli.simulation.experiment import Trajectory
from cifm_cli.simulation.source_cells import SourceCells
from cifm_cli.simulation.tissue import TissueState, crop_tissue

# Six cells in a row, 10 um apart, of the labels a and b; gene 0 is of a, gene 1 of b, gene 2 of none.
#
#     a0  a1  b2  b3  a4  -5
XY_UM = np.column_stack([10.0 * np.arange(6), np.zeros(6)])
LABELS = np.array(["a", "a", "b", "b", "a", None], dtype=object)
COUNTS = csr_matrix(np.array([[4, 0, 0], [2, 0, 0], [0, 3, 0], [0, 5, 0], [6, 1, 0], [1, 1, 0]], dtype=np.float32))
SYMBOLS = ("CD3E", "KRT8", "PAX8")


@pytest.fixture
def context() -> EditContext:
    """The row of six cells, all of them simulated, with a radius of 15 um."""
    slide = slide_from_arrays("row", XY_UM, COUNTS, ("ENSG1", "ENSG2", "ENSG3"), 15.0, symbols=SYMBOLS)
    labels = ColumnLabels("kind", LABELS)
    tissue = crop_tissue(slide, np.arange(6), np.arange(3))
    return EditContext(slide, np.arange(3), tissue, labels, np.arange(6), labels, 0)


def edited(context: EditContext, *requests: object) -> np.ndarray:
    """Counts after some edits."""
    edits = [entry.edit for entry in resolve_edits(requests, context)]
    return apply_edits(context.tissue, edits, numpy_generator(0)).tissue.counts.toarray()


def test_removed_cells_become_void(context: EditContext) -> None:
    edits = [entry.edit for entry in resolve_edits([Remove("b")], context)]
    result = apply_edits(context.tissue, edits, numpy_generator(0))
    assert result.tissue.counts.sum(axis=1).ravel().tolist() == [[4, 2, 0, 0, 7, 2]]
    assert result.tissue.slide.total_counts.tolist() == [4, 2, 0, 0, 7, 2]
    assert result.tissue.depths.tolist() == [4, 2, 0, 0, 7, 2]
    assert result.edited.tolist() == [2, 3]
    assert result.xy_um.tolist() == [[20, 0], [30, 0]]
    assert context.tissue.slide.total_counts.tolist() == [4, 2, 3, 5, 7, 2]  # the tissue before is not changed


def test_swapped_cells_are_copies(context: EditContext) -> None:
    counts = edited(context, Swap("b", "a"))
    sources = {tuple(row) for row in COUNTS.toarray()[[0, 1, 4]].tolist()}
    assert {tuple(row) for row in counts[[2, 3]].tolist()} <= sources
    assert np.array_equal(counts[[0, 1, 4, 5]], COUNTS.toarray()[[0, 1, 4, 5]])


def test_added_cells_come_last_with_their_places(context: EditContext) -> None:
    places = np.array([[5.0, 1.0], [25.0, 1.0]])
    edits = [entry.edit for entry in resolve_edits([Inject("void", 3), Inject("b", at_um=places)], context)]
    result = apply_edits(context.tissue, edits, numpy_generator(0))
    assert result.added.tolist() == [6, 7, 8, 9, 10]
    assert result.added_labels.tolist() == ["b", "b", "void", "void", "void"]
    assert np.array_equal(result.xy_um, places)
    assert not result.tissue.slide.total_counts[8:].any()
    assert not len(result.edited)


def test_a_gene_is_knocked_out_in_chosen_cells(context: EditContext) -> None:
    counts = edited(context, Knockout("cd3e", "a", region_um=(-1, -1, 15, 1)))
    assert counts[:, 0].tolist() == [0, 0, 0, 0, 6, 1]
    assert np.array_equal(counts[:, 1:], COUNTS.toarray()[:, 1:])


def test_overexpression_multiplies_the_mean(context: EditContext) -> None:
    (entry,) = resolve_edits([Overexpress("CD3E", 3.0, "a")], context)
    assert isinstance(entry.edit, GeneChange)
    sums = [
        apply_edits(context.tissue, [entry.edit], numpy_generator(seed)).tissue.counts[:, 0].sum()
        for seed in range(400)
    ]
    assert np.mean(sums) == pytest.approx(3 * 12 + 1, rel=0.02)
    # a label without a count of the gene takes the mean of all cells, 13 of 23 counts
    (entry,) = resolve_edits([Overexpress("CD3E", 3.0, "b")], context)
    assert entry.edit.fraction == pytest.approx(13 / 23)


def test_edits_near_a_label(context: EditContext) -> None:
    """A cell is not near itself: b2 is near b3, but a4 is near b3 only."""
    (entry,) = resolve_edits([Remove("a", near="b")], context)
    assert entry.edit.cells.tolist() == [1, 4]
    (entry,) = resolve_edits([Remove("b", near="b", within_um=9.0)], _moved(context))
    assert entry.edit.cells.tolist() == [2, 3]


def _moved(context: EditContext) -> EditContext:
    """The same tissue with the cells b at a distance of 8 um."""
    xy_um = XY_UM.copy()
    xy_um[3, 0] = 28.0
    slide = slide_from_arrays("row", xy_um, COUNTS, ("ENSG1", "ENSG2", "ENSG3"), 15.0, symbols=SYMBOLS)
    tissue = crop_tissue(slide, np.arange(6), np.arange(3))
    return EditContext(slide, np.arange(3), tissue, context.labels, np.arange(6), context.labels, 0)


@pytest.mark.parametrize(
    ("requests", "message", "hint"),
    [
        ((), "no edit", "inject, remove or swap"),
        ((Remove("c"),), "obs column kind: no label 'c'", "known here: a, b"),
        (
            (Remove("a", region_um=(90, 0, 99, 9)),),
            "nothing to edit: none of the 6 simulated cells is labelled a in",
            "region",
        ),
        ((Inject("a", region_um=(900, 0, 990, 9)),), "region 900,0,990,9: no place", "span 0,0,50,0"),
        ((Inject("a", at_um=np.array([[20.0, 0.0], [9e4, 0.0]])),), "1 of 2 places have no simulated cell", "span 0,0"),
        ((Inject("a", 50, min_distance_um=8.0),), "places for", "fewer cells"),
        ((Inject("a", 100_000),), "100,000 cells to inject among 6", "at most 10 per"),
        ((Inject("a", density=0.01),), "not a single cell", "--count"),
        ((Swap("a", "A"),), "one label twice", "two labels"),
        ((Swap("c", "a"),), "no label 'c'", "known here: a, b"),
        ((Remove("a"), Swap("a", "b")), "3 cells are removed or swapped by two edits", "once"),
        ((Knockout("KRT8"),), "all 6 simulated cells are edited", "--in LABEL"),
        ((Knockout("CD3D"),), "no gene 'CD3D' among the 3 genes", "did you mean CD3E?"),
        ((Knockout("PAX8"),), "nothing to edit: no count of PAX8", "other cells or genes"),
        ((Overexpress("PAX8", 2),), "nothing to multiply: no count of PAX8", "another gene"),
        ((Knockout("CD3E", "a"), Overexpress("CD3E", 2, "a")), "one gene is changed twice", "one edit"),
    ],
)
def test_edits_that_cannot_be_made(context: EditContext, requests: tuple, message: str, hint: str) -> None:
    with pytest.raises(CifmError) as error:
        edited(context, *requests)
    assert message in error.value.message
    assert hint in error.value.hint


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Inject("a", 1, 1.0), "count and density"),
        (lambda: Inject("a", 1, at_um=XY_UM), "at is given together with count"),
        (lambda: Inject("a", at_um=XY_UM, near="b"), "at is given together with near"),
        (lambda: Inject("a", at_um=XY_UM, min_distance_um=3), "min distance"),
        (lambda: Inject("a", -1), "not a number of cells"),
        (lambda: Inject("a", 2.5), "not a number of cells"),
        (lambda: Remove("a", region_um=(0, 0, float("inf"), 1)), "not a rectangle"),
        (lambda: Inject("a", density=float("nan")), "not a density"),
        (lambda: Inject("a", min_distance_um=float("inf")), "not a distance"),
        (lambda: Remove("a", within_um=3.0), "without a label"),
        (lambda: Remove("a", near="b", within_um=0.0), "not a distance"),
        (lambda: Remove("a", region_um=(0, 0, 0, 1)), "not a rectangle"),
        (lambda: Overexpress("G", 1.0), "above 1"),
        (lambda: Overexpress("G", float("nan")), "above 1"),
    ],
)
def test_requests_that_contradict_themselves(make: object, message: str) -> None:
    with pytest.raises(CifmError, match=message):
        make()


def test_words_of_the_command_line(tmp_path: Path) -> None:
    words = EditWords(
        inject=("tcell", "void"),
        remove=("b cell",),
        swap=("a=b=c",),
        knockout=("CD3E",),
        overexpress=("KRT8=2.5",),
        cells="ductal cell",
        count=3,
        near="macrophage",
        within_um=30.0,
        region="0,0,9,9",
        inject_from=tmp_path / "atlas.h5ad",
    )
    first, void, remove, swap, knockout, overexpress = words.requests()
    assert (first.cell_type, first.count, first.near, first.region_um) == ("tcell", 3, "macrophage", (0, 0, 9, 9))
    assert first.reference.source == tmp_path / "atlas.h5ad"
    assert void.reference is None
    assert (remove.cells, swap.cells, swap.by) == ("b cell", "a=b", "c")
    assert (knockout.gene, knockout.cells, overexpress.fold) == ("CD3E", "ductal cell", 2.5)
    assert overexpress.to_json() == {
        "edit": "overexpress", "gene": "KRT8", "fold": 2.5, "cells": "ductal cell",
        "region_um": [0, 0, 9, 9], "near": "macrophage", "within_um": 30.0,
    }  # fmt: skip


def test_genes_are_found_by_symbol_and_id() -> None:
    assert find_gene("krt8", SYMBOLS, ("ENSG1", "ENSG2", "ENSG3")) == 1
    assert find_gene("ensg3.7", SYMBOLS, ("ENSG1", "ENSG2", "ENSG3")) == 2


def test_labels_of_a_column() -> None:
    assert labels_of(pd.Series([1.0, 2.0, np.nan]), "c").tolist() == ["1", "2", None]
    assert labels_of(pd.Series(["x", "", None], dtype="category"), "c").tolist() == ["x", None, None]
    with pytest.raises(CifmError, match="2,000 different values"):
        labels_of(pd.Series(np.arange(2_000)), "c")
    with pytest.raises(CifmError, match="0 different values"):
        labels_of(pd.Series([None, None], dtype=object), "c")
    labels = ColumnLabels("c", np.array(["T cells", "b+", "b-"], dtype=object))
    assert (labels.find("tcell"), labels.find("b-"), labels.find("b+")) == ("T cells", "b-", "b+")


@given(st.integers(0, 1_000), st.floats(0.5, 6.0), st.integers(1, 40))
def test_positions_keep_their_distance_and_stay_in_their_area(seed: int, distance_um: float, count: int) -> None:
    tissue = numpy_generator(seed, "tissue").uniform(0, 200, (60, 2))
    area = area_near(tissue[:20], 30.0, tissue, 15.0, (20.0, 0.0, 180.0, 200.0))
    positions = area.draw(count, numpy_generator(seed), tissue, distance_um)
    assert positions.shape == (count, 2)
    assert cKDTree(tissue).query(positions)[0].min() >= distance_um
    assert cKDTree(tissue).query(positions)[0].max() <= 15.0
    assert cKDTree(tissue[:20]).query(positions)[0].max() <= 30.0
    assert positions[:, 0].min() >= 20.0
    assert positions[:, 0].max() <= 180.0
    if count > 1:
        assert cKDTree(positions).query(positions, k=2)[0][:, 1].min() >= distance_um


def test_the_size_of_an_area() -> None:
    """One disc, two discs that do not overlap, and half a disc."""
    disc = np.pi * 100.0 / 1e6
    far_apart = np.array([[0.0, 0.0], [100.0, 0.0]])
    assert tissue_area(far_apart[:1], 10.0).size_mm2() == pytest.approx(disc, rel=0.02)
    assert tissue_area(np.repeat(far_apart, 3, axis=0), 10.0).size_mm2() == pytest.approx(2 * disc, rel=0.02)
    assert tissue_area(far_apart, 10.0, (-50, -50, 0, 50)).size_mm2() == pytest.approx(disc / 2, rel=0.02)


def test_density_is_per_area(context: EditContext) -> None:
    (entry,) = resolve_edits([Inject("a", density=20_000.0)], context)
    area = tissue_area(XY_UM, 15.0).size_mm2()
    assert entry.edit.count == round(20_000 * area)
    assert entry.to_json()["num_cells"] == entry.edit.count


def test_edits_are_described(context: EditContext) -> None:
    requests = [
        Inject("a", 2),
        Remove("b", region_um=(15, -1, 25, 1)),
        Knockout("KRT8", "b"),
        Overexpress("CD3E", 2, "a"),
    ]
    assert [entry.describe() for entry in resolve_edits(requests, context)] == [
        "injecting 2 cells (a), copies of 3",
        "removing 1 cells (b)",
        "removing KRT8 from 2 cells",
        "multiplying CD3E by 2 in 3 cells",
    ]


# Four residents in a row and their types before and after; cell 3 was edited.
#
#     before  0 0 1 1     after  0 1 1 0
def test_structure_of_a_tissue() -> None:
    xy_um = np.column_stack([10.0 * np.arange(4), np.zeros(4)])
    pairs = structure.neighbour_pairs(xy_um, 10.0)
    assert sorted(map(tuple, pairs.tolist())) == [(0, 1), (1, 2), (2, 3)]
    assert structure.like_neighbour_share(np.array([0, 0, 1, 1]), pairs) == pytest.approx(2 / 3)
    assert structure.join_counts(np.array([0, 0, 1, 1]), pairs, 2).tolist() == [[2, 1], [1, 2]]
    assert structure.like_neighbour_share(np.zeros(4), structure.neighbour_pairs(xy_um, 5.0)) is None
    final = SimpleNamespace(slide=SimpleNamespace(xy_um=xy_um))
    codes = np.array([[0, 0, 1, 1], [0, 1, 1, 0]], dtype=np.int16)
    trajectories = [Trajectory(arm, 0, codes, final, np.arange(3)) for arm in ("control", "treated")]
    near, _ = structure.structure_facts(trajectories, 10.0)
    assert near == {"within_um": 10.0, "like_neighbour_share": {"before": 0.5, "control": 0.5, "treated": 0.5}}
    table = structure.neighbour_table(trajectories[:1], ("x", "y"), 10.0).query("within_um == 10")
    assert table.drop(columns=["arm", "replicate", "within_um"]).to_numpy().tolist() == [
        ["x", "x", 2, 0], ["x", "y", 1, 1], ["y", "x", 1, 1], ["y", "y", 0, 2],
    ]  # fmt: skip


def test_edits_of_one_tissue_state_are_typed(context: EditContext) -> None:
    source = SourceCells("a", COUNTS[:1], np.array([4.0]))
    area = tissue_area(XY_UM, 15.0)
    edits = [Addition(source, 1, area), Removal(np.array([0])), Replacement(np.array([1]), source)]
    result = apply_edits(context.tissue, edits, numpy_generator(0))
    assert isinstance(result.tissue, TissueState)
    assert result.edited.tolist() == [0, 1]
    assert result.tissue.num_residents == 6
