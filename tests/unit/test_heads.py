"""The head of the `residual` objective: dropout, and ensembles of networks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import add_noise, mask_cells
from scipy.sparse import csr_matrix, random_array

from cifm_backends.torch_reference import TorchBackend
from cifm_cli.data.slide import slide_from_arrays
from cifm_cli.model.dropout import Dropout, drawing_from
from cifm_cli.model.ensemble import Ensemble
from cifm_cli.model.gene_profiles import GeneProfiles
from cifm_cli.model.heads import ResidualHead, average_with_detection
from cifm_cli.model.masking import MaskedTile
from cifm_cli.model.output import Output
from cifm_cli.model.slide_parameters import start_parameters
from cifm_cli.provenance import numpy_generator, seeded_torch, torch_generator
from cifm_cli.recipe import Recipe, parse

NUM_GENES, MASKED = 12, np.array([3, 17, 30])


def make_recipe(**model: float) -> Recipe:
    return parse({"model": {"width": 8, "heads": 2, **model}, "objective": {"states": 4}}, "test")


def make_tile(recipe: Recipe) -> MaskedTile:
    generator = numpy_generator(0, "tissue")
    counts = csr_matrix(np.ceil(8 * random_array((60, NUM_GENES), density=0.35, rng=generator).toarray()))
    xy_um = generator.uniform(0, 90, (60, 2))
    slide = slide_from_arrays("tissue", xy_um, counts, tuple(f"ENSG{g:011d}" for g in range(NUM_GENES)), 20.0)
    return mask_cells(slide, MASKED, recipe)


def make_network(recipe: Recipe, *, trained: bool) -> Ensemble:
    with seeded_torch(0, "network"):
        network = Ensemble(NUM_GENES, recipe)
        if trained:
            add_noise(network, 0.3)
    return network


def infer(network: Ensemble, tile: MaskedTile) -> Output:
    with torch.no_grad():
        return network(TorchBackend(), tile)


def test_dropout_preserves_the_mean_and_is_the_identity_in_evaluation() -> None:
    x, dropout = torch.ones(200, 100), Dropout(0.2)
    with seeded_torch(0, "dropout"):
        dropped = dropout.train()(x)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert dropout.eval()(x) is x
    with seeded_torch(0, "dropout"):
        again = dropout.train()(x)
    assert torch.equal(dropped, again), "equal seeds give different masks"


@pytest.mark.parametrize("key", ["dropout", "gene_dropout"])
def test_a_network_with_dropout_predicts_without_it(key: str) -> None:
    plain, dropping = make_recipe(), make_recipe(**{key: 0.5})
    tile = make_tile(plain)
    networks = [make_network(recipe, trained=True) for recipe in (plain, dropping)]
    assert isinstance(networks[1].first.head, ResidualHead)
    inferred = [infer(network.eval(), tile) for network in networks]
    assert torch.equal(inferred[0].magnitude, inferred[1].magnitude)
    trained = [infer(network.train(), tile) for network in networks]
    assert not torch.equal(trained[0].magnitude, trained[1].magnitude)


def test_dropped_genes_are_not_seen() -> None:
    recipe = make_recipe(gene_dropout=0.5)
    tile, network = make_tile(recipe), make_network(recipe, trained=True).first.train()
    with seeded_torch(0, "dropout"):
        dropped = network.embed_expression(tile.expression, tile.genes, None)
    with seeded_torch(0, "dropout"):
        is_seen = torch.rand(tile.expression.values.shape) >= 0.5
    seen = replace(tile.expression, values=2 * tile.expression.values * is_seen)
    assert torch.equal(dropped, network.genes(seen, tile.genes))
    without_counts = ~tile.expression.has_counts
    assert not dropped[without_counts].any()


def test_the_output_of_an_ensemble_is_the_mean_of_its_members() -> None:
    recipe = make_recipe(members=3)
    tile, network = make_tile(recipe), make_network(recipe, trained=True).eval()
    with torch.no_grad():
        outputs = [member(TorchBackend(), tile) for member in network.members]
    assert len(outputs) == 3
    assert not torch.equal(outputs[0].magnitude, outputs[1].magnitude), "two members have equal weights"
    mean = infer(network, tile)
    for name in ("magnitude", "logit", "composition", "state"):
        expected = sum(getattr(output, name) for output in outputs) / 3
        assert torch.allclose(getattr(mean, name), expected, atol=1e-6)


def test_a_trained_network_averages_the_mean_with_the_level_of_expressing_cells_by_hand() -> None:
    """Gene 0 is expressed by a quarter of the cells at level 2, gene 1 by all cells, gene 2 by none."""
    profiles = GeneProfiles(torch.tensor([0.5, 3.0, 0.0]), torch.tensor([0.25, 1.0, 0.0]), torch.full((3,), 1 / 3))
    slide = start_parameters(profiles, torch.zeros(1, 3), torch.ones(1), num_terms=2)
    magnitude, logit = torch.tensor([[1.0, 2.0, 0.5], [-1.0, 2.0, 0.0]]), torch.zeros(2, 3)
    found = average_with_detection(magnitude, logit, slide)
    # 0.4 times 3/4 of the weight is on P(expressed) = 1/2 times the level of 2; a negative mean counts as zero.
    assert found.tolist() == [pytest.approx([0.7 * 1 + 0.3 * 1, 2, 0.5]), pytest.approx([0.3, 2, 0])]


def test_the_average_with_detection_is_not_trained() -> None:
    recipe = make_recipe()
    tile, network = make_tile(recipe), make_network(recipe, trained=True)
    training, trained = infer(network.train(), tile), infer(network.eval(), tile)
    assert torch.equal(training.logit, trained.logit)
    assert not torch.equal(training.magnitude, trained.magnitude)
    assert tile.slide is not None
    assert torch.equal(average_with_detection(training.magnitude, training.logit, tile.slide), trained.magnitude)


@pytest.mark.parametrize("linear_rank", [0, 3])
def test_tiles_with_other_weights_of_the_smoother_are_inferred_as_one_by_one(linear_rank: int) -> None:
    """Bit for bit, with the weights of every term; the network is run once."""
    recipe = make_recipe(members=2)
    recipe = recipe.model_copy(update={"objective": recipe.objective.model_copy(update={"linear_rank": linear_rank})})
    first, network = make_tile(recipe), make_network(recipe, trained=True).eval()
    assert first.slide is not None
    generator = torch_generator(1, "weights")
    names = ("mean_weights", "expressed_weights", "composition_weights", "state_weights")
    drawn = {name: torch.rand(getattr(first.slide, name).shape, generator=generator) for name in names}
    tiles = [first, replace(first, slide=replace(first.slide, **drawn))]
    with torch.no_grad():
        found = network.infer_blends(TorchBackend(), tiles)
    for tile, own in zip(tiles, found, strict=True):
        for name, expected in infer(network, tile)._asdict().items():
            assert torch.equal(getattr(own, name), expected), name
    for name in ("magnitude", "logit", "composition", "state"):
        assert not torch.equal(getattr(found[0], name), getattr(found[1], name)), (
            f"{name} does not depend on the weights"
        )


def test_each_thread_draws_from_its_own_generator() -> None:
    x, dropout = torch.ones(50, 20), Dropout(0.5).train()

    def drop(seed: int) -> torch.Tensor:
        with drawing_from(torch_generator(seed, "dropout")):
            return torch.stack([dropout(x) for _ in range(20)])

    alone = [drop(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(drop, range(4)))
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))
    assert not torch.equal(alone[0], alone[1])
