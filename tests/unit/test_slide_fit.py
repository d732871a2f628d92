"""What is fitted before the first step: weights of logarithmic pools, and weights of the smoother."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cifm_cli.model.slide_fit import PRIOR_COUNTS, choose_weights, fit_pool
from cifm_cli.model.smoother import LeastSquares
from cifm_cli.provenance import numpy_generator


def test_a_pool_gives_its_weight_to_the_true_distribution() -> None:
    """The counts are drawn from the first of two distributions; the other one is unrelated."""
    generator = numpy_generator(0, "pool")
    true, other = (generator.dirichlet(np.ones(8), 200) for _ in range(2))
    seen = np.stack([generator.multinomial(50, probability) for probability in true])
    logs = torch.from_numpy(np.log(np.stack([true, other], axis=1))).float()
    weights = fit_pool([(logs, torch.from_numpy(seen).float())], 1e-4).softmax(0)
    assert weights[0].item() == pytest.approx(1, abs=0.03)


def test_decay_keeps_the_weights_of_a_pool_equal() -> None:
    generator = numpy_generator(0, "pool")
    true, other = (generator.dirichlet(np.ones(8), 200) for _ in range(2))
    logs = torch.from_numpy(np.log(np.stack([true, other], axis=1))).float()
    even, free = (fit_pool([(logs, torch.from_numpy(true).float())], decay).softmax(0)[0] for decay in (100.0, 0.0))
    assert even.item() == pytest.approx(0.5, abs=0.01)
    assert free.item() > 0.95


def test_a_pool_of_equal_distributions_has_equal_weights() -> None:
    generator = numpy_generator(0, "pool")
    true = generator.dirichlet(np.ones(5), 50)
    logs = torch.from_numpy(np.log(np.stack([true, true, true], axis=1))).float()
    assert fit_pool([(logs, torch.from_numpy(true).float())], 1e-4).softmax(0).numpy() == pytest.approx(
        np.full(3, 1 / 3)
    )


@pytest.mark.parametrize("genes_differ", [True, False])
def test_the_shrinkage_of_gene_weights_is_chosen_on_validation_tiles(*, genes_differ: bool) -> None:
    """Many cells with little noise show that genes differ; a few noisy ones do not."""
    generator = numpy_generator(0, "weights")
    num_genes = 40
    cells, noise = (2_000, 0.1) if genes_differ else (20, 3.0)
    planted = generator.uniform(0, 1, (2, num_genes)) if genes_differ else np.full((2, num_genes), 0.5)
    genes = torch.arange(num_genes)

    def draw(number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        terms = generator.normal(size=(number, 2, num_genes))
        target = np.einsum("mtp,tp->mp", terms, planted) + noise * generator.normal(size=(number, num_genes))
        return torch.from_numpy(terms).float(), torch.from_numpy(target).float(), genes

    fit = LeastSquares(2, num_genes)
    fit.add(*draw(cells))
    chosen = choose_weights(fit, [draw(2_000)])
    expected = fit.solve(PRIOR_COUNTS[0] if genes_differ else PRIOR_COUNTS[-1])
    assert torch.equal(chosen, expected)
    assert np.abs(chosen.numpy() - planted).max() < 0.2
