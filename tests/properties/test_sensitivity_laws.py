"""Laws of a sensitivity analysis: the derivative is that of the prediction, from no cell to a whole cell.

Everything is computed in double precision, on 150 cells.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import load_random_model
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from cifm_cli.data.counts_source import MemoryCounts
from cifm_cli.data.slide import Slide, open_slide
from cifm_cli.inference.adaptation.adapt import adapt_to_slide
from cifm_cli.inference.loaded_model import LoadedModel
from cifm_cli.model.masking import reach_um
from cifm_cli.simulation.config import SimulateConfig
from cifm_cli.simulation.edits.requests import Inject
from cifm_cli.simulation.prepared_tissue import PreparedTissue, prepare_tissue
from cifm_cli.simulation.sensitivity import gradient
from cifm_cli.simulation.sensitivity.added_cells import AddedCells, free_places, typical_cell
from cifm_cli.simulation.sensitivity.full_recomputation import FullRecomputation
from cifm_cli.simulation.sensitivity.gradient import TargetFunction, hidden_sets
from cifm_cli.simulation.sensitivity.search_genes import expression_gradient
from cifm_cli.simulation.sensitivity.target import Readout, find_target, make_readout
from cifm_cli.simulation.state_sampler import fit_state_sampler
from cifm_cli.simulation.tissue import InjectedCells, TissueState, inject
from cifm_cli.simulation.window import choose_window

SMALL = {"width": 8, "encoder_layers": 1, "decoder_layers": 2, "heads": 2, "self_loops": True}
KINDS = {
    "network": {"model": SMALL, "objective": {"cutoff": 2.0, "linear_rank": 4}},
    "members": {"model": {**SMALL, "members": 2}, "objective": {"cutoff": 2.0, "linear_rank": 4}},
    "paper": {"model": {**SMALL, "message": "mlp"}, "objective": {"name": "balanced_mse"}},
    "release": {
        "model": {**SMALL, "message": "release", "mlp_layers": 3, "residual": False},
        "objective": {"name": "balanced_mse"},
    },
    "adapted": {"model": SMALL, "objective": {"cutoff": 2.0, "linear_rank": 4}},
}
NUM_CELLS = 150


@dataclass(frozen=True)
class Case:
    """A model, a tissue, added cells and a readout."""

    model: LoadedModel
    prepared: PreparedTissue
    added: AddedCells
    readout: Readout
    sets: list[np.ndarray]

    @property
    def tissue(self) -> TissueState:
        return self.prepared.tissue

    def function(self, **changes: object) -> TargetFunction:
        parts = {"tissue": self.tissue, "added": self.added, "dtype": torch.float64} | changes
        return TargetFunction(self.model, parts["tissue"], parts["added"], self.readout, self.sets, parts["dtype"])


CASES = [
    ("network", "GENE"),
    ("members", "T cell"),
    ("paper", "T cell"),
    ("release", "GENE"),
    ("adapted", "GENE"),
    ("adapted", "T cell"),
]


@pytest.fixture(scope="module")
def slide(prepared_synthetic: Path) -> Slide:
    """A slide on which no prediction of the most expressed gene is cut at zero, where its derivative would be zero too."""
    return open_slide(prepared_synthetic)


@pytest.fixture(scope="module")
def adapted(slide: Slide) -> LoadedModel:
    return adapt_to_slide(load_random_model(slide, KINDS["adapted"]), slide, 0)


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest, slide: Slide) -> Case:
    kind, typed = request.param
    model = request.getfixturevalue("adapted") if kind == "adapted" else load_random_model(slide, KINDS[kind])
    config, window = SimulateConfig((Inject("tcell"),)), choose_window(slide.xy_um, None, NUM_CELLS)
    prepared = prepare_tissue(slide, model.panel(slide).columns, config, window)
    addition = prepared.edits[0].edit
    row = typical_cell(addition.source, 1e4)
    grid = free_places(prepared.tissue, addition)
    added = AddedCells("T cell", grid.xy_um, addition.source.counts[[row]], float(addition.source.total_counts[row]))
    target = find_target(most_expressed(prepared) if typed == "GENE" else typed, None, prepared)
    sampler = fit_state_sampler(model, prepared.tissue.slide, 0.2, 0) if target.gene is None else None
    return Case(model, prepared, added, make_readout(target, prepared, sampler), hidden_sets(target.cells, 0.5, 0))


def most_expressed(prepared: PreparedTissue) -> str:
    counts = prepared.tissue.counts
    return prepared.tissue.slide.symbols[int(np.asarray(counts.sum(axis=0)).argmax())]


def test_derivatives_agree_with_finite_differences(case: Case) -> None:
    function = case.function()
    start, derivative = function.evaluate()
    assert np.abs(derivative).max() > 0
    for place in np.argsort(-np.abs(derivative))[[0, len(derivative) // 2]]:
        errors = []
        for step in (1e-4, 1e-5):
            gate = np.zeros(case.added.num_cells)
            gate[place] = step
            errors.append(abs((function.evaluate(gate)[0] - start) / step - derivative[place]))
        scale = abs(derivative[place])
        # The error of a one-sided difference is proportional to the step.
        assert errors[1] < max(1e-6 * scale, 0.2 * errors[0]), f"relative errors {np.array(errors) / scale}"


def test_a_weight_of_one_is_a_cell_and_a_weight_of_zero_is_none(case: Case) -> None:
    """The function of the weights ends at the predictions of the tissue without and with an injected cell."""
    place = [3]
    function, full = case.function(), FullRecomputation(case.model, case.tissue, case.readout, case.sets)
    gate = np.zeros(case.added.num_cells)
    start = function.evaluate(gate)[0]
    gate[place] = 1.0
    change = function.evaluate(gate)[0] - start
    assert start == pytest.approx(sum(values.sum() for values in full.before), rel=1e-5)
    copies = InjectedCells(case.added.xy_um[place], case.added.counts, np.array([case.added.total_counts]))
    checked = full.change(inject(case.tissue, copies), case.added.xy_um[place])
    error = abs(change - checked)
    assert error < 1e-4 * max(abs(checked), 1.0), f"error {error}"


def test_a_void_cell_has_no_effect(case: Case) -> None:
    void = replace(case.added, counts=csr_matrix(case.added.counts.shape, dtype=np.float32), total_counts=0.0)
    function = case.function(added=void)
    start, derivative = function.evaluate()
    assert not derivative.any()
    assert function.evaluate(np.ones(void.num_cells))[0] == start


def test_the_order_of_the_places_and_the_tiles_have_no_effect(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    derivative = case.function().evaluate()[1]
    order = np.random.default_rng(0).permutation(case.added.num_cells)
    monkeypatch.setattr(gradient, "TILE_CELLS", 40)
    turned = case.function(added=replace(case.added, xy_um=case.added.xy_um[order])).evaluate()[1]
    error = np.abs(turned - derivative[order]).max() / np.abs(derivative).max()
    assert error < 1e-9, f"relative error {error}"


def test_a_cell_beyond_the_reach_has_no_effect(case: Case) -> None:
    if case.model.adaptation:
        pytest.skip("the reach of an adapted model is wider than the tissue")
    one = replace(case, sets=[case.sets[0][:1]])
    reach = reach_um(case.model.checkpoint.recipe, case.tissue.slide.radius_um)
    distance = cKDTree(case.tissue.slide.xy_um[one.sets[0]]).query(case.added.xy_um)[0]
    derivative = one.function().evaluate()[1]
    assert (distance > reach).any()
    assert not derivative[distance > reach].any()
    assert derivative[distance <= reach].any()


def test_derivatives_in_the_expression_agree_with_finite_differences(case: Case) -> None:
    """The count of one gene of one resident is changed; the total that normalises it is kept. Inputs are in single precision."""
    nothing = replace(case.added, xy_um=np.empty((0, 2)))
    function = case.function(added=nothing)
    slopes = expression_gradient(function, case.tissue)
    counts = case.tissue.counts.astype(np.float64)
    total = case.tissue.slide.total_counts
    # Of the genes that a cell expresses, as others would become expressed; not the strongest, which are near a kink.
    strength = np.abs(slopes.expression) * (counts.toarray() > 0)
    chosen = np.argsort(-strength, axis=None)[np.count_nonzero(strength) // 10]
    cell, gene = np.unravel_index(chosen, strength.shape)
    changes = []
    for step in (3e-3, -3e-3):
        changed = counts.tolil()
        changed[cell, gene] *= 1 + step
        source = MemoryCounts(changed.tocsr())
        edited = replace(case.tissue, slide=replace(case.tissue.slide, source=source))
        changes.append(case.function(added=nothing, tissue=edited).evaluate()[0])
    scaled = counts[cell, gene] * 1e4 / total[cell]
    expected = slopes.expression[cell, gene] * scaled / (1 + scaled) + slopes.depth[cell] * counts[cell, gene]
    found = (changes[0] - changes[1]) / 6e-3
    assert found == pytest.approx(expected, rel=5e-3), f"error {found - expected}"
