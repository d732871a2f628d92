"""Parts of the evaluation by hand: comparison, noise ceiling, gene sets, calibration, relation of slide and model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cifm_cli.data.slide import Slide, slide_from_arrays
from cifm_cli.evaluation.comparison import Comparison, favours_model, overall
from cifm_cli.evaluation.dataset import EvaluationDataset
from cifm_cli.evaluation.examples import Targets
from cifm_cli.evaluation.metrics.calibration import by_distance, calibration, distance_bins
from cifm_cli.evaluation.metrics.counts import reliability, split_counts
from cifm_cli.evaluation.metrics.expression import METRICS, Score
from cifm_cli.evaluation.metrics.gene_sets import residual_variance, variance_between_groups
from cifm_cli.evaluation.metrics.noise_ceiling import noise_ceiling
from cifm_cli.evaluation.transfer import describe_transfer, transfer
from cifm_cli.inference.neighbourhood.visible_cells import GeneStats
from cifm_cli.inference.prediction import Prediction
from cifm_cli.provenance import numpy_generator
from cifm_cli.recipe_sections import DataRecipe
from cifm_cli.statistics.bootstrap import Bootstrap, spatial_bootstrap


def score(value: float, spread: float = 0.0) -> Score:
    """Return a score whose metrics are all `value`, with draws within `spread` of it."""
    draws = value + spread * np.linspace(-1, 1, 1_000)
    return Score(dict.fromkeys(METRICS, value), dict.fromkeys(METRICS, draws), {}, {})


COMPARISON = Comparison(
    spatial_bootstrap(numpy_generator(1).uniform(0, 900, (400, 2)), 20.0, seed=0),
    {
        "model": {"mean": score(2.0), "gated": score(3.0)},
        "model:other": {"mean": score(1.0), "gated": score(5.0)},
        "knn": {"mean": score(2.5), "gated": score(4.0)},
        "ridge": {"mean": score(9.0), "gated": score(0.5)},
    },
)


@pytest.mark.parametrize(
    ("metric", "reference", "form", "difference"), [("mse", "ridge", "gated", 1.5), ("auroc", "ridge", "mean", -6)]
)
def test_each_predictor_is_compared_in_its_better_form(
    metric: str, reference: str, form: str, difference: float
) -> None:
    found = COMPARISON.paired(metric)
    assert (found["best_baseline"], found["form"], found["difference"]) == (reference, form, difference)


def test_further_models_are_compared_with_the_best_baseline_and_the_first_model() -> None:
    found = COMPARISON.to_json()["paired_models"]
    assert set(found) == {"model:other"}
    assert found["model:other"]["best_baseline"]["mse"]["difference"] == 1.0 - 0.5
    assert found["model:other"]["model"]["mse"]["difference"] == 1.0 - 2.0
    assert found["model:other"]["model"]["auroc"]["difference"] == 5.0 - 3.0
    assert found["model:other"]["model"]["mse"]["rival"] == "model"


def test_which_side_an_interval_favours() -> None:
    assert favours_model({"low": -2, "high": -1}, "mse") is True
    assert favours_model({"low": -2, "high": -1}, "auroc") is False
    assert favours_model({"low": -2, "high": 1}, "mse") is None
    assert favours_model({"low": -2, "high": -1, "p_holm": 0.049}, "mse") is True
    assert favours_model({"low": -2, "high": -1, "p_holm": 0.05}, "mse") is None


def comparison_of_blocks(num_blocks: int) -> Comparison:
    """The model has an error of 1 in every draw, the only baseline an error of 2."""
    bootstrap = Bootstrap(np.arange(num_blocks), np.ones((1_000, num_blocks)), side_um=100.0)
    return Comparison(bootstrap, {"model": {"mean": score(1.0)}, "knn": {"mean": score(2.0)}})


@pytest.mark.parametrize(("num_blocks", "decision"), [((40, 40), True), ((40, 3), None), ((3, 3), None)])
def test_slides_of_too_few_blocks_leave_the_mean_over_slides_undecided(
    num_blocks: tuple[int, int], decision: bool | None
) -> None:
    paired = overall({"scattered": [comparison_of_blocks(number) for number in num_blocks]}, seed=0)["scattered"]["mse"]
    assert paired["difference"] == -1
    assert favours_model(paired, "mse") is decision
    assert favours_model(comparison_of_blocks(3).paired("mse"), "mse") is None


def test_the_comparison_over_slides_by_hand() -> None:
    """On three slides the model has the errors 1, 1 and 5, the baselines 2 and 4."""
    bootstrap = Bootstrap(np.arange(40), np.ones((1_000, 40)), side_um=100.0)
    values = [(1.0, 2.0, 4.0), (1.0, 4.0, 2.0), (5.0, 2.0, 4.0)]  # of the model, knn and ridge
    names = ("model", "knn", "ridge")
    comparisons = [
        Comparison(bootstrap, {name: {"mean": score(value)} for name, value in zip(names, of_slide, strict=True)})
        for of_slide in values
    ]
    found = overall({"scattered": comparisons}, seed=0, groups=["A", "A", "B"])["scattered"]
    mse = found["mse"]
    assert (mse["best_baseline"], mse["num_slides"], mse["num_groups"], mse["num_better"]) == ("knn", 3, 2, 2)
    assert mse["difference"] == pytest.approx((-1 - 3 + 3) / 3)
    # Two groups: a draw has group A twice (mean of its slides), B twice, or both.
    assert (mse["low"], mse["high"]) == pytest.approx((-2, 3))
    assert mse["percent"]["difference"] == pytest.approx(100 * (-1 / 2 - 3 / 4 + 3 / 2) / 3)
    assert (mse["percent"]["low"], mse["percent"]["high"]) == pytest.approx((-62.5, 150))
    each = mse["each_slide"]  # knn, ridge and knn are best
    assert each["difference"] == pytest.approx((-1 - 1 + 3) / 3)
    assert (each["low"], each["high"], each["num_better"]) == pytest.approx((-1, 3, 2))
    assert found["auroc"]["num_better"] == 1  # higher is better
    assert "percent" not in found["auroc"]


def make_targets(counts: np.ndarray) -> Targets:
    depth = counts.sum(axis=1, keepdims=True)
    values = np.log1p(100 * counts / np.maximum(depth, 1)).astype(np.float32)
    profile = GeneStats(values.mean(axis=0), (counts > 0).mean(axis=0), counts.sum(axis=0))
    return Targets(csr_matrix(counts.astype(np.float32)), values, profile, 100.0)


def test_the_halves_of_the_counts_sum_to_the_counts() -> None:
    counts = csr_matrix(numpy_generator(0).poisson(20, (50, 40)).astype(np.float32))
    first, second = split_counts(counts, seed=1)
    assert (first + second != counts).nnz == 0
    assert first.sum() / counts.sum() == pytest.approx(0.5, abs=0.02)
    assert (split_counts(counts, seed=1)[0] != first).nnz == 0
    assert (split_counts(counts, seed=2)[0] != first).nnz > 0


def test_the_spearman_brown_formula_by_hand() -> None:
    assert reliability(np.array([0.5, 0.0, -0.3, 1.0])) == pytest.approx([2 / 3, 0, 0, 1])


def make_dataset(counts: np.ndarray, columns: np.ndarray) -> EvaluationDataset:
    genes = tuple(f"g{number}" for number in range(counts.shape[1]))
    slide = slide_from_arrays("tissue", np.zeros((len(counts), 2)), csr_matrix(counts.astype(np.float32)), genes, 20.0)
    return EvaluationDataset(slide, columns, target_sum=100.0, radius_um=20.0, reach_um=40.0, seed=0)


def profiles_and_counts() -> tuple[np.ndarray, np.ndarray]:
    generator = numpy_generator(0)
    profiles = generator.gamma(0.3, 1.0, (400, 60))
    profiles /= profiles.sum(axis=1, keepdims=True)
    return profiles, generator.poisson(300 * profiles)


BOOTSTRAP = spatial_bootstrap(numpy_generator(1).uniform(0, 900, (400, 2)), 20.0, seed=0)


@pytest.mark.parametrize("num_scored", [60, 12])
def test_the_ceiling_is_the_correlation_of_the_true_profile(num_scored: int) -> None:
    profiles, counts = profiles_and_counts()
    genes = np.arange(num_scored)
    targets = make_targets(counts).take_genes(genes)
    perfect = np.log1p(100 * profiles[:, genes])
    reached = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(perfect, targets.values, strict=True)])
    found = noise_ceiling(make_dataset(counts, genes), np.arange(400), targets, BOOTSTRAP)
    assert found["pearson_cell"]["ceiling"] == pytest.approx(reached, abs=0.02)
    assert found["pearson_cell"]["half"] < found["pearson_cell"]["ceiling"]
    assert set(found) == set(METRICS)


def test_halves_of_few_genes_are_on_the_scale_of_the_whole_cell() -> None:
    """The halves of a gene do not depend on the other scored genes: the mean over parts equals that of all genes."""
    _, counts = profiles_and_counts()
    everything = np.arange(60)

    def half(genes: np.ndarray) -> float:
        targets = make_targets(counts).take_genes(genes)
        return noise_ceiling(make_dataset(counts, genes), np.arange(400), targets, BOOTSTRAP)["mse"]["half"]

    assert np.mean([half(genes) for genes in np.split(everything, 5)]) == pytest.approx(half(everything), rel=1e-5)


def test_genes_that_mark_groups_are_differential_and_overdispersed_ones_variable() -> None:
    generator = numpy_generator(0)
    group = generator.integers(3, size=600)
    rate = np.full((600, 9), 5.0)
    rate[:, 4] = np.array([1.0, 20.0, 5.0])[group]
    counts = generator.poisson(rate)
    expression = np.log1p(counts)
    assert np.argmax(variance_between_groups(csr_matrix(expression), seed=0)) == 4
    assert np.argmax(residual_variance(csr_matrix(counts))) == 4
    constant = csr_matrix(np.hstack([expression, np.zeros((600, 1))]))
    assert variance_between_groups(constant, seed=0)[-1] == 0


def test_scores_by_distance_by_hand() -> None:
    edges_um, bins = distance_bins(np.array([1.0, 12.0, 3.0, 700.0]), radius_um=20.0)
    assert edges_um == [0.0, 10.0, 320.0]  # in radii: 0, 0.5, 16
    assert bins.tolist() == [0, 1, 0, 2]
    columns = {name: np.array([1.0, 5, 3, 7]) for name in ("mse", "pearson", "spearman", "auroc", "deviance")}
    found = by_distance({"knn": Score({}, {}, columns, {})}, edges_um, bins)
    assert found["num_cells"] == [2, 1, 1]
    assert found["predictors"]["knn"]["mse"] == [2, 5, 7]


def test_calibration_by_hand() -> None:
    targets = make_targets(np.array([[1, 0, 0, 0], [1, 1, 0, 0]]))
    expressed = np.array([[0.95, 0.25, 0.25, 0.0], [0.95, 0.25, 0.25, 0.0]], dtype=np.float32)
    found = calibration(Prediction(expressed, expressed), targets)
    assert found["reliability"]["num_entries"] == [2, 4, 2]
    assert found["reliability"]["predicted"] == pytest.approx([0, 0.25, 0.95])
    assert found["reliability"]["actual"] == [0, 0.25, 1]
    assert found["ece"] == pytest.approx(2 * 0.05 / 8)
    assert found["expressed"]["actual"] == 3 / 8
    assert found["row_sum"]["predicted"] == pytest.approx(1.45)


def slide_of(platform: str, name: str = "new") -> Slide:
    slide = slide_from_arrays(name, np.zeros((1, 2)), csr_matrix(np.ones((1, 1))), ("g",), 20.0)
    return Slide(**{**vars(slide), "facts": {"platform": platform}, "path": Path(f"{name}.h5ad")})


XENIUM = {"inputs": {"prepared/a.h5ad": "aa"}, "platforms": ["xenium"]}
VISIUM = {"inputs": {"prepared/v.h5ad": "vv"}, "platforms": ["visium_hd"]}


@pytest.mark.parametrize(
    ("origin", "digest", "platform", "name", "adaptation"),
    [
        (XENIUM, "aa", "xenium", "in-sample", None),
        (XENIUM, "bb", "xenium", "cross-sample", "zero-shot"),
        (XENIUM, "bb", "visium_hd", "cross-platform", "zero-shot"),
        ({**XENIUM, "init": {"run": "runs/v", **VISIUM}}, "aa", "xenium", "in-sample", "fine-tuned"),
        ({**XENIUM, "init": {"run": "runs/v", **VISIUM}}, "bb", "xenium", "cross-platform", "fine-tuned"),
        ({**XENIUM, "init": {"run": "runs/v", **VISIUM}}, "cc", "visium", "cross-platform", "zero-shot"),
        ({**XENIUM, "init": None}, "aa", "xenium", "in-sample", None),
        ({"inputs": {"prepared/a.h5ad": "aa"}}, "bb", "xenium", "cross-sample", "zero-shot"),
    ],
)
def test_the_relation_of_a_slide_to_a_model(
    origin: dict, digest: str, platform: str, name: str, adaptation: str | None
) -> None:
    facts = transfer(slide_of(platform), digest, origin).facts
    assert (facts["name"], facts["adaptation"]) == (name, adaptation)


@pytest.mark.parametrize(
    ("origin", "digest", "adaptation", "words"),
    [
        (XENIUM, "bb", "adapted", "trained on other slides"),
        (XENIUM, "aa", "adapted", "trained on other regions of this slide"),
        ({**XENIUM, "init": {"run": "runs/v", **VISIUM}}, "aa", "fine-tuned, adapted", "other regions of this slide"),
        ({**XENIUM, "init": {"run": "runs/v", **VISIUM}}, "bb", "fine-tuned, adapted", "part of fine-tuning only"),
    ],
)
def test_a_model_that_is_adapted_to_a_slide(origin: dict, digest: str, adaptation: str, words: str) -> None:
    facts = transfer(slide_of("xenium"), digest, origin, adapt="slide").facts
    assert facts["adaptation"] == adaptation
    assert facts["name"] == transfer(slide_of("xenium"), digest, origin).facts["name"]
    text = describe_transfer(facts)
    assert text.startswith(f"{facts['name']}, {adaptation}: ")
    assert words in text
    assert text.endswith(", and adapted to the visible cells of this slide")


def test_a_slide_without_a_file_is_not_a_training_slide() -> None:
    slide = slide_from_arrays("new", np.zeros((1, 2)), csr_matrix(np.ones((1, 1))), ("g",), 20.0)
    assert transfer(slide, None, XENIUM).facts["name"] == "cross-platform"


def test_a_warning_if_a_training_slide_was_split_in_another_way() -> None:
    (note,) = transfer(slide_of("xenium", "a"), "other", XENIUM).notes
    assert "trained on another file of this name" in note


@pytest.mark.parametrize(
    ("origin", "data", "number", "where"),
    [
        (XENIUM, {}, 2, "(region train of this very file)"),
        (XENIUM, {"validation_slides": ["a"]}, 0, ""),  # the run used the whole slide for validation
        (XENIUM, {"train_regions": "all"}, 4, "(regions train, test, buffer of this very file)"),
        (
            XENIUM,
            {"train_regions": "all", "validation_slides": ["b"]},
            5,
            "(regions train, validation, test, buffer of this very file)",
        ),
        (XENIUM, {"train_regions": "all", "validation_slides": ["a"]}, 0, ""),
        ({**VISIUM, "init": {"run": "runs/x", **XENIUM}}, {}, 2, "(region train of"),
        (
            {**VISIUM, "init": {"run": "runs/x", **XENIUM, "trained_regions": {"prepared/a.h5ad": ["test"]}}},
            {"train_regions": "all"},
            1,
            "(region test of",
        ),
        (  # pretrained on its test region, fine-tuned on its training region
            {**XENIUM, "init": {"run": "runs/x", **XENIUM, "trained_regions": {"prepared/a.h5ad": ["test"]}}},
            {},
            3,
            "(regions train, test of",
        ),
        (VISIUM, {"train_regions": "all"}, 0, ""),
    ],
)
def test_a_warning_if_training_cells_are_scored(origin: dict, data: dict, number: int, where: str) -> None:
    """Rows 0, 1 and 2 are in the training region, 3 in validation, 4 in test, 5 in the buffer; all but 0 are scored."""
    split = np.array([0, 0, 0, 1, 2, 3], dtype=np.int8)
    slide = slide_from_arrays("new", np.zeros((6, 2)), csr_matrix(np.ones((6, 1))), ("g",), 20.0, split=split)
    relation = transfer(slide, "aa", origin, np.arange(1, 6), DataRecipe(**data))
    assert relation.facts["trained_cells_scored"] == number
    warnings = [note for note in relation.notes if f"trained on {number} of the 5 scored cells {where}" in note]
    assert len(warnings) == (number > 0)
    text = describe_transfer(relation.facts)
    assert (f"{number} of the scored cells were training cells of the model" in text) == (number > 0)
    assert ("other regions of this slide" in text) == (relation.facts["name"] == "in-sample" and number == 0)
    assert text.startswith(relation.facts["name"])
