"""Outputs of the network for weights set by formula, which changes of the code must preserve."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from builders import mask_cells
from scipy.sparse import csr_matrix

from cifm_backends.torch_reference import TorchBackend
from cifm_cli.data.slide import slide_from_arrays
from cifm_cli.model.network import Network
from cifm_cli.model.slide_parameters import SlideParameters
from cifm_cli.recipe import parse

if TYPE_CHECKING:
    from collections.abc import Callable

NUM_CELLS, NUM_GENES = 24, 6
RECIPES = {
    "factored": {"model": {"width": 8, "heads": 2, "self_loops": True}},
    "literal": {
        "model": {"message": "mlp", "width": 8, "mlp_layers": 3, "residual": False, "self_loops": True},
        "objective": {"name": "balanced_mse"},
    },
}


def formula_parameters(like: SlideParameters) -> SlideParameters:
    """Parameters of the same shapes with positive values by formula."""
    return SlideParameters(
        **{
            name: (torch.arange(tensor.numel(), dtype=torch.float64).reshape(tensor.shape) % 7 + number + 1) / 20
            for number, (name, tensor) in enumerate(like.tensors().items())
        }
    )


@pytest.mark.parametrize("form", RECIPES)
def test_network_numbers(form: str, golden: Callable[[str, object], object]) -> None:
    recipe = parse(RECIPES[form], form)
    grid = np.stack(np.divmod(np.arange(NUM_CELLS), 6), axis=1) * 11.0
    counts = csr_matrix(np.arange(NUM_CELLS * NUM_GENES).reshape(NUM_CELLS, NUM_GENES) * 7 % 5)
    slide = slide_from_arrays("grid", grid, counts, tuple(f"gene{g}" for g in range(NUM_GENES)), 20.0)
    network = Network(NUM_GENES, recipe).double()
    with torch.no_grad():
        for number, weight in enumerate(network.parameters()):
            values = torch.arange(weight.numel(), dtype=torch.float64)
            weight.copy_(0.4 * torch.sin(values * 1.7 + number).reshape(weight.shape))
    ready = mask_cells(slide, np.array([7, 14]), recipe, torch.float64)
    if ready.slide:
        ready = replace(ready, slide=formula_parameters(ready.slide))
    with torch.no_grad():
        output = network(TorchBackend(), ready)
    outputs = {name: values for name, values in output._asdict().items() if values is not None and name != "profiles"}
    computed = {name: values.tolist() for name, values in outputs.items()}
    expected = golden(f"network_{form}", computed)
    for name, values in computed.items():
        assert np.asarray(values) == pytest.approx(np.asarray(expected[name]), rel=1e-9), name
