"""The parts of a probe on small tissues, checked by hand, and whole probes of embeddings with a known signal."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from embedded_tissue import PITCH_UM, RADIUS_UM, SIDE, make_slide
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from cifm_cli import keys
from cifm_cli.embedding.classifier import ProbeCells, cross_validate
from cifm_cli.embedding.evidence import describe_evidence, format_interval
from cifm_cli.embedding.features import neighbour_weights
from cifm_cli.embedding.folds import (
    Groups,
    block_groups,
    grouped_folds,
    least_length_um,
    sample_groups,
    section_length_um,
    strip_groups,
)
from cifm_cli.embedding.labels import read_labels
from cifm_cli.embedding.probe import choose_cells, probe_slides
from cifm_cli.embedding.scoring import BALANCED_ACCURACY, ROC_AUC, resample_groups, score, with_interval
from cifm_cli.errors import CifmError

# Neighbours ----------------------------------------------------------------------------------------------------------


def test_the_neighbourhood_is_the_other_cells_within_the_radius() -> None:
    """a--b--c      d     10 um between a, b and c; radius 20 um: a, b and c are neighbours (a and c at the radius)."""
    xy_um = np.array([[0.0, 0], [10, 0], [20, 0], [90, 0]])
    weights = neighbour_weights(xy_um, np.array([0, 1, 3]), 20.0).toarray()
    assert weights.tolist() == [[0, 0.5, 0.5, 0], [0.5, 0, 0.5, 0], [0, 0, 0, 0]]


def test_a_cell_is_not_its_own_neighbour() -> None:
    weights = neighbour_weights(np.zeros((3, 2)), np.array([1]), 5.0).toarray()
    assert weights.tolist() == [[0.5, 0, 0.5]]


# Groups and folds ----------------------------------------------------------------------------------------------------


def test_blocks_are_squares_of_at_least_ten_radii() -> None:
    """With a radius of 1 um, blocks begin at 0 and 10 um."""
    xy_um = np.array([[0.0, 0], [9, 9], [11, 0], [11, 12], [12, 11]])
    groups = block_groups(xy_um, radius_um=1.0, buffer_um=0.0)
    assert groups.block_um == 10.0
    assert groups.ids.tolist() == [0, 0, 1, 2, 2]


def test_sections_of_one_sample_are_one_group() -> None:
    assert sample_groups(np.array(["p1", "p2", "p1"], dtype=object)).ids.tolist() == [0, 1, 0]


@settings(max_examples=40)
@given(seed=st.integers(0, 1_000), num_groups=st.integers(2, 12), num_folds=st.integers(2, 6))
def test_groups_are_never_split(seed: int, num_groups: int, num_folds: int) -> None:
    r = np.random.default_rng(seed)
    ids = np.unique(np.concatenate([np.arange(num_groups), r.integers(0, num_groups, 200)]), return_inverse=True)[1]
    codes = r.integers(0, 2, len(ids))
    splits = list(grouped_folds(codes, Groups("sample", ids), np.zeros((len(ids), 2)), num_folds, seed))
    assert len(splits) >= 2
    assert sorted(np.concatenate([test for _, test in splits]).tolist()) == list(range(len(ids)))
    for train, test in splits:
        assert not set(ids[train]) & set(ids[test])


def test_as_many_folds_as_samples_leave_one_sample_out() -> None:
    """One sample has nearly all cells of both classes."""
    ids = np.repeat(np.arange(4), [500, 2, 2, 2])
    codes = np.arange(len(ids)) % 2
    splits = list(grouped_folds(codes, Groups("sample", ids), np.zeros((len(ids), 2)), 20, 0))
    assert [set(ids[test].tolist()) for _, test in splits] == [{0}, {1}, {2}, {3}]
    assert all(len(train) + len(test) == len(ids) for train, test in splits)


def test_training_cells_are_outside_the_buffer() -> None:
    slide = make_slide()
    groups = block_groups(slide.xy_um, RADIUS_UM, buffer_um=50.0)
    dropped = 0
    for train, test in grouped_folds(np.arange(slide.num_cells) % 3, groups, slide.xy_um, 4, 0):
        distance_um = np.linalg.norm(slide.xy_um[train][:, None] - slide.xy_um[test][None], axis=2).min()
        assert distance_um > 50.0
        dropped += slide.num_cells - len(train) - len(test)
    assert dropped > 0


@settings(max_examples=30)
@given(seed=st.integers(0, 1_000), num_strips=st.integers(2, 6), angle=st.floats(0, 3.1), buffer_um=st.floats(1, 30))
def test_strips_are_apart_and_cover_every_cell(seed: int, num_strips: int, angle: float, buffer_um: float) -> None:
    """On a tissue of 200 x 50 um at any angle, which is long enough for strips with this buffer."""
    xy_um = np.random.default_rng(seed).uniform(0, [200, 50], (300, 2))
    xy_um = xy_um @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    groups = strip_groups(xy_um, num_strips, buffer_um)
    assert np.ptp(np.bincount(groups.ids, minlength=num_strips)) <= 1
    assert section_length_um(xy_um) == pytest.approx(200, abs=15)
    splits = list(grouped_folds(np.arange(300) % 2, groups, xy_um, num_strips, 0))
    assert [set(groups.ids[test].tolist()) for _, test in splits] == [{strip} for strip in range(num_strips)]
    for train, test in splits:
        apart_um = np.linalg.norm(xy_um[train][:, None] - xy_um[test][None], axis=2)
        assert apart_um.min() > buffer_um
        assert len(train) > 0


def test_the_least_length_is_where_the_middle_strip_leaves_nothing() -> None:
    """Five strips of L/5 each: beside the middle one are 2 L/5, which a buffer of 20 um fills if L is 50 um."""
    assert [least_length_um(num, 20.0) for num in (2, 3, 4, 5)] == [40, 60, 40, 50]
    for length_um, left in ((49.0, 0), (52.0, 2)):
        xy_um = np.stack([np.linspace(0, length_um, 500), np.zeros(500)], axis=1)
        middle = list(grouped_folds(np.arange(500) % 2, strip_groups(xy_um, 5, 20.0), xy_um, 5, 0))[2]
        assert len({xy_um[cell, 0] > length_um / 2 for cell in middle[0]}) == left


# Scores --------------------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(seed=st.integers(0, 1_000))
def test_resampled_scores_are_those_of_repeated_cells(seed: int) -> None:
    """Weights of groups are equivalent to copies of their cells; compared with scikit-learn on the copies."""
    r = np.random.default_rng(seed)
    codes, groups = np.concatenate([np.arange(3), r.integers(0, 3, 57)]), r.integers(0, 5, 60)
    probabilities = np.round(r.dirichlet(np.ones(3), 60), 1)
    weights = np.array([[1, 1, 1, 1, 1], [2, 0, 1, 1, 1]])
    scores = score(probabilities, codes, groups, np.zeros(5, dtype=int), weights.astype(float))
    for resample, weight in enumerate(weights):
        rows = np.repeat(np.arange(60), weight[groups])
        occurring = [k for k in range(3) if (codes[rows] == k).any()]
        areas = [roc_auc_score(codes[rows] == k, probabilities[rows, k]) for k in occurring]
        expected = (
            balanced_accuracy_score(codes[rows], probabilities.argmax(axis=1)[rows]) if len(occurring) == 3 else None
        )
        assert scores[ROC_AUC][resample] == pytest.approx(np.mean(areas))
        assert expected is None or scores[BALANCED_ACCURACY][resample] == pytest.approx(expected)


def test_cells_of_different_folds_are_not_ranked_against_each_other() -> None:
    """The classifiers of two folds differ by an offset, and each ranks its own two cells correctly."""
    scores = np.array([0.1, 0.2, 0.8, 0.9])
    probabilities, codes, groups = (
        np.stack([1 - scores, scores], axis=1),
        np.array([0, 1, 0, 1]),
        np.array([0, 0, 1, 1]),
    )
    separate, pooled = (
        score(probabilities, codes, groups, np.array(f), np.ones((1, 2)))[ROC_AUC] for f in ([0, 1], [0, 0])
    )
    assert separate.tolist() == [1.0]
    assert pooled.tolist() == [0.75]


def test_an_interval_of_identical_groups_is_a_point() -> None:
    probabilities = np.tile([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]], (4, 1))
    codes, groups = np.tile([0, 0, 1], 4), np.repeat(np.arange(4), 3)
    found = with_interval(score(probabilities, codes, groups, np.arange(4), resample_groups(4, 0))[BALANCED_ACCURACY])
    assert found == pytest.approx({"value": 0.75, "low": 0.75, "high": 0.75})


# Labels --------------------------------------------------------------------------------------------------------------


def test_labels_may_be_missing() -> None:
    slide = make_slide()
    slide.obs["kind"] = slide.obs["kind"].astype(object)
    slide.obs.loc[[0, 1, 2, 3], "kind"] = [np.nan, "", "unlabelled", "Unannotated"]
    assert read_labels([slide], "kind")[:4].tolist() == [None] * 4
    assert choose_cells([slide], "kind", 10_000, 0).left_out["missing"] == 4


def test_a_column_that_one_slide_lacks_is_missing_there() -> None:
    first, second = make_slide("s", sample="s"), make_slide("t", sample="t")
    del second.obs["kind"]
    assert set(read_labels([first, second], "kind")[first.num_cells :]) == {None}


def test_rare_classes_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    slide = make_slide()
    slide.obs["kind"] = slide.obs["kind"].astype(object)
    slide.obs.loc[:4, "kind"] = "few"
    corner = np.flatnonzero((slide.xy_um < 5 * PITCH_UM).all(axis=1))[5:]
    slide.obs.loc[corner, "kind"] = "corner"  # 20 cells, all in one block
    task = choose_cells([slide], "kind", 10_000, 0)
    assert task.left_out["rare"] == {"few": 5, "corner": 20}
    assert task.labels.classes == ("a", "b", "c")
    assert "corner, few" in caplog.text


def test_larger_data_are_sampled_by_seed() -> None:
    first, again, other = (choose_cells([make_slide()], "kind", 500, seed) for seed in (0, 0, 1))
    assert len(first.labels.codes) == 500
    assert first.left_out["sampled"] == SIDE * SIDE - 500
    assert np.array_equal(first.rows[0], again.rows[0])
    assert not np.array_equal(first.rows[0], other.rows[0])


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("nothing", "no such column in s"),
        ("area", "different values"),
        ("condition", "no values"),
        ("sample", "one class"),
    ],
)
def test_a_label_that_cannot_be_probed_is_refused(column: str, message: str) -> None:
    with pytest.raises(CifmError, match=message) as caught:
        read_labels([make_slide()], column)
    assert caught.value.hint == "columns that can serve as labels: kind"


def test_a_condition_is_probed_across_slides() -> None:
    slides = [make_slide(f"s{i}", sample=f"s{i}", condition=("tumour", "normal")[i % 2], seed=i) for i in range(4)]
    task = choose_cells(slides, "condition", 1_000, 0)
    assert task.labels.classes == ("normal", "tumour")
    assert task.groups.unit == "sample"
    assert [slide.num_cells for slide in slides] == [SIDE * SIDE] * 4
    for slide, rows in zip(slides, task.rows, strict=True):
        assert 0 <= rows.min() <= rows.max() < slide.num_cells


def test_slides_of_one_sample_cannot_be_held_out() -> None:
    with pytest.raises(CifmError, match="all slides are of one sample, p"):
        choose_cells([make_slide("s", sample="p"), make_slide("t", sample="p")], "kind", 1_000, 0)


def test_slides_of_different_models_are_refused() -> None:
    first, second = make_slide("s", sample="s"), make_slide("t", sample="t")
    second.origin["model"]["sha256"] = "other"
    with pytest.raises(CifmError, match="s and t were embedded by different models"):
        probe_slides([first, second], "kind", num_folds=2, max_cells=500, seed=0)


# Whole probes --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def probed():
    return probe_slides([make_slide(signal=30.0)], "kind", num_folds=4, max_cells=10_000, seed=0)


def test_features_that_determine_the_label_have_perfect_scores(probed) -> None:
    found = probed.content["features"][keys.MICROENVIRONMENT]
    for metric in (ROC_AUC, BALANCED_ACCURACY):
        assert found[metric]["value"] == pytest.approx(1.0, abs=1e-3)


def test_noise_has_scores_of_chance(probed) -> None:
    found = probed.content["features"][keys.CELL][ROC_AUC]
    assert found["low"] < 0.5 < found["high"]
    assert found["high"] - found["low"] < 0.2


def test_the_majority_has_exactly_the_scores_of_chance(probed) -> None:
    found = probed.content["features"]["majority"]
    assert found[ROC_AUC] == pytest.approx({"value": 0.5, "low": 0.5, "high": 0.5})
    assert found[BALANCED_ACCURACY]["value"] == pytest.approx(1 / 3)


def test_own_expression_predicts_a_random_kind_and_neighbours_do_not(probed) -> None:
    features = probed.content["features"]
    assert features["expression"][ROC_AUC]["low"] > 0.7
    assert features["neighbourhood_average"][ROC_AUC]["low"] < 0.5 < features["neighbourhood_average"][ROC_AUC]["high"]


def test_embeddings_are_compared_with_the_best_baseline(probed) -> None:
    pair = probed.content["paired"][keys.MICROENVIRONMENT][ROC_AUC]
    features = probed.content["features"]
    best = pair["best_baseline"]
    assert best in {"expression", "expression_and_neighbourhood"}
    expected = features[keys.MICROENVIRONMENT][ROC_AUC]["value"] - features[best][ROC_AUC]["value"]
    assert pair["difference"] == pytest.approx(expected)
    assert 0 < pair["low"] <= pair["difference"] <= pair["high"]


def test_constant_features_have_scores_of_chance_across_samples() -> None:
    """Folds differ in the frequencies of the classes, which must not raise or lower the score of constant features."""
    slides = [make_slide(f"s{i}", sample=f"s{i}", condition=("tumour", "normal")[i % 2], seed=i) for i in range(5)]
    for slide in slides:
        slide.embeddings[keys.CELL][:] = 1.0
    content = probe_slides(slides, "condition", num_folds=5, max_cells=1_000, seed=0).content
    assert content["folds"] == 2
    found = content["features"][keys.CELL]
    assert found[ROC_AUC]["value"] == 0.5
    assert found[BALANCED_ACCURACY]["value"] == 0.5


def test_the_same_seed_gives_the_same_numbers(probed) -> None:
    again = probe_slides([make_slide(signal=30.0)], "kind", num_folds=4, max_cells=10_000, seed=0)
    assert again.content == probed.content


def test_classes_without_training_cells_have_probability_zero() -> None:
    codes = np.array([0, 1] * 10 + [2] * 5)
    cells = ProbeCells(codes, Groups("sample", np.repeat([0, 1], [20, 5])), np.zeros((25, 2)), 3)
    values = np.random.default_rng(0).normal(size=(25, 2)).astype(np.float32)
    result = cross_validate(values, cells, [(np.arange(20), np.arange(20, 25))], seed=0)
    assert (result.probabilities[20:, 2] == 0).all()
    assert result.probabilities[20:].sum(axis=1) == pytest.approx(1.0)


def test_wide_features_are_reduced_on_training_cells_only() -> None:
    """Columns in which only held-out cells have values cannot change the predictions."""
    r = np.random.default_rng(0)
    codes, ids = np.tile([0, 1], 60), np.repeat(np.arange(12), 10)
    wide = np.zeros((120, 1_200), dtype=np.float32)
    wide[:, :50] = r.normal(size=(120, 50)) + codes[:, None]
    leaking = wide.copy()
    leaking[100:, 1_000:] = 50.0
    cells = ProbeCells(codes, Groups("sample", ids), np.zeros((120, 2)), 2)
    split = [(np.arange(100), np.arange(100, 120))]
    plain, leaked = (cross_validate(csr_matrix(values), cells, split, seed=0) for values in (wide, leaking))
    assert np.allclose(plain.probabilities, leaked.probabilities, atol=1e-4)
    assert (plain.probabilities[100:].argmax(axis=1) == codes[100:]).mean() > 0.8


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        (
            {"unit": "block", "number": 2},
            "2 blocks of tissue are too few to tell it from the best baseline, expression",
        ),
        (
            {"unit": "block", "number": 40},
            "better than the best baseline, expression, with 0.366, no better than chance",
        ),
        (
            {"unit": "sample", "number": 8},
            "better than the best baseline, expression, with 0.366, no better than chance",
        ),
    ],
)
def test_a_few_blocks_decide_nothing(probed, groups: dict[str, object], says: str) -> None:
    content = copy.deepcopy(probed.content)
    name, pairs = next(iter(content["paired"].items()))
    pairs["roc_auc"] |= {"best_baseline": "expression", "difference": 0.256, "low": 0.144, "high": 0.256}
    content["features"][name]["roc_auc"] = {"value": 0.622, "low": 0.622, "high": 0.766}
    content["features"]["expression"]["roc_auc"] = {"value": 0.366, "low": 0.366, "high": 0.622}
    content["groups"] |= groups
    assert says in describe_evidence(content)["answer"]


def test_a_difference_that_rounds_to_zero_has_no_minus() -> None:
    assert format_interval({"difference": -0.0001, "low": -0.0004, "high": 0.0}, sign="+") == "+0.000 [+0.000, +0.000]"
    assert format_interval({"value": -0.0001, "low": None, "high": None}) == "0.000 (no interval)"
