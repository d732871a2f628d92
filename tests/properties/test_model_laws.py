"""Symmetries and locality of the network (Eqs 5, 6, 10), for both forms of the layer, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import add_noise, mask_cells, random_parameters
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, random_array, vstack

from cifm_backends.torch_reference import TorchBackend
from cifm_cli.data.graph import LayerGraph, edgeless_graph, full_layer_graphs, layer_graphs, radius_graph, subgraph
from cifm_cli.data.slide import Slide, slide_from_arrays
from cifm_cli.data.tiles import Tile, Tiler
from cifm_cli.model.ensemble import Ensemble
from cifm_cli.model.masking import Expression, MaskedTile, reach_um, to_expression
from cifm_cli.model.output import Output
from cifm_cli.model.vocabulary import match_panel
from cifm_cli.provenance import numpy_generator, seeded_torch
from cifm_cli.recipe import Recipe, parse

BACKEND = TorchBackend()
NUM_GENES = 12
RADIUS_UM = 20.0
FORMS = {
    "factored": {"model": {"message": "factored", "width": 8, "heads": 2}},
    "factored_low_rank": {"model": {"width": 8, "heads": 2, "self_loops": True, "gene_rank": 3}},
    "members": {"model": {"width": 8, "heads": 2, "encoder_layers": 1, "members": 2}},
    "literal": {
        "model": {"message": "mlp", "width": 8, "mlp_layers": 3, "norm": False, "residual": False, "self_loops": True},
        "objective": {"name": "balanced_mse"},
    },
    "literal_normalised": {
        "model": {"message": "mlp", "width": 8, "mlp_layers": 3, "residual": False, "self_loops": True},
        "objective": {"name": "balanced_mse"},
    },
    "release": {
        "model": {"message": "release", "width": 8, "mlp_layers": 3, "residual": False, "self_loops": True},
        "objective": {"name": "balanced_mse"},
    },
}
every_form = pytest.mark.parametrize("form", FORMS)
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=8, deadline=None)


def make_recipe(form: str) -> Recipe:
    return parse(FORMS[form], form)


def make_tissue(seed: int, num_cells: int = 60, span_um: float = 90.0, corner_um: float = 0.0) -> Slide:
    """Cells at random positions, two of them at the same one, each expressing about a third of the genes."""
    generator = numpy_generator(seed, "tissue")
    xy_um = corner_um + generator.uniform(0, span_um, (num_cells, 2))
    xy_um[1] = xy_um[0]
    counts = csr_matrix(np.ceil(8 * random_array((num_cells, NUM_GENES), density=0.35, rng=generator).toarray()))
    return slide_from_arrays("tissue", xy_um, counts, tuple(f"ENSG{g:011d}" for g in range(NUM_GENES)), RADIUS_UM)


def make_network(form: str, seed: int) -> Ensemble:
    with seeded_torch(seed, "network"):
        network = Ensemble(NUM_GENES, make_recipe(form)).double()
        add_noise(network, 0.1)
    return network.eval()


def mask(slide: Slide, masked: np.ndarray, form: str, tile: Tile | None = None) -> MaskedTile:
    return mask_cells(slide, masked, make_recipe(form), torch.float64, tile)


def infer(network: Ensemble, tile: MaskedTile) -> Output:
    with torch.no_grad():
        return network(BACKEND, tile)


def apart(first: torch.Tensor, second: torch.Tensor) -> float:
    """Largest difference, relative to the largest value where that is above 1 (the literal form grows cubically)."""
    return float((first - second).abs().max()) / max(1.0, float(second.abs().max()))


def error(first: Output, second: Output) -> float:
    return max(apart(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None)


def all_visible(slide: Slide, form: str) -> tuple[list[LayerGraph], Expression]:
    """All cells, all visible, as the encoder reads them."""
    recipe, panel = make_recipe(form), match_panel(slide, slide.gene_ids)
    graph = radius_graph(slide.xy_um, slide.radius_um, self_loops=recipe.model.self_loops, dtype=torch.float64)
    expression = slide.expression(np.arange(slide.num_cells), recipe.data.target_sum)[:, panel.columns]
    return full_layer_graphs(graph, recipe.model.encoder_layers), to_expression(
        expression, panel.vocabulary_rows, torch.float64
    )


def embed(network: Ensemble, expression: Expression, form: str) -> torch.Tensor:
    """Input of the encoder."""
    parameters = random_parameters(NUM_GENES, make_recipe(form))
    slide = parameters.to(torch.float64) if parameters else None
    return network.first.embed_expression(expression, torch.arange(NUM_GENES), slide)


def encode(network: Ensemble, slide: Slide, form: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Z_inv, and Z_eqv in micrometres."""
    layers, expression = all_visible(slide, form)
    with torch.no_grad():
        h, shift = network.first.encode(BACKEND, layers, embed(network, expression, form))
    return h, torch.from_numpy(slide.xy_um) + shift * RADIUS_UM


def moved(slide: Slide, rotation: np.ndarray, translation_um: np.ndarray) -> Slide:
    return slide_from_arrays(
        "moved", slide.xy_um @ rotation + translation_um, slide.source.matrix, slide.gene_ids, RADIUS_UM
    )


MASKED = np.array([3, 17, 30, 44])


@every_form
@few
@given(seed=seeds, angle=st.floats(0, 2 * np.pi), mirror=st.booleans())
def test_outputs_follow_rotation_reflection_and_translation(form: str, seed: int, angle: float, mirror: bool) -> None:
    """Eq. 6: features are invariant, coordinates are equivariant."""
    slide, network = make_tissue(seed), make_network(form, seed)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    rotation = rotation @ np.diag([1.0, -1.0 if mirror else 1.0])
    translation_um = np.array([1234.5, -678.9])
    other = moved(slide, rotation, translation_um)
    h, moved_um = encode(network, slide, form)
    h_other, moved_other_um = encode(network, other, form)
    expected = moved_um @ torch.from_numpy(rotation) + torch.from_numpy(translation_um)
    assert float((moved_um - torch.from_numpy(slide.xy_um)).abs().max()) > 0, "no cell moved, so nothing is tested"
    features, coordinates = apart(h_other, h), apart(moved_other_um, expected)
    assert features < 1e-10, f"feature error {features:.2e}"
    assert coordinates < 1e-10, f"coordinate error {coordinates:.2e}"
    prediction = error(infer(network, mask(slide, MASKED, form)), infer(network, mask(other, MASKED, form)))
    assert prediction < 1e-10, f"prediction error {prediction:.2e}"


@every_form
@few
@given(seed=seeds)
def test_the_order_of_the_cells_has_no_effect(form: str, seed: int) -> None:
    """Eq. 5: the order of the cells does not matter."""
    slide, network = make_tissue(seed), make_network(form, seed)
    order = numpy_generator(seed, "order").permutation(slide.num_cells)
    assert (order != np.arange(slide.num_cells)).any()
    other = slide_from_arrays("other", slide.xy_um[order], slide.source.matrix[order], slide.gene_ids, RADIUS_UM)
    h, _ = encode(network, slide, form)
    h_other, _ = encode(network, other, form)
    features = apart(h_other, h[torch.from_numpy(order)])
    assert features < 1e-12, f"feature error {features:.2e}"


@every_form
@few
@given(seed=seeds, num_void=st.integers(1, 40))
def test_void_cells_change_no_output(form: str, seed: int, num_void: int) -> None:
    """Eq. 10: adding cells without expression changes no output. The code does not test whether a cell is void."""
    slide, network = make_tissue(seed), make_network(form, seed)
    void_um = numpy_generator(seed, "void").uniform(-20, 110, (num_void, 2))
    void_um[0] = slide.xy_um[MASKED[0]]  # so that the inferred cells depend on it
    counts = vstack([slide.source.matrix, csr_matrix((num_void, NUM_GENES))]).tocsr()
    other = slide_from_arrays("void", np.concatenate([slide.xy_um, void_um]), counts, slide.gene_ids, RADIUS_UM)
    h, coordinates = encode(network, slide, form)
    h_other, coordinates_other = encode(network, other, form)
    first, second = infer(network, mask(slide, MASKED, form)), infer(network, mask(other, MASKED, form))
    num_cells = slide.num_cells
    edges, edges_other = (mask(tissue, MASKED, form).decoder[0].graph.num_edges for tissue in (slide, other))
    assert edges_other > edges
    features, position = apart(h_other[:num_cells], h), apart(coordinates_other[:num_cells], coordinates)
    prediction = error(second, first)
    assert features < 1e-12, f"feature error {features:.2e}"
    assert position < 1e-12, f"coordinate error {position:.2e}"
    assert prediction < 1e-12, f"prediction error {prediction:.2e}"
    assert float(h_other[num_cells:].abs().max()) == 0, "a void cell got features"


@every_form
def test_the_gradient_at_void_features_is_finite(form: str) -> None:
    """It is not zero in the factored form, and zero in the literal form."""
    slide, network = make_tissue(1), make_network(form, 1)
    layers, expression = all_visible(slide, form)
    h = embed(network, expression, form).detach()
    h[5:10] = 0
    h.requires_grad_()
    out, shift = network.first.encode(BACKEND, layers, h)
    (out.square().sum() + shift.square().sum()).backward()
    assert h.grad is not None
    assert torch.isfinite(h.grad).all()
    assert bool(h.grad[5:10].any()) == (make_recipe(form).model.message == "factored")


@every_form
def test_the_union_of_two_distant_tissues_gives_the_outputs_of_both(form: str) -> None:
    network = make_network(form, 2)
    near, far = make_tissue(2), make_tissue(3, corner_um=5_000)
    both = slide_from_arrays(
        "both",
        np.concatenate([near.xy_um, far.xy_um]),
        vstack([near.source.matrix, far.source.matrix]).tocsr(),
        near.gene_ids,
        RADIUS_UM,
    )
    alone = torch.cat([encode(network, near, form)[0], encode(network, far, form)[0]])
    features = apart(encode(network, both, form)[0], alone)
    assert features < 1e-12, f"feature error {features:.2e}"


@every_form
def test_a_cell_outside_the_receptive_field_has_no_effect(form: str) -> None:
    """A chain of cells 15 um apart: cells beyond `reach_um` of the query have no effect, nearer ones have."""
    network = make_network(form, 4)
    num_cells, query = 40, np.array([0])
    counts = csr_matrix(np.ones((num_cells, NUM_GENES)) + np.eye(num_cells, NUM_GENES))
    xy_um = np.stack([15.0 * np.arange(num_cells), np.zeros(num_cells)], axis=1)
    reach = reach_um(make_recipe(form), RADIUS_UM)
    genes = tuple(f"ENSG{g:011d}" for g in range(NUM_GENES))

    def with_change(cell: int) -> Output:
        changed = counts.tolil()
        changed[cell, 0] = 50
        slide = slide_from_arrays("chain", xy_um, changed.tocsr(), genes, RADIUS_UM)
        return infer(network, mask(slide, query, form))

    plain = infer(network, mask(slide_from_arrays("chain", xy_um, counts, genes, RADIUS_UM), query, form))
    beyond = int(reach // 15) + 1
    assert error(plain, with_change(beyond)) == 0
    assert error(plain, with_change(1)) > 0


@every_form
@few
@given(seed=seeds)
def test_a_tile_gives_the_output_of_the_whole_slide(form: str, seed: int) -> None:
    """The output for the core of a tile equals that of the whole slide."""
    slide, network = make_tissue(seed, num_cells=300, span_um=400), make_network(form, seed)
    everything = np.arange(slide.num_cells)
    hidden = np.sort(numpy_generator(seed, "hidden").choice(everything, 40, replace=False))
    whole = infer(network, mask(slide, hidden, form))
    tiler = Tiler(slide.xy_um, everything, reach_um(make_recipe(form), RADIUS_UM))
    core = hidden[slide.xy_um[hidden, 0] < 150]
    tile = tiler.tile(core)
    assert len(tile.rows) < slide.num_cells, "the tile is the whole slide, so nothing is tested"
    part = infer(network, mask(slide, np.flatnonzero(np.isin(tile.rows, hidden)), form, tile))
    kept = np.isin(hidden, core)
    cells = [name for name, values in whole._asdict().items() if values is not None and name != "profiles"]
    expected = whole._replace(**{name: getattr(whole, name)[kept] for name in cells})
    prediction = error(part, expected)
    assert prediction < 1e-12, f"prediction error {prediction:.2e}"


@every_form
def test_masked_counts_have_no_effect(form: str) -> None:
    """Other counts in the masked cells give the same prediction, bit for bit."""
    slide, network = make_tissue(6), make_network(form, 6)
    other = slide.source.matrix.tolil()
    other[MASKED] = 7
    changed = slide_from_arrays("other", slide.xy_um, other.tocsr(), slide.gene_ids, RADIUS_UM)
    assert error(infer(network, mask(slide, MASKED, form)), infer(network, mask(changed, MASKED, form))) == 0


@given(seed=seeds)
@few
def test_a_subgraph_is_the_graph_of_its_cells(seed: int) -> None:
    xy_um = numpy_generator(seed, "positions").uniform(0, 60, (40, 2))
    kept = np.flatnonzero(numpy_generator(seed, "kept").random(40) < 0.7)
    derived = subgraph(radius_graph(xy_um, RADIUS_UM), torch.from_numpy(kept))
    built = radius_graph(xy_um[kept], RADIUS_UM)
    for name in ("indptr", "sources", "targets", "displacement"):
        assert torch.equal(getattr(derived, name), getattr(built, name)), name


@every_form
@given(seed=st.integers(0, 2**32 - 1), num_wanted=st.integers(1, 30))
def test_reduced_layer_graphs_give_the_output_of_the_whole_graph(form: str, seed: int, num_wanted: int) -> None:
    """Leaving out, layer by layer, the cells without effect on the wanted ones does not change the output."""
    slide, network = make_tissue(seed), make_network(form, seed)
    everywhere, expression = all_visible(slide, form)
    wanted = np.sort(numpy_generator(seed, "wanted").choice(slide.num_cells, num_wanted, replace=False))
    cells, layers = layer_graphs(everywhere[0].graph, torch.from_numpy(wanted), len(network.first.encoder))
    with torch.no_grad():
        h = embed(network, expression, form)
        h_whole, shift_whole = network.first.encode(BACKEND, everywhere, h)
        h_part, shift_part = network.first.encode(BACKEND, layers, h[cells])
    assert [shell.graph.num_cells for shell in layers] == [len(cells), *(len(shell.outputs) for shell in layers[:-1])]
    difference = max(apart(h_part, h_whole[wanted]), apart(shift_part, shift_whole[wanted]))
    assert difference < 1e-13, f"difference {difference:.2e}"


def test_cell_embeddings_do_not_depend_on_other_cells() -> None:
    """With every edge between cells removed, the features of a cell depend on that cell only."""
    network, slide = make_network("literal", 7), make_tissue(7)
    expression = all_visible(slide, "literal")[1]
    with torch.no_grad():
        h = embed(network, expression, "literal")
        alone_each = full_layer_graphs(
            edgeless_graph(slide.num_cells, self_loops=True, dtype=torch.float64), len(network.first.encoder)
        )
        alone, _ = network.first.encode(BACKEND, alone_each, h)
        h[1:] = 3.0
        changed, _ = network.first.encode(BACKEND, alone_each, h)
    assert torch.equal(alone[0], changed[0])
    assert float(alone.abs().max()) > 0
