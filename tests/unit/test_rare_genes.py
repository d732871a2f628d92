"""`rare_genes`: P(expressed) and composition of rare genes are shrunk as far as tuning cells bear out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from cifm_cli.inference.adaptation import fit_rare_genes
from cifm_cli.inference.adaptation.fit_rare_genes import fit_rare
from cifm_cli.inference.adaptation.practice import PracticeTile
from cifm_cli.inference.adaptation.rare_genes import RARITY_POWER, RareWeights, shrink_rare
from cifm_cli.inference.adaptation.weights import PRIOR_CELLS
from cifm_cli.inference.hidden_tile import HiddenTile
from cifm_cli.inference.neighbourhood.visible_cells import GeneStats
from cifm_cli.inference.prediction import Prediction
from cifm_cli.provenance import numpy_generator

NUM_CELLS, NUM_GENES, DEPTH = 600, 40, 8.0


def poisson(composition: np.ndarray, depth: float = DEPTH) -> Prediction:
    """What Poisson counts of a composition at a depth give."""
    expressed = (-np.expm1(-depth * composition)).astype(np.float32)
    return Prediction(expressed, expressed, composition.astype(np.float32))


def draw_composition(generator: np.random.Generator, num_cells: int = NUM_CELLS) -> np.ndarray:
    """Random compositions around that of the slide."""
    return generator.dirichlet(np.ones(NUM_GENES), size=num_cells)


def stats_of(counts: np.ndarray) -> GeneStats:
    return GeneStats(np.log1p(counts).mean(axis=0), (counts > 0).mean(axis=0), counts.sum(axis=0))


def noisy(composition: np.ndarray, spread: float, seed: int) -> np.ndarray:
    """Compositions with random errors."""
    found = composition * np.exp(numpy_generator(seed, "noise").normal(0, spread, composition.shape))
    return np.asarray(found / found.sum(axis=1, keepdims=True))


def tissue(spread: float) -> tuple[PracticeTile, np.ndarray]:
    """Cells whose compositions differ from one another by a spread, and these compositions."""
    generator = numpy_generator(0, "tissue")
    usual = np.tile(generator.dirichlet(np.ones(NUM_GENES)), (NUM_CELLS, 1))
    actual = noisy(usual, spread, 1)
    counts = generator.poisson(DEPTH * actual)
    masked: Any = None  # the input of the network, which is not run here
    values = csr_matrix(np.log1p(counts).astype(np.float32))
    tile = PracticeTile(HiddenTile(masked, [poisson(usual)]), stats_of(counts), values, csr_matrix(counts))
    return tile, actual


def take(tile: PracticeTile, cells: slice) -> PracticeTile:
    """Some cells of a tile."""
    rows = np.arange(tile.num_cells)[cells]
    hidden = HiddenTile(tile.hidden.masked, [each.take_cells(rows) for each in tile.circles])
    return PracticeTile(hidden, tile.stats, tile.expression[cells], tile.counts[cells])


@given(of_expressed=st.floats(0, 1), of_composition=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
def test_probabilities_stay_probabilities(of_expressed: float, of_composition: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    stats = stats_of(generator.poisson(generator.exponential(size=NUM_GENES), size=(30, NUM_GENES)))
    prediction, wide = (poisson(draw_composition(generator, 5)) for _ in range(2))
    found = shrink_rare(prediction, wide, stats, RareWeights(of_expressed, of_composition))
    assert found.composition is not None
    assert (found.expressed >= 0).all()
    assert (found.expressed <= 1).all()
    assert (found.composition >= 0).all()
    assert found.composition.sum(axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    assert found.mean is prediction.mean


def test_without_weights_nothing_changes() -> None:
    tile, _ = tissue(0.0)
    prediction = poisson(draw_composition(numpy_generator(1, "prediction")))
    found = shrink_rare(prediction, tile.circles[-1], tile.stats, RareWeights())
    assert np.array_equal(found.expressed, prediction.expressed)
    assert found.composition == pytest.approx(prediction.composition, rel=1e-5)


def test_shrinking_by_hand() -> None:
    """Of two genes that are predicted at 1/2 each, one is expressed by every cell and stays; the other moves."""
    stats = GeneStats(np.ones(2), np.array([1.0, 0.1]), np.array([90.0, 10.0]))
    prediction = Prediction(*(np.full((1, 2), 0.5, np.float32) for _ in range(3)))
    wide = Prediction(*(np.array([each], np.float32) for each in ([1.0, 0.1], [0.999, 0.1], [0.8, 0.2])))
    found = shrink_rare(prediction, wide, stats, RareWeights(0.5, 0.5))
    assert found.composition is not None
    # Rates r of 6.908 and 0.1054, as in profile and circle; 1 - exp(-N r) sum to 1 at N = 0.4457, with 0.0459 for the second.
    rarity = 0.9**RARITY_POWER
    assert found.expressed[0] == pytest.approx([0.5, 0.5 + 0.5 * rarity * (0.0459 - 0.5)], abs=2e-4)
    second = 0.5 + 0.5 * rarity * (0.15 - 0.5)
    assert found.composition[0] == pytest.approx(np.array([0.5, second]) / (0.5 + second), abs=1e-6)


def test_noise_is_shrunk_and_knowledge_is_not() -> None:
    """Where rare genes are expressed by chance, their usual values are best, and otherwise they are worse than the truth."""
    tile, usual = tissue(0.0)
    part = NUM_CELLS / (NUM_CELLS + PRIOR_CELLS)
    found = fit_rare([tile], [poisson(noisy(usual, 1.0, 2))])
    assert found.expressed > 0.5 * part
    assert found.composition > 0.5 * part
    known = tile.counts.toarray() + 0.02
    knowing = Prediction(
        tile.expression.toarray(),
        np.where(tile.counts.toarray() > 0, 0.95, 0.01).astype(np.float32),
        (known / known.sum(axis=1, keepdims=True)).astype(np.float32),
    )
    assert max(fit_rare([tile], [knowing])) < 0.05
    assert fit_rare([], []) == RareWeights()


def test_weights_do_not_depend_on_the_tiles() -> None:
    tile, actual = tissue(0.8)
    prediction = poisson(noisy(actual, 0.5, 3))
    cells = [slice(0, 100), slice(100, NUM_CELLS)]
    rows = np.arange(NUM_CELLS)
    split = fit_rare([take(tile, each) for each in cells], [prediction.take_cells(rows[each]) for each in cells])
    whole = fit_rare([tile], [prediction])
    assert split == pytest.approx(whole, abs=2e-3)
    assert all(0.1 < weight < 0.9 for weight in whole), f"{whole} are at their bounds"


def test_weights_of_many_cells_are_fitted_to_some(monkeypatch: pytest.MonkeyPatch) -> None:
    tile, actual = tissue(0.8)
    prediction = poisson(noisy(actual, 0.5, 3))
    whole = fit_rare([tile], [prediction])
    monkeypatch.setattr(fit_rare_genes, "MAX_VALUES", NUM_CELLS * NUM_GENES // 3)
    assert fit_rare([tile], [prediction]) == pytest.approx(whole, abs=0.2)
    assert fit_rare([tile], [prediction]) != whole
