"""Products of cells with weights: in bfloat16, rows are padded, and nothing of that shows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cifm_cli.model.precision import computing_in
from cifm_cli.model.products import ROWS, Linear, product
from cifm_cli.provenance import seeded_torch

CPU = torch.device("cpu")


def gradients(x: torch.Tensor, weight: torch.Tensor, upstream: torch.Tensor) -> list[torch.Tensor]:
    """A product in bfloat16, and the gradients of its sum with `upstream`."""
    with computing_in("bfloat16", CPU):
        y = product(x, weight)
    return [y.detach(), *torch.autograd.grad(y, [x, weight], upstream.to(y.dtype))]


@pytest.mark.parametrize("num_cells", [0, 1, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS - 5])
def test_padding_changes_neither_product_nor_gradients(num_cells: int) -> None:
    generator = torch.Generator().manual_seed(num_cells)
    # Small integers: all products and sums are exact in bfloat16 and in float32.
    x = torch.randint(-2, 3, (num_cells, 6), generator=generator).float().requires_grad_()
    weight = torch.randint(-2, 3, (5, 6), generator=generator).float().requires_grad_()
    upstream = torch.zeros(num_cells, 5)
    upstream[-3:] = 1.0  # few rows, so that the gradient of a weight stays small
    y, of_x, of_weight = gradients(x, weight, upstream)
    assert y.dtype == torch.bfloat16
    assert of_x.dtype == of_weight.dtype == torch.float32
    assert torch.equal(y.float(), (x @ weight.T).detach())
    assert torch.equal(of_x, (upstream @ weight).detach())
    assert torch.equal(of_weight, (upstream.T @ x).detach())


def test_the_rows_of_other_cells_change_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(300, 64, generator=generator), torch.randn(32, 64, generator=generator)
    with computing_in("bfloat16", CPU):
        assert torch.equal(product(x, weight)[:ROWS], product(x[:ROWS], weight))


def test_leading_dimensions_are_kept_and_single_precision_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(3, 7, 8, generator=generator), torch.randn(4, 8, generator=generator)
    expected = nn.functional.linear(x, weight)
    assert torch.equal(product(x, weight), expected)
    with computing_in("bfloat16", CPU):
        half = product(x, weight)
    assert half.shape == expected.shape
    error = (half.float() - expected).abs().max()
    assert error < 0.05 * expected.abs().max(), error


@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_map_starts_and_maps_like_that_of_torch(bias: bool) -> None:
    with seeded_torch(0, "weights"):
        ours = Linear(6, 4, bias=bias)
    with seeded_torch(0, "weights"):
        theirs = nn.Linear(6, 4, bias=bias)
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-6, atol=1e-6)
    assert ours.state_dict().keys() == theirs.state_dict().keys()


def test_no_gradient_is_computed_for_an_input_without() -> None:
    weight = torch.ones(2, 3, requires_grad=True)
    with computing_in("bfloat16", CPU):
        y = product(torch.ones(4, 3), weight)
    (of_weight,) = torch.autograd.grad(y.float().sum(), weight)
    assert torch.equal(of_weight, torch.full((2, 3), 4.0))
