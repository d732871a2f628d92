"""Muon: orthogonal steps of matrices, the steps of AdamW for all other weights, and its states."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cifm_cli.model.ensemble import Ensemble
from cifm_cli.provenance import seeded_torch
from cifm_cli.recipe import parse
from cifm_cli.recipe_sections import TrainRecipe
from cifm_cli.training.muon import INTERVAL, MOMENTUM, ORTHOGONAL, RMS, Muon, as_blocks, orthogonalise
from cifm_cli.training.optimiser import make_optimiser


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 24), (2, 24, 8)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_singular_values_come_near_one_and_vectors_stay(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    u, s, v = torch.linalg.svd(draw(*shape), full_matrices=False)
    matrices = u @ torch.diag_embed(s.clamp(min=0.05 * s.max())) @ v
    found = orthogonalise(matrices.to(dtype)).double()
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6, values.min()
    assert values.max() < 1.3, values.max()
    # bfloat16 has a relative error of 4e-3, which the iterations amplify.
    tolerance = 0.1 if dtype == torch.bfloat16 else 1e-5
    rotated = u.mT @ found @ v.mT  # diagonal if the singular vectors are the same
    off = rotated - torch.diag_embed(rotated.diagonal(dim1=1, dim2=2))
    assert off.abs().max() < tolerance, off.abs().max()


def test_a_step_has_no_scale_and_zero_stays_zero() -> None:
    matrices = draw(2, 6, 6)
    torch.testing.assert_close(orthogonalise(1e3 * matrices), orthogonalise(matrices), rtol=1e-4, atol=1e-6)
    assert not orthogonalise(torch.zeros(2, 4, 6)).any()


def test_maps_one_below_the_other_are_orthogonalised_each() -> None:
    weight = torch.nn.Parameter(draw(12, 4).float())
    weight.grad = draw(12, 4, seed=1).float()
    before = weight.detach().clone()
    optimiser = Muon([{"params": [weight], "weight_decay": 0.5, ORTHOGONAL: True}], lr=0.1)
    optimiser.step()
    # After one step from a momentum of zero, the direction is that of the gradient.
    blocks = weight.grad.view(3, 4, 4)
    rate = INTERVAL * 0.1  # it stands for the next gradients too
    expected = before * (1 - rate * 0.5) - rate * RMS * 2 * orthogonalise(blocks).view(12, 4)
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-5, atol=1e-6)
    assert as_blocks(torch.empty(2, 4, 12)).shape == (2, 4, 12)
    torch.testing.assert_close(optimiser.state[weight]["exp_avg"], (1 - MOMENTUM) * weight.grad)


def test_matrices_take_a_step_for_several_gradients() -> None:
    weight = torch.nn.Parameter(draw(4, 4).float())
    optimiser = Muon([{"params": [weight], "weight_decay": 0.0, ORTHOGONAL: True}], lr=0.1)
    average, moved = torch.zeros(4, 4), []
    for number in range(2 * INTERVAL + 1):
        weight.grad = draw(4, 4, seed=number).float()
        average = torch.lerp(average, weight.grad, 1 - MOMENTUM)
        before = weight.detach().clone()
        optimiser.step()
        # No gradient is lost: all of them enter the momentum.
        torch.testing.assert_close(optimiser.state[weight]["exp_avg"], average)
        moved.append(not torch.equal(weight, before))
    assert moved == [number % INTERVAL == 0 for number in range(2 * INTERVAL + 1)]


def test_other_weights_take_the_steps_of_adamw() -> None:
    ours, theirs = (torch.nn.Parameter(draw(5).float()) for _ in range(2))
    matrix = torch.nn.Parameter(draw(3, 3).float())
    frozen = matrix.detach().clone()
    options = {"lr": 0.1, "betas": (0.9, 0.98)}
    muon = Muon(
        [
            {"params": [ours], "weight_decay": 0.1, ORTHOGONAL: False},
            {"params": [matrix], "weight_decay": 0.1, ORTHOGONAL: True},
        ],
        **options,
    )
    adamw = torch.optim.AdamW([{"params": [theirs], "weight_decay": 0.1}], **options)
    for seed in range(3):
        ours.grad = theirs.grad = draw(5, seed=seed).float()
        muon.step()
        adamw.step()
    assert torch.equal(ours, theirs)
    assert torch.equal(matrix, frozen)  # without a gradient it stays


def test_only_maps_between_features_take_orthogonal_steps() -> None:
    recipe = parse(
        {"model": {"width": 8, "heads": 2, "members": 2}, "objective": {"name": "residual", "states": 3}}, "test"
    )
    with seeded_torch(0, "network"):
        network = Ensemble(5, recipe)
    optimiser = make_optimiser(network, TrainRecipe(optimiser="muon"))
    orthogonal = {id(w) for group in optimiser.param_groups if group[ORTHOGONAL] for w in group["params"]}
    names = {name for name, weight in network.named_parameters() if id(weight) in orthogonal}
    assert "members.1.decoder.0.project.weight" in names
    assert "members.0.head.means.weight" in names
    assert not {name for name in names if "genes" in name or "radial" in name or "magnitude" in name or "bias" in name}
    assert sum(len(group["params"]) for group in optimiser.param_groups) == len(list(network.parameters()))
    # Vectors of genes do not decay; AdamW decays all matrices.
    assert all(bool(group["weight_decay"]) == group[ORTHOGONAL] for group in optimiser.param_groups)
    adamw = make_optimiser(network, TrainRecipe())
    assert not any(group[ORTHOGONAL] for group in adamw.param_groups)


@pytest.mark.parametrize("shares_cores", [False, True])
def test_a_step_does_not_depend_on_the_number_of_threads(shares_cores: bool) -> None:
    shapes = [(16, 16), (16, 16), (32, 8), (8, 24)]

    def weights_after(num_threads: int) -> list[Tensor]:
        weights = [torch.nn.Parameter(draw(*shape, seed=n).float()) for n, shape in enumerate([*shapes, (40, 16)])]
        groups = [
            {"params": weights[:-1], "weight_decay": 0.1, ORTHOGONAL: True},
            {"params": weights[-1:], "weight_decay": 0.0, ORTHOGONAL: False},
        ]
        optimiser = Muon(groups, lr=0.1, shares_cores=shares_cores)
        before = torch.get_num_threads()
        torch.set_num_threads(num_threads)
        try:
            for step in range(3):
                for n, weight in enumerate(weights):
                    weight.grad = draw(*weight.shape, seed=10 * step + n).float()
                optimiser.step()
                assert torch.get_num_threads() == num_threads
        finally:
            torch.set_num_threads(before)
        return [weight.detach() for weight in weights]

    for one, several in zip(weights_after(1), weights_after(3), strict=True):
        assert torch.equal(one, several)
