"""Maps from features to the genes of a panel, with weights of full and of low rank."""

from __future__ import annotations

import pytest
import torch

from cifm_cli.errors import CifmError
from cifm_cli.model.gene_maps import GeneOutput
from cifm_cli.model.network import Network
from cifm_cli.recipe import parse

pytestmark = pytest.mark.figures

NUM_GENES, WIDTH, RANK = 50, 12, 3
PANEL = torch.tensor([4, 0, 31])


def count(rank: int | None) -> int:
    return sum(weight.numel() for weight in GeneOutput(WIDTH, NUM_GENES, rank=rank, zero=False).parameters())


def test_low_rank_has_the_parameters_of_the_product() -> None:
    assert count(None) == NUM_GENES * WIDTH + NUM_GENES
    assert count(RANK) == NUM_GENES * RANK + RANK * WIDTH + NUM_GENES


def test_low_rank_equals_full_rank_with_the_product_as_weights() -> None:
    low = GeneOutput(WIDTH, NUM_GENES, rank=RANK, zero=False)
    full = GeneOutput(WIDTH, NUM_GENES, zero=False)
    full.weight.data, full.bias.data = low.weight.data @ low.reduce.weight.data, torch.arange(NUM_GENES) / 7
    low.bias.data = full.bias.data
    h = torch.linspace(-1, 1, 5 * WIDTH).view(5, WIDTH)
    torch.testing.assert_close(low(h, PANEL), full(h, PANEL))
    torch.testing.assert_close(full(h, PANEL)[:, 1], h @ full.weight[0] + full.bias[0])


@pytest.mark.parametrize("rank", [None, RANK])
def test_a_start_at_zero_has_zero_output_and_a_gradient(rank: int | None) -> None:
    output = GeneOutput(WIDTH, NUM_GENES, rank=rank, zero=True)
    values = output(torch.ones(2, WIDTH), PANEL)
    assert not values.any()
    values.sum().backward()
    assert output.weight.grad is not None
    assert output.weight.grad[PANEL].abs().min() > 0


def test_the_recipe_sets_the_rank_of_every_head() -> None:
    def weights(**model: int) -> dict[str, torch.Size]:
        network = Network(NUM_GENES, parse({"model": {"width": WIDTH, **model}}, "test"))
        return {name: weight.shape for name, weight in network.head.named_parameters() if name.startswith("magnitude")}

    assert weights() == {"magnitude.weight": (NUM_GENES, WIDTH), "magnitude.bias": (NUM_GENES,)}
    assert weights(gene_rank=RANK)["magnitude.weight"] == (NUM_GENES, RANK)
    with pytest.raises(CifmError, match=r"model.gene_rank = 13 is above model.width = 12"):
        weights(gene_rank=WIDTH + 1)
