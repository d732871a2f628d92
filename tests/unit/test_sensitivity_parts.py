"""The parts of a sensitivity analysis: free places, the typical cell, targets, proposals, means by nearest label."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from builders import load_random_model
from scipy.sparse import csr_matrix

from cifm_cli.data.slide import Slide
from cifm_cli.errors import CifmError
from cifm_cli.simulation.config import SimulateConfig
from cifm_cli.simulation.edits.labels import ColumnLabels
from cifm_cli.simulation.edits.requests import Inject
from cifm_cli.simulation.prepared_tissue import PreparedTissue, prepare_tissue
from cifm_cli.simulation.sensitivity.added_cells import AddedCells, free_places, typical_cell
from cifm_cli.simulation.sensitivity.search_places import compare_derivatives, propose_places
from cifm_cli.simulation.sensitivity.summary import by_nearest_label
from cifm_cli.simulation.sensitivity.target import find_target
from cifm_cli.simulation.source_cells import SourceCells
from cifm_cli.simulation.window import choose_window


@pytest.fixture(scope="module")
def prepared(slide: Slide) -> PreparedTissue:
    """A tissue whose labels are `KRT8`, the symbol of a gene, and `b`."""
    model = load_random_model(slide, {"model": {"width": 8}})
    labels = ColumnLabels("own", np.array(["KRT8", "b"], dtype=object)[np.arange(slide.num_cells) % 2])
    config = SimulateConfig((Inject("b", min_distance_um=4.0),), labels=labels)
    return prepare_tissue(slide, model.panel(slide).columns, config, choose_window(slide.xy_um, None, 200))


def test_free_places_are_in_the_tissue_and_keep_their_distance(prepared: PreparedTissue) -> None:
    grid = free_places(prepared.tissue, prepared.edits[0].edit)
    slide = prepared.tissue.slide
    distance = np.linalg.norm(grid.xy_um[:, None] - slide.xy_um, axis=2).min(axis=1)
    assert grid.min_distance_um == 4.0
    assert (distance >= 4.0).all()
    assert (distance <= slide.radius_um).all()
    steps = grid.xy_um / grid.spacing_um
    assert steps == pytest.approx(np.rint(steps), abs=1e-6)
    assert len(np.unique(np.rint(steps), axis=0)) == len(steps)
    # About as many as there are cells, less those that are too near to one
    assert 0.3 * slide.num_cells < len(grid.xy_um) < 1.2 * slide.num_cells


def test_the_typical_cell_is_like_the_mean_of_its_type() -> None:
    counts = np.array([[9, 0, 0], [2, 2, 0], [2, 3, 0], [3, 2, 0], [0, 0, 4], [400, 0, 9]])
    source = SourceCells("T cell", csr_matrix(counts.astype(np.float32)), counts.sum(axis=1).astype(float))
    assert typical_cell(source, 1e4) in (2, 3)


def test_a_target_that_is_both_gene_and_label_needs_a_prefix(prepared: PreparedTissue) -> None:
    with pytest.raises(CifmError, match="both a gene and a label") as error:
        find_target("krt8", None, prepared)
    assert "gene:krt8 or label:krt8" in error.value.hint
    assert find_target("gene:KRT8", None, prepared).kind == "gene"
    label = find_target("label:KRT8", "b", prepared)
    assert (label.kind, label.gene, label.cells_label) == ("label", None, "b")
    assert np.array_equal(label.cells, prepared.labels.rows("b"))
    with pytest.raises(CifmError, match="neither a gene"):
        find_target("nothing at all", None, prepared)


def test_proposals_are_the_highest_places_that_are_apart() -> None:
    xy_um = np.array([[0.0, 0.0], [5.0, 0.0], [20.0, 0.0], [40.0, 0.0], [60.0, 0.0]])
    values = np.array([3.0, 4.0, 2.0, -1.0, 0.0])
    assert propose_places(values, xy_um, 5, 10.0).tolist() == [1, 2]
    assert propose_places(values, xy_um, 5, 1.0).tolist() == [1, 0, 2]
    assert propose_places(values, xy_um, 1, 1.0).tolist() == [1]
    assert propose_places(-values, xy_um, 5, 1.0).tolist() == [3]
    assert propose_places(np.zeros(0), np.zeros((0, 2)), 5, 1.0).tolist() == []


def test_derivatives_are_compared_at_places_that_are_apart() -> None:
    xy_um = np.stack([np.arange(40.0) * 5, np.zeros(40)], axis=1)
    added = AddedCells("T cell", xy_um, csr_matrix((1, 3), dtype=np.float32), 1.0)
    values = np.arange(40.0) - 10

    def evaluate(cells: AddedCells, gate: np.ndarray) -> np.ndarray:
        places = cells.xy_um[:, 0]
        assert np.diff(np.sort(places)).min() >= 10
        assert (gate == 0.5).all()
        return (places / 5 - 10) / 4

    found = compare_derivatives(values, added, 10.0, np.random.default_rng(0), evaluate)
    assert found is not None
    assert (found.ratio, found.rank_correlation) == (pytest.approx(0.25), pytest.approx(1.0))
    assert 13 <= found.num_places <= 20
    assert compare_derivatives(values, added, 50.0, np.random.default_rng(0), evaluate) is None
    assert compare_derivatives(0 * values, added, 10.0, np.random.default_rng(0), evaluate) is None


def test_means_by_the_nearest_label_leave_out_rare_labels() -> None:
    labels = ["a"] * 10 + ["b"] * 12 + ["c"] * 3
    values = [1.0] * 10 + [-2.0] * 6 + [0.0] * 6 + [9.0] * 3
    means = by_nearest_label(pd.DataFrame({"nearest_label": labels, "value": values}))
    assert [(row["label"], row["mean"], row["largest"]) for row in means] == [("a", 1.0, 1.0), ("b", -1.0, -2.0)]
