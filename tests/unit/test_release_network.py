"""The network of the public release: equal to an independent dense implementation, and the laws that hold for it.

The literal forms of a layer are also compared with themselves as printed, with an MLP on every edge.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from builders import mask_cells
from dense_release import DenseRelease
from release_stand_in import stand_in_tensors, write_release
from scipy.sparse import csr_matrix

from cifm_backends.torch_reference import TorchBackend
from cifm_cli.data.graph import LayerGraph, full_layer_graphs, layer_graphs, radius_graph
from cifm_cli.data.slide import Slide, slide_from_arrays
from cifm_cli.model import edge_maps
from cifm_cli.model.bias_free import BiasFreeMLP, CentredNorm, VoidNorm
from cifm_cli.model.checkpoint import Checkpoint, load_checkpoint
from cifm_cli.model.layer import LiteralLayer
from cifm_cli.model.release_layer import ReleaseLayer
from cifm_cli.provenance import numpy_generator, seeded_torch
from cifm_cli.recipe_sections import ModelRecipe
from cifm_cli.release.importing import import_release

NUM_GENES, WIDTH = 12, 16
RADIUS_UM = 16.0  # a power of two, so that the import multiplies by it without rounding
GENES = tuple(f"ENSG{number:011d}" for number in range(NUM_GENES))
MASKED = np.array([3, 17, 18, 31])
VARIANTS = {
    "plain": {},
    "distance itself": {"distance_features": 1},
    "gates": {"distance_features": 3, "feature_gates": True},
    "output": {"output_maps": 3},
    "two maps": {"num_maps": 2},
    "three layers": {"num_layers": 3},
}


def make_tissue(num_cells: int = 40, num_void: int = 3, genes: tuple[str, ...] = GENES) -> Slide:
    """A tissue with some void cells, in which a cell has about six neighbours."""
    generator = numpy_generator(0, "release tissue")
    counts = generator.poisson(1.0, (num_cells, len(genes)))
    counts[:, 0] += 1
    counts[num_cells - num_void :] = 0
    xy_um = generator.uniform(0, 70, (num_cells, 2))
    return slide_from_arrays("tissue", xy_um, csr_matrix(counts), genes, RADIUS_UM)


def dense_expression(slide: Slide, columns: slice = slice(None)) -> np.ndarray:
    return slide.expression(np.arange(slide.num_cells), 1e4).toarray()[:, columns]


def imported(folder: Path, tensors: dict[str, torch.Tensor], radius_um: float = RADIUS_UM) -> Checkpoint:
    write_release(folder / "release", GENES, tensors, radius_um)
    import_release(folder / "release", folder / "run")
    return load_checkpoint(folder / "run")


def embed(checkpoint: Checkpoint, slide: Slide) -> torch.Tensor:
    """Embeddings of all cells, in the precision of the network."""
    network, dtype = checkpoint.network.first, next(checkpoint.network.parameters()).dtype
    tile = mask_cells(slide, np.array([], dtype=np.int64), checkpoint.recipe, dtype)  # only for its genes
    graph = radius_graph(slide.xy_um, slide.radius_um, self_loops=True, dtype=dtype)
    layers = full_layer_graphs(graph, checkpoint.recipe.model.encoder_layers)
    matrix = torch.from_numpy(dense_expression(slide)).to(dtype)
    with torch.no_grad():
        h = network.gene_maps(matrix @ network.genes.weight[tile.genes])
        return network.encode(TorchBackend(), layers, h)[0]


def predict(checkpoint: Checkpoint, slide: Slide, masked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    dtype = next(checkpoint.network.parameters()).dtype
    with torch.no_grad():
        output = checkpoint.network(TorchBackend(), mask_cells(slide, masked, checkpoint.recipe, dtype))
    return output.magnitude.clamp(min=0).numpy(), output.logit.sigmoid().numpy()


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_equals_the_independent_implementation(variant: str, tmp_path: Path) -> None:
    tensors = stand_in_tensors(NUM_GENES, WIDTH, **VARIANTS[variant])
    checkpoint, slide = imported(tmp_path, tensors), make_tissue()
    checkpoint.network.double()
    dense = DenseRelease(tensors, RADIUS_UM)
    expression = dense_expression(slide)
    error = np.abs(embed(checkpoint, slide).numpy() - dense.embed(expression, slide.xy_um)).max()
    assert error < 1e-10, f"embedding {error:.1e}"
    for found, wanted in zip(
        predict(checkpoint, slide, MASKED), dense.predict(expression, slide.xy_um, MASKED), strict=True
    ):
        error = np.abs(found - wanted).max()
        assert error < 1e-10, f"prediction {error:.1e}"
        assert np.ptp(wanted) > 0.1


def test_single_precision_and_any_radius(tmp_path: Path) -> None:
    tensors, slide = stand_in_tensors(NUM_GENES, WIDTH), replace(make_tissue(), radius_um=20.0)
    checkpoint, dense = imported(tmp_path, tensors, 20.0), DenseRelease(tensors, 20.0)
    wanted = dense.embed(dense_expression(slide), slide.xy_um)
    assert np.abs(embed(checkpoint, slide).numpy() - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_a_panel_that_lacks_genes_is_read_as_if_they_were_not_expressed(tmp_path: Path) -> None:
    tensors, slide = stand_in_tensors(NUM_GENES, WIDTH), make_tissue(genes=GENES[:5])
    checkpoint = imported(tmp_path, tensors)
    checkpoint.network.double()
    padded = np.zeros((slide.num_cells, NUM_GENES))
    padded[:, :5] = dense_expression(slide)
    magnitude, expressed = predict(checkpoint, slide, MASKED)
    wanted = DenseRelease(tensors, RADIUS_UM).predict(padded, slide.xy_um, MASKED)
    assert np.abs(magnitude - wanted[0][:, :5]).max() < 1e-10
    assert np.abs(expressed - wanted[1][:, :5]).max() < 1e-10


def test_void_cells_change_nothing(tmp_path: Path) -> None:
    checkpoint, slide = imported(tmp_path, stand_in_tensors(NUM_GENES, WIDTH)), make_tissue(num_void=0)
    checkpoint.network.double()
    added = np.concatenate([slide.xy_um, slide.xy_um[:10] + 3.0])
    counts = csr_matrix(np.concatenate([slide.counts(np.arange(slide.num_cells)).toarray(), np.zeros((10, NUM_GENES))]))
    with_void = slide_from_arrays("tissue", added, counts, GENES, RADIUS_UM)
    assert torch.equal(embed(checkpoint, with_void)[slide.num_cells :], torch.zeros(10, WIDTH, dtype=torch.float64))
    error = (embed(checkpoint, with_void)[: slide.num_cells] - embed(checkpoint, slide)).abs().max()
    assert error < 1e-12, f"embedding {error:.1e}"
    for found, wanted in zip(predict(checkpoint, with_void, MASKED), predict(checkpoint, slide, MASKED), strict=True):
        assert np.abs(found - wanted).max() < 1e-12


def test_rotation_reflection_translation_and_order_change_nothing(tmp_path: Path) -> None:
    checkpoint, slide = imported(tmp_path, stand_in_tensors(NUM_GENES, WIDTH)), make_tissue()
    checkpoint.network.double()
    angle = 1.1
    turn = np.array([[np.cos(angle), np.sin(angle)], [np.sin(angle), -np.cos(angle)]])  # with a reflection
    order = np.roll(np.arange(slide.num_cells), 7)
    counts = slide.counts(np.arange(slide.num_cells))[order]
    moved = slide_from_arrays("tissue", (slide.xy_um @ turn.T + [300.0, -40.0])[order], counts, GENES, RADIUS_UM)
    error = (embed(checkpoint, moved) - embed(checkpoint, slide)[order]).abs().max()
    assert error < 1e-10, f"error {error:.1e}"


def test_moves_are_left_out_where_no_distance_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, slide = stand_in_tensors(NUM_GENES, WIDTH), make_tissue()
    checkpoint = imported(tmp_path, tensors)
    layer = checkpoint.network.first.encoder[1]
    run = full_layer_graphs(radius_graph(slide.xy_um, RADIUS_UM, self_loops=True), 1)[0]
    assert not layer.reads_shift(run)
    without = embed(checkpoint, slide)
    monkeypatch.setattr(ReleaseLayer, "reads_shift", lambda *_: True)
    calls = []
    sums = edge_maps.sum_edges
    monkeypatch.setattr("cifm_cli.model.release_layer.sum_edges", lambda *words: calls.append(words[2]) or sums(*words))
    assert torch.allclose(without, embed(checkpoint, slide), rtol=0, atol=1e-5 * float(without.abs().max()))
    assert [mlp3 is None for _, mlp3 in calls] == [False, True]  # nothing reads the moves of the last layer


def test_moves_are_computed_where_they_may_make_a_difference(tmp_path: Path) -> None:
    slide = make_tissue()
    run = full_layer_graphs(radius_graph(slide.xy_um, RADIUS_UM, self_loops=True), 1)[0]
    twice = np.concatenate([slide.xy_um, slide.xy_um[:1]])
    same_place = full_layer_graphs(radius_graph(twice, RADIUS_UM, self_loops=True), 1)[0]
    layer = imported(tmp_path / "four", stand_in_tensors(NUM_GENES, WIDTH)).network.first.encoder[1]
    assert layer.reads_shift(same_place)
    shallow = imported(tmp_path / "two", stand_in_tensors(NUM_GENES, WIDTH, num_maps=2)).network.first.encoder[1]
    assert shallow.reads_shift(run)
    assert layer.double().reads_shift(run)  # double precision tells more distances apart


def test_cells_at_the_same_place_equal_the_independent_implementation(tmp_path: Path) -> None:
    tensors, slide = stand_in_tensors(NUM_GENES, WIDTH), make_tissue(num_void=0)
    checkpoint = imported(tmp_path, tensors)
    slide = replace(slide, xy_um=np.concatenate([slide.xy_um[:-2], slide.xy_um[:2]]))
    wanted = DenseRelease(tensors, RADIUS_UM).embed(dense_expression(slide), slide.xy_um)
    assert np.abs(embed(checkpoint, slide).numpy() - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("norm", [CentredNorm(), VoidNorm(), torch.nn.Identity()])
@pytest.mark.parametrize("num_maps", [2, 4])
def test_an_mlp_of_a_scalar_is_a_scale_and_one_of_two_vectors(norm: torch.nn.Module, num_maps: int) -> None:
    with seeded_torch(0, "mlp"):
        mlp = BiasFreeMLP((1, 9, 5), num_maps, norm).double()
    s = torch.tensor([-300.0, -1.0, -1e-3, -1e-9, 0.0, 1e-9, 2e-3, 1.0, 40.0], dtype=torch.float64)
    c, row = edge_maps.ScalarMLP.of(mlp).split(s)
    found = c[:, None] * edge_maps.ScalarMLP.of(mlp).vectors[row]
    assert torch.allclose(found, mlp(s[:, None]), rtol=1e-12, atol=1e-300)


class LiteralCase(NamedTuple):
    """A literal layer in double precision that moves cells, and its input, in which two cells are void."""

    module: LiteralLayer
    layer: LayerGraph
    h: torch.Tensor
    shift: torch.Tensor

    def run_printed(self) -> tuple[torch.Tensor, torch.Tensor]:
        pooled, moved = self.module.as_printed(TorchBackend(), self.layer, self.h, self.shift)
        return self.module.bfmlp4(self.layer.select_outputs(pooled)), self.layer.select_outputs(moved)


def make_literal_case(*, norm: bool) -> LiteralCase:
    recipe = ModelRecipe(message="mlp", width=8, mlp_layers=4, norm=norm, residual=False, self_loops=True)
    graph = radius_graph(make_tissue().xy_um, RADIUS_UM, self_loops=True, dtype=torch.float64)
    _, (layer,) = layer_graphs(graph, torch.arange(5, 20), 1)
    with seeded_torch(0, "layer"):
        module = LiteralLayer(recipe).double()
        module.bfmlp3.last.weight.data.mul_(1e3)  # so that cells move
        h = torch.randn(layer.graph.num_cells, 8, dtype=torch.float64)
        h[3:5] = 0
        shift = 0.1 * torch.randn(layer.graph.num_cells, 2, dtype=torch.float64)
    return LiteralCase(module, layer, h, shift)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("values", [1, 100, 10**6])
def test_the_literal_layer_equals_its_printed_form(norm: bool, values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_maps, "_CHUNK_CPU", values)  # from one cell at a time to all cells at once
    case = make_literal_case(norm=norm)
    module, layer, h, shift = case
    with torch.no_grad():
        wanted = case.run_printed()
        found = module(TorchBackend(), layer, h, shift)
        unmoved = module(TorchBackend(), layer, h, shift, moves=False)
    for split, printed in zip(found, wanted, strict=True):
        assert torch.allclose(split, printed, rtol=1e-11, atol=1e-12)
    assert float((found[1] - layer.select_outputs(shift)).abs().max()) > 1e-3
    assert torch.equal(unmoved[0], found[0])
    assert torch.equal(unmoved[1], layer.select_outputs(shift))


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("values", [100, 10**6])
def test_gradients_of_the_literal_layer_equal_those_of_its_printed_form(
    norm: bool, values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_maps, "_CHUNK_CPU", values)
    case = make_literal_case(norm=norm)
    inputs = [case.h.requires_grad_(), case.shift.requires_grad_(), *case.module.parameters()]
    found, wanted = (
        torch.autograd.grad(h.square().sum() + shift.square().sum(), inputs)
        for h, shift in (case.module(TorchBackend(), *case[1:]), case.run_printed())
    )
    for split, printed in zip(found, wanted, strict=True):
        assert bool(printed.any())
        # With a norm, messages do not depend on the length of an intensity, so that the gradients of BFMLP_1 are near zero.
        assert torch.allclose(split, printed, rtol=0, atol=1e-11 * float(printed.abs().max()) + 1e-13 * norm)


@pytest.mark.parametrize("gates", [None, True])
def test_gradients_of_the_release_layer(gates: bool | None) -> None:
    recipe = ModelRecipe(
        message="release", width=4, mlp_layers=3, heads=1, residual=False, self_loops=True,
        distance_features=2, feature_gates=gates,
    )  # fmt: skip
    slide = make_tissue(8)
    graph = radius_graph(slide.xy_um / 3, RADIUS_UM, self_loops=True, dtype=torch.float64)
    with seeded_torch(0, "layer"):
        layer = ReleaseLayer(recipe).double()
        h = torch.randn(8, 4, dtype=torch.float64).requires_grad_()
        shift = (0.1 * torch.randn(8, 2, dtype=torch.float64)).requires_grad_()
    run = full_layer_graphs(graph, 1)[0]
    assert torch.autograd.gradcheck(lambda h, shift: layer(TorchBackend(), run, h, shift), (h, shift))
    h, shift = layer(TorchBackend(), run, h, shift)
    (h.square().sum() + shift.square().sum()).backward()
    missing = [name for name, weight in layer.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert missing == []


def test_a_graph_without_edges_has_sums_of_zero() -> None:
    recipe = ModelRecipe(message="mlp", width=4, mlp_layers=2)
    graph = radius_graph(np.array([[0.0, 0.0], [90.0, 0.0]]), 20.0)
    with seeded_torch(0, "layer"), torch.no_grad():
        h, shift = LiteralLayer(recipe)(
            TorchBackend(), full_layer_graphs(graph, 1)[0], torch.ones(2, 4), torch.ones(2, 2)
        )
    assert torch.equal(h, torch.ones(2, 4))
    assert torch.equal(shift, torch.ones(2, 2))


def test_growth_of_the_vocabulary_keeps_the_known_genes(tmp_path: Path) -> None:
    from cifm_cli.model.growth import grow

    checkpoint, slide = imported(tmp_path, stand_in_tensors(NUM_GENES, WIDTH)), make_tissue()
    larger = (*GENES, "ENSG00000099999")
    grown = grow(checkpoint.network, checkpoint.recipe, GENES, larger)
    before = predict(checkpoint, slide, MASKED)
    after = predict(replace(checkpoint, network=grown, vocabulary=larger), slide, MASKED)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
