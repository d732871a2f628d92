"""Laws of a vocabulary that grows: known genes stay as they were, bit for bit, and a new gene without information changes nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import random_network, replace_counts
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, hstack

from cifm_backends.torch_reference import TorchBackend
from cifm_cli.data.slide import Slide, slide_from_arrays
from cifm_cli.data.tiles import Tile
from cifm_cli.model.coexpression import CoExpression, measure_coexpression
from cifm_cli.model.ensemble import Ensemble
from cifm_cli.model.growth import gene_axes, grow
from cifm_cli.model.heads import ResidualHead
from cifm_cli.model.masking import Mask, MaskedTile, mask_tile
from cifm_cli.model.output import Output
from cifm_cli.model.surroundings import describe_surroundings
from cifm_cli.model.vocabulary import match_panel, union_vocabulary
from cifm_cli.provenance import numpy_generator
from cifm_cli.recipe import Recipe, parse

NUM_KNOWN, NUM_NEW, NUM_CELLS = 24, 5, 120
RADIUS_UM = 20.0
HIDDEN = np.array([3, 17, 30, 44])
FORMS = {
    "residual": {"model": {"width": 8, "heads": 2}, "objective": {"states": 3}},
    "members": {"model": {"width": 8, "heads": 2, "members": 2, "gene_rank": 3}, "objective": {"states": 3}},
    "paper": {"model": {"message": "mlp", "width": 8}, "objective": {"name": "balanced_mse"}},
    "release": {
        "model": {"message": "release", "width": 8, "distance_features": 1, "residual": False, "self_loops": True},
        "objective": {"name": "balanced_mse"},
    },
}
every_form = pytest.mark.parametrize("form", FORMS)
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=4, deadline=None)


def make_tissue(seed: int) -> Slide:
    """Cells of two kinds, whose genes vary together; the last `NUM_NEW` genes are new to the models of this file."""
    generator = numpy_generator(seed, "tissue")
    num_genes = NUM_KNOWN + NUM_NEW
    rate = generator.uniform(0.2, 3.0, (2, num_genes))[generator.integers(2, size=NUM_CELLS)]
    counts = csr_matrix(generator.poisson(rate).astype(np.float32))
    xy_um = generator.uniform(0, 120, (NUM_CELLS, 2))
    return slide_from_arrays("tissue", xy_um, counts, tuple(f"ENSG{gene:011d}" for gene in range(num_genes)), RADIUS_UM)


def keep_genes(slide: Slide, number: int) -> Slide:
    """The slide as a panel of its first genes would have measured it; cells keep their depth."""
    cut = slide_from_arrays(
        slide.name, slide.xy_um, slide.source.matrix[:, :number], slide.gene_ids[:number], slide.radius_um
    )
    return replace(cut, total_counts=slide.total_counts)


def make_network(form: str) -> tuple[Ensemble, Recipe]:
    recipe = parse(FORMS[form], form)
    return random_network(NUM_KNOWN, recipe, noise=0.1).double(), recipe


def grow_for(slide: Slide, network: Ensemble, recipe: Recipe, *, derive: bool) -> Ensemble:
    known = slide.gene_ids[:NUM_KNOWN]
    coexpressions = [measure_coexpression(slide, known, recipe.data.target_sum)] if derive else []
    return grow(network, recipe, known, union_vocabulary([slide], known), coexpressions)


def mask(network: Ensemble, slide: Slide, recipe: Recipe, vocabulary: tuple[str, ...]) -> MaskedTile:
    """Hide some cells; the slide has the pooled parameters of the network."""
    everything = np.arange(slide.num_cells)
    tile = Tile(everything, everything, slide.xy_um, np.zeros(slide.num_cells))
    panel = match_panel(slide, vocabulary)
    parameters = network.pooled.parameters_of(torch.from_numpy(panel.vocabulary_rows)) if network.pooled else None
    return mask_tile(slide, tile, Mask(HIDDEN), panel, recipe, parameters, torch.float64)


def infer(network: Ensemble, slide: Slide, recipe: Recipe, vocabulary: tuple[str, ...]) -> Output:
    with torch.no_grad():
        return network(TorchBackend(), mask(network, slide, recipe, vocabulary))


@every_form
@pytest.mark.parametrize("derive", [False, True])
@few
@given(seed=seeds)
def test_known_genes_keep_their_rows_bit_for_bit(form: str, derive: bool, seed: int) -> None:
    network, recipe = make_network(form)
    grown = grow_for(make_tissue(seed), network, recipe, derive=derive).state_dict()
    axes = gene_axes(recipe)
    assert {name for name, tensor in network.state_dict().items() if NUM_KNOWN in tensor.shape} == set(axes)
    for name, tensor in network.state_dict().items():
        now = grown[name]
        if name in axes:
            assert now.shape[axes[name]] == NUM_KNOWN + NUM_NEW
            now = now.narrow(axes[name], 0, NUM_KNOWN)
        assert torch.equal(now, tensor), name


@every_form
@pytest.mark.parametrize("derive", [False, True])
@few
@given(seed=seeds)
def test_predictions_on_a_slide_without_new_genes_do_not_change(form: str, derive: bool, seed: int) -> None:
    slide = make_tissue(seed)
    network, recipe = make_network(form)
    grown, known = grow_for(slide, network, recipe, derive=derive), slide.gene_ids[:NUM_KNOWN]
    before = infer(network, keep_genes(slide, NUM_KNOWN), recipe, known)
    after = infer(grown, keep_genes(slide, NUM_KNOWN), recipe, slide.gene_ids)
    for name, values in before._asdict().items():  # also the features of the last layer
        other = getattr(after, name)
        assert values is other is None or torch.equal(values, other), name


@every_form
@few
@given(seed=seeds)
def test_a_new_gene_without_information_changes_no_prediction(form: str, seed: int) -> None:
    """Also where a slide measures it: it is not read, and is predicted by the smoother alone."""
    slide = make_tissue(seed)
    network, recipe = make_network(form)
    for member in network.members:
        if isinstance(member.head, ResidualHead):
            # The number of counts around a query is that of the panel, so it is higher with new genes.
            torch.nn.init.zeros_(member.head.amount.weight)
    grown = grow_for(slide, network, recipe, derive=False)
    before = infer(network, slide, recipe, slide.gene_ids[:NUM_KNOWN])
    after = infer(grown, slide, recipe, slide.gene_ids)
    for name in ("magnitude", "logit"):
        error = float((getattr(after, name)[:, :NUM_KNOWN] - getattr(before, name)).abs().max())
        assert error < 1e-10, f"{name}: {error}"
    if isinstance(head := grown.first.head, ResidualHead):
        masked = mask(grown, slide, recipe, slide.gene_ids)
        around = describe_surroundings(masked, linear=None)
        smoothed = head.smoother(around.terms, around.logarithms, masked.slide, masked.genes)
        for name, values in zip(("magnitude", "logit"), smoothed[:2], strict=True):
            assert torch.allclose(getattr(after, name)[:, NUM_KNOWN:], values[:, NUM_KNOWN:], atol=1e-12), name


@few
@given(seed=seeds)
def test_a_gene_that_varies_as_a_known_one_is_corrected_as_that_one(seed: int) -> None:
    slide = make_tissue(seed)
    # The new gene has the counts of gene 2, whose variation the other genes do not share to the full.
    counts = hstack([slide.source.matrix[:, :NUM_KNOWN], slide.source.matrix[:, 2]]).tocsr()
    twin = slide_from_arrays("twin", slide.xy_um, counts, slide.gene_ids[: NUM_KNOWN + 1], RADIUS_UM)
    network, recipe = make_network("residual")
    grown = grow_for(twin, network, recipe, derive=True)
    for output in (grown.first.head.magnitude, grown.first.head.logit):
        rows = output.weight.detach()
        similarity = torch.nn.functional.cosine_similarity(rows[NUM_KNOWN], rows[:NUM_KNOWN])
        assert int(similarity.argmax()) == 2
        assert float(similarity[2]) > 0.8


@few
@given(seed=seeds, gene=st.integers(0, NUM_NEW - 1))
def test_hidden_cells_and_void_cells_are_not_read(seed: int, gene: int) -> None:
    slide = make_tissue(seed)
    known, rows = slide.gene_ids[:NUM_KNOWN], np.setdiff1d(np.arange(NUM_CELLS), HIDDEN)
    counts = np.zeros((len(HIDDEN), slide.num_genes), dtype=np.float32)
    counts[:, NUM_KNOWN + gene] = 50
    void = replace_counts(slide, HIDDEN, np.zeros_like(counts))
    first = measure_coexpression(slide, known, 1e4, rows)
    for other in (
        measure_coexpression(replace_counts(slide, HIDDEN, counts), known, 1e4, rows),
        measure_coexpression(void, known, 1e4),
    ):
        assert_same(first, other)


def assert_same(first: CoExpression, second: CoExpression) -> None:
    for name, values in vars(first).items():
        other = getattr(second, name)
        pairs = zip(values, other, strict=True) if isinstance(values, tuple) else [(values, other)]
        assert all(np.array_equal(one, another) for one, another in pairs), name
