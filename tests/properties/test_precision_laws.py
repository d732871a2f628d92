"""Rounding, gradients and symmetries in bfloat16, and the device of every tensor of the network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import add_noise, available_backend, mask_cells
from scipy.sparse import csr_matrix, vstack

from cifm_backends.base import Backend
from cifm_backends.torch_reference import TorchBackend
from cifm_cli.data.slide import Slide, slide_from_arrays
from cifm_cli.data.tiles import Tile, Tiler
from cifm_cli.model.masking import MaskedTile, reach_um
from cifm_cli.model.network import Network
from cifm_cli.model.objective import balanced_mse
from cifm_cli.model.precision import computing_in
from cifm_cli.provenance import numpy_generator, seeded_torch
from cifm_cli.recipe import Recipe, parse

CPU, META = torch.device("cpu"), torch.device("meta")
GENES = tuple(f"ENSG{g:011d}" for g in range(12))
RADIUS_UM = 20.0
ALLOWED = 0.1  # relative to the largest value; one rounding to bfloat16 is 0.004, and the literal form has dozens
MASKED = np.array([3, 17, 30, 44])
FORMS = {
    "factored": {"model": {"width": 16, "self_loops": True}, "objective": {"name": "balanced_mse"}},
    "residual": {"model": {"width": 16, "gene_rank": 4}},
    "literal": {
        "model": {"message": "mlp", "width": 16, "residual": False, "self_loops": True},
        "objective": {"name": "balanced_mse"},
    },
    "release": {
        "model": {"message": "release", "width": 16, "residual": False, "self_loops": True},
        "objective": {"name": "balanced_mse"},
    },
}
BACKENDS = ["torch", "fused", pytest.param("dgl", marks=pytest.mark.dgl)]
every_form = pytest.mark.parametrize("form", FORMS)


def make_recipe(form: str) -> Recipe:
    return parse(FORMS[form], form)


def make_tissue(num_cells: int = 80, span_um: float = 90.0) -> Slide:
    generator = numpy_generator(0, "precision")
    counts = csr_matrix(generator.poisson(1.2, (num_cells, len(GENES))))
    return slide_from_arrays("tissue", generator.uniform(0, span_um, (num_cells, 2)), counts, GENES, RADIUS_UM)


def make_network(form: str) -> Network:
    with seeded_torch(0, "network"):
        network = Network(len(GENES), make_recipe(form))
        add_noise(network, 0.1)
    return network


def mask(slide: Slide, masked: np.ndarray, form: str, tile: Tile | None = None) -> MaskedTile:
    return mask_cells(slide, masked, make_recipe(form), tile=tile)


def infer(network: Network, tile: MaskedTile, backend: Backend | None = None) -> list[torch.Tensor]:
    with torch.no_grad(), computing_in("bfloat16", CPU):
        return list(network(backend or TorchBackend(), tile)[:2])


def apart(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    """Largest difference, relative to the largest value of the same kind."""
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True))


@every_form
@pytest.mark.parametrize("name", BACKENDS)
def test_bfloat16_differs_by_rounding(form: str, name: str) -> None:
    network, tile = make_network(form), mask(make_tissue(), MASKED, form)
    with torch.no_grad():
        wanted = list(network(available_backend(name), tile)[:2])
    found = infer(network, tile, available_backend(name))
    assert {values.dtype for values in found} == {torch.float32}
    error = apart(found, wanted)
    # The release has twice as many MLPs in a row, and norms that amplify.
    assert 0 < error < (3 * ALLOWED if form == "release" else ALLOWED), f"error {error:.1e}"


@every_form
@pytest.mark.parametrize("name", BACKENDS)
def test_weights_and_gradients_stay_float32(form: str, name: str) -> None:
    network, tile = make_network(form), mask(make_tissue(), MASKED, form)
    with computing_in("bfloat16", CPU):
        output = network(available_backend(name), tile)
    balanced_mse(output.magnitude, torch.ones_like(output.magnitude)).backward()
    gradients = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
    assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    assert float(gradients["encoder.0.bfmlp4.first.weight"].abs().max()) > 0


@every_form
def test_void_cells_change_nothing(form: str) -> None:
    """Eq. 10 is exact in any precision, since zeros are added to sums. Sums in another order are rounded differently."""
    slide, network = make_tissue(), make_network(form)
    void_um = numpy_generator(0, "void").uniform(-20, 110, (30, 2))
    counts = vstack([slide.source.matrix, csr_matrix((30, len(GENES)))]).tocsr()
    other = slide_from_arrays("void", np.concatenate([slide.xy_um, void_um]), counts, GENES, RADIUS_UM)
    error = apart(infer(network, mask(other, MASKED, form)), infer(network, mask(slide, MASKED, form)))
    assert error < ALLOWED, f"error {error:.1e}"


@every_form
def test_outputs_are_invariant_to_rotation_and_translation(form: str) -> None:
    """Eq. 6."""
    slide, network = make_tissue(), make_network(form)
    rotation = np.array([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]]) @ np.diag([1.0, -1.0])
    other = slide_from_arrays("turned", slide.xy_um @ rotation + 7.0, slide.source.matrix, GENES, RADIUS_UM)
    error = apart(infer(network, mask(other, MASKED, form)), infer(network, mask(slide, MASKED, form)))
    assert error < ALLOWED, f"error {error:.1e}"


@every_form
def test_a_tile_gives_the_output_of_the_whole_slide(form: str) -> None:
    slide, network = make_tissue(300, 400), make_network(form)
    hidden = np.arange(5, 300, 9)
    whole = infer(network, mask(slide, hidden, form))
    core = hidden[slide.xy_um[hidden, 0] < 150]
    tile = Tiler(slide.xy_um, np.arange(300), reach_um(make_recipe(form), RADIUS_UM)).tile(core)
    part = infer(network, mask(slide, np.flatnonzero(np.isin(tile.rows, hidden)), form, tile))
    error = apart(part, [values[np.isin(hidden, core)] for values in whole])
    assert error < ALLOWED, f"error {error:.1e}"


@every_form
def test_every_tensor_is_on_the_device_of_the_network(form: str) -> None:
    """Operations on the `meta` device fail if a tensor is on another device, as on CUDA and MPS; it computes shapes only."""
    network, tile = make_network(form).to(META), mask(make_tissue(), MASKED, form).to(META)
    output = [values for values in network(TorchBackend(), tile) if values is not None]
    assert {values.device for values in output} == {META}
    sum(values.sum() for values in output).backward()
    assert {weight.grad.device for weight in network.parameters() if weight.grad is not None} == {META}


def test_a_tensor_on_another_device_is_detected() -> None:
    """The test above fails if a tensor is on another device."""
    network, tile = make_network("factored").to(META), mask(make_tissue(), MASKED, "factored")
    mixed = replace(tile.to(META), genes=tile.genes, encoder=tile.encoder)
    with pytest.raises(RuntimeError):
        network(TorchBackend(), mixed)
