"""Probes across slides: the sides, their cells, what is computed of them, and what is said about the evidence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from embedded_tissue import make_slide
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score

from cifm_cli import keys
from cifm_cli.embedding.calibration import reliability
from cifm_cli.embedding.classifier import principal_components
from cifm_cli.embedding.evidence import FEW_SAMPLES
from cifm_cli.embedding.labels import LabelChoice, encode_labels, read_labels
from cifm_cli.embedding.probe import ProbeConfig, choose_cells, run_probe
from cifm_cli.embedding.probe_cells import _sample_evenly
from cifm_cli.embedding.scoring import BALANCED_ACCURACY, BRIER, ROC_AUC, brier, resample_groups
from cifm_cli.embedding.sides import choose_sides
from cifm_cli.embedding.slide_scores import class_of_slides, permutation_p_value
from cifm_cli.errors import CifmError

KIND = LabelChoice("kind")


def make_slides(number: int = 4, *, signal: float = 2.0, side: int = 16, shift: float = 0.0):
    """Slides s0, s1, ..., each a sample; even ones are normal, odd ones tumours, whose embedding is shifted."""
    slides = [
        make_slide(f"s{i}", sample=f"p{i}", condition=("normal", "tumour")[i % 2], signal=signal, seed=i, side=side)
        for i in range(number)
    ]
    for i, slide in enumerate(slides):
        slide.embeddings[keys.MICROENVIRONMENT][:, 3] += shift * (i % 2)
        slide.facts[keys.PLATFORM] = "visium" if i < number // 2 else "xenium"
    return slides


# Sides ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train_on", "test_on", "train", "test", "unused"),
    [
        (["s0", "s1"], ["s3"], ["s0", "s1"], ["s3"], ["s2"]),
        (["visium"], [], ["s0", "s1"], ["s2", "s3"], []),
        ([], ["p3"], ["s0", "s1", "s2"], ["s3"], []),
        (["vis*", "p2"], ["s?"], ["s0", "s1", "s2"], [], []),
    ],
)
def test_sides_are_named_by_slide_sample_or_platform(train_on, test_on, train, test, unused) -> None:
    slides = make_slides(side=3)
    if not test:
        with pytest.raises(CifmError, match="slide s0 is on both sides: a random split"):
            choose_sides(slides, train_on, test_on)
        return
    sides = choose_sides(slides, train_on, test_on)
    assert [[slide.name for slide in side] for side in (sides.train, sides.test, sides.unused)] == [train, test, unused]


def test_a_name_that_is_nothing_lists_the_names() -> None:
    with pytest.raises(CifmError, match="--train-on cosmx: no slide, sample or platform") as caught:
        choose_sides(make_slides(side=3), ["cosmx"], [])
    assert caught.value.hint == "there are slides: s0, s1, s2, s3; samples: p0, p1, p2, p3; platforms: visium, xenium"


def test_names_are_not_only_patterns() -> None:
    slides = [replace(slide, name=name) for slide, name in zip(make_slides(2, side=3), ("a[1]", "a1"), strict=True)]
    assert [slide.name for slide in choose_sides(slides, ["a[1]"], ["p1"]).train] == ["a[1]"]
    slides[0].facts[keys.PLATFORM] = ""
    with pytest.raises(CifmError, match="--train-on : no slide, sample or platform"):
        choose_sides(slides, [""], [])


def test_a_side_without_slides_is_refused() -> None:
    with pytest.raises(CifmError, match="--test-on names all slides"):
        choose_sides(make_slides(side=3), [], ["*"])


def test_sections_of_one_sample_are_on_one_side() -> None:
    slides = make_slides(2, side=3)
    slides[1].facts[keys.SAMPLE] = "p0"
    with pytest.raises(CifmError, match="s0 and s1 are of one sample, p0, and on different sides"):
        choose_sides(slides, ["s0"], ["s1"])


# Cells ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6), max_cells=st.integers(6, 200), seed=st.integers(0, 9)
)
def test_slides_are_sampled_evenly(sizes: list[int], max_cells: int, seed: int) -> None:
    """No slide gives fewer cells than another, unless it has no more."""
    slide_of = np.repeat(np.arange(len(sizes)), sizes)
    cells = 3 * np.arange(len(slide_of))
    kept = _sample_evenly(cells, slide_of, max_cells, np.random.default_rng(seed))
    assert (np.diff(kept) > 0).all()
    assert set(kept.tolist()) <= set(cells.tolist())
    taken = np.bincount(slide_of[kept // 3], minlength=len(sizes))
    assert len(kept) <= max_cells
    assert len(kept) > min(max_cells, len(cells)) - len(sizes)
    assert (taken == np.minimum(sizes, taken.max())).all()


def test_classes_need_cells_on_both_sides() -> None:
    slides = make_slides(2, side=10)
    slides[1].obs["kind"] = slides[1].obs["kind"].astype(object)
    slides[1].obs.loc[slides[1].obs["kind"] == "c", "kind"] = None
    task = choose_cells(slides, KIND, 1_000, 0, choose_sides(slides, ["s0"], ["s1"]))
    assert task.labels.classes == ("a", "b")
    assert set(task.left_out["rare"]) == {"c"}
    slides[1].obs["kind"] = "a"
    with pytest.raises(CifmError, match="fewer than two classes have 20 cells on both sides") as caught:
        choose_cells(slides, KIND, 1_000, 0, choose_sides(slides, ["s0"], ["s1"]))
    assert "for the test: a 100, b 0, c 0" in caught.value.hint


def test_one_class_against_all_others() -> None:
    slide = make_slide(side=6)
    choice = LabelChoice("kind", positive="b", ignore=("c",))
    labels = read_labels([slide], choice)
    kinds = slide.obs["kind"].astype(str).to_numpy()
    assert set(labels[kinds == "c"]) == {None}
    assert set(labels[kinds == "a"]) == {"not b"}
    encoded = encode_labels(choice, labels[labels != None])  # noqa: E711
    assert encoded.classes == ("not b", "b")
    assert (encoded.codes == (kinds[kinds != "c"] == "b")).all()


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (LabelChoice("kind", positive="d"), "no class 'd'"),
        (LabelChoice("kind", ignore=("",)), "no class ''"),
        (LabelChoice("kind", positive="a", ignore=("a",)), "both --positive and --ignore"),
        (LabelChoice("kind", ignore=("a", "b")), "one class"),
    ],
)
def test_classes_that_cannot_be_chosen(choice: LabelChoice, message: str) -> None:
    with pytest.raises(CifmError, match=message):
        read_labels([make_slide(side=6)], choice)


# Numbers -------------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1_000), num_classes=st.integers(2, 4))
def test_the_brier_score_is_that_of_scikit_learn(seed: int, num_classes: int) -> None:
    r = np.random.default_rng(seed)
    codes = np.concatenate([np.arange(num_classes), r.integers(0, num_classes, 40)])
    probabilities = r.dirichlet(np.ones(num_classes), len(codes))
    groups = r.integers(0, 3, len(codes))
    weights = np.array([[1.0, 1, 1], [0, 1, 2]])
    for weight, value in zip(weights, brier(probabilities, codes, groups, weights), strict=True):
        rows = np.repeat(np.arange(len(codes)), weight[groups].astype(int))
        by_class = [brier_score_loss(codes[rows] == k, probabilities[rows, k]) for k in range(num_classes)]
        assert value == pytest.approx(sum(by_class) / 2)


def test_reliability_by_hand() -> None:
    """Two cells with 0.05, one of them of the class; two with 1.0, both of it."""
    second = np.array([0.05, 0.05, 1.0, 1.0])
    found = reliability(np.stack([1 - second, second], axis=1), np.array([0, 1, 1, 1]))
    assert [list(each.values()) for each in found["bins"]] == [
        [pytest.approx(0.05), 0.5, 2],
        [pytest.approx(1.0), 1.0, 2],
    ]
    assert found["expected_error"] == pytest.approx(0.45 / 2)


def test_the_p_value_counts_assignments() -> None:
    """Two normal slides below two tumours: one of the six assignments of the classes ranks them as well."""
    second = np.array([0.1, 0.2, 0.8, 0.9])
    probabilities = np.stack([1 - second, second], axis=1)
    assert permutation_p_value(probabilities, np.array([0, 0, 1, 1]), 0) == pytest.approx(1 / 6)
    assert permutation_p_value(probabilities, np.array([1, 1, 0, 0]), 0) == 1.0


def test_the_p_value_of_many_slides_is_drawn() -> None:
    second = np.linspace(0.1, 0.9, 12)
    codes = np.repeat([0, 1], 6)
    probabilities = np.stack([1 - second, second], axis=1)
    assert permutation_p_value(probabilities, codes, 0) == pytest.approx(1 / 924, abs=1e-3)
    assert permutation_p_value(np.full((12, 2), 0.5), codes, 0) == 1.0


def test_slides_of_several_classes_have_none() -> None:
    assert class_of_slides(np.array([2, 2, 1]), np.array([0, 0, 1])).tolist() == [2, 1]
    assert class_of_slides(np.array([2, 1, 1]), np.array([0, 0, 1])) is None
    assert class_of_slides(np.array([2, 2]), np.array([0, 0])) is None


def test_draws_by_class_contain_every_class() -> None:
    strata = np.array([0, 0, 0, 1, 1])
    draws = resample_groups(5, 0, strata)
    assert (draws[:, strata == 0].sum(axis=1) == 3).all()
    assert (draws[:, strata == 1].sum(axis=1) == 2).all()


@pytest.mark.parametrize("num_features", [40, 1_200])
def test_principal_components_are_those_of_the_training_cells(num_features: int) -> None:
    r = np.random.default_rng(0)
    train, test = r.normal(size=(60, num_features)).astype(np.float32), r.normal(size=(9, num_features))
    mean = train.mean(axis=0)
    _, _, axes = np.linalg.svd(train - mean, full_matrices=False)
    found, of_test = principal_components(train, test, 5, seed=0)
    assert np.abs(found) == pytest.approx(np.abs((train - mean) @ axes[:5].T), abs=1e-3)
    assert np.abs(of_test) == pytest.approx(np.abs((test - mean) @ axes[:5].T), abs=1e-3)


# Whole probes --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def across():
    config = ProbeConfig(KIND, train_on=("s0", "s1", "s2"), test_on=("s3", "s4"), seed=0)
    return run_probe(make_slides(5), config)


def test_scores_are_those_of_the_test_slides(across) -> None:
    content = across.content
    assert content["design"] == "train_and_test"
    assert content["sides"]["train"]["samples"] == ["p0", "p1", "p2"]
    assert [slide["slide"] for slide in content["by_slide"]] == ["s3", "s4"]
    assert content["groups"] == {"unit": "sample", "number": 2, "block_um": None, "buffer_um": 0.0}
    probabilities, codes = across.probabilities[keys.MICROENVIRONMENT], across.labels.codes
    assert len(codes) == content["sides"]["test"]["cells"] == 2 * 16 * 16
    found = content["features"][keys.MICROENVIRONMENT]
    assert found[ROC_AUC]["value"] == pytest.approx(roc_auc_score(codes, probabilities, multi_class="ovr"))
    assert found[ROC_AUC]["low"] < found[ROC_AUC]["value"] < found[ROC_AUC]["high"]
    for slide, rows in zip(content["by_slide"], np.split(np.arange(len(codes)), 2), strict=True):
        expected = roc_auc_score(codes[rows], probabilities[rows], multi_class="ovr")
        assert slide["features"][keys.MICROENVIRONMENT][ROC_AUC] == pytest.approx(expected)


def test_labels_of_test_cells_do_not_change_the_classifier(across) -> None:
    slides = make_slides(5)
    for slide in slides[3:]:
        slide.obs["kind"] = np.random.default_rng(7).permutation(slide.obs["kind"])
    again = run_probe(slides, ProbeConfig(KIND, train_on=("s0", "s1", "s2"), test_on=("s3", "s4"), seed=0))
    for name in across.probabilities:
        assert np.array_equal(across.probabilities[name], again.probabilities[name])
    assert again.content["features"][keys.MICROENVIRONMENT][ROC_AUC]["value"] < 0.6


def test_other_slides_do_not_change_the_classifier(across) -> None:
    some = run_probe(make_slides(5)[:4], ProbeConfig(KIND, train_on=("s0", "s1", "s2"), test_on=("s3",), seed=0))
    rows = slice(0, 256)
    for name in (keys.MICROENVIRONMENT, "neighbourhood_pca"):
        assert np.allclose(across.probabilities[name][rows], some.probabilities[name])
    assert some.content["groups"]["unit"] == "block"
    assert "all tested cells are of one sample" in some.content["evidence"]["remarks"][0].lower()


def test_conditions_are_predicted_of_slides() -> None:
    slides = make_slides(8, shift=3.0, side=8)
    choice = LabelChoice("condition", positive="tumour")
    content = run_probe(slides, ProbeConfig(choice, train_on=("visium",), test_on=("xenium",))).content
    found = content["features"][keys.MICROENVIRONMENT]
    assert found[ROC_AUC]["value"] > 0.9
    assert found["slides"] == {ROC_AUC: {"value": 1.0, "low": None, "high": None}, "p": pytest.approx(1 / 6)}
    assert found[BRIER]["value"] < content["features"]["majority"][BRIER]["value"] == pytest.approx(0.25)
    by_slide = {each["slide"]: each["features"][keys.MICROENVIRONMENT] for each in content["by_slide"]}
    assert by_slide["s4"]["mean_probability"]["tumour"] < 0.5 < by_slide["s5"]["mean_probability"]["tumour"]
    assert by_slide["s4"][ROC_AUC] is None
    remarks = " ".join(content["evidence"]["remarks"])
    assert "2 not tumour and 2 tumour for training, 2 not tumour and 2 tumour for the test" in remarks
    assert "Slides, not cells, are the evidence" in remarks


def test_one_slide_of_a_class_gives_no_interval() -> None:
    slides = make_slides(5, shift=3.0, side=8)
    slides[4].facts[keys.CONDITION] = "normal"
    config = ProbeConfig(LabelChoice("condition"), train_on=("s0", "s1"), test_on=("s2", "s3", "s4"))
    content = run_probe(slides, config).content
    found = content["features"][keys.MICROENVIRONMENT]
    assert found[ROC_AUC]["value"] > 0.9
    assert found[ROC_AUC]["low"] is found[ROC_AUC]["high"] is None
    assert content["paired"][keys.MICROENVIRONMENT][BALANCED_ACCURACY]["low"] is None
    assert "too few samples for an interval" in content["evidence"]["answer"]
    remarks = " ".join(content["evidence"]["remarks"])
    assert "normal, tumour occur in a single sample each" in remarks


def test_a_platform_for_each_class_is_told() -> None:
    slides = make_slides(6, shift=3.0, side=8)
    for i, slide in enumerate(slides):
        slide.facts[keys.PLATFORM] = ("visium", "xenium")[i % 2]
    config = ProbeConfig(LabelChoice("condition"), train_on=("s0", "s1", "s2", "s3"))
    assert "no platform has slides of every class" in " ".join(run_probe(slides, config).content["evidence"]["remarks"])


@pytest.mark.parametrize("number", [FEW_SAMPLES - 1, FEW_SAMPLES])
def test_few_samples_are_told(number: int) -> None:
    slides = make_slides(2 * number, side=7)
    remarks = run_probe(slides, ProbeConfig(KIND, train_on=("visium",))).content["evidence"]["remarks"]
    assert any("Slides, not cells, are the evidence" in remark for remark in remarks) == (number < FEW_SAMPLES)


def test_sections_of_one_training_sample_are_divided_into_blocks() -> None:
    slides = make_slides(3)
    first = replace(slides[1], facts={**slides[1].facts, keys.SAMPLE: "p0"})
    task = choose_cells(
        [slides[0], first, slides[2]], KIND, 1_000, 0, choose_sides([slides[0], first, slides[2]], ["p0"], [])
    )
    assert task.groups.unit == "block"
    of_slide = [set(task.groups.ids[task.slide_of_cell == i].tolist()) for i in range(3)]
    assert not of_slide[0] & of_slide[1]
    assert len(of_slide[0]) > 1
    xy_um = task.cells.xy_um
    gap_um = np.linalg.norm(
        xy_um[task.slide_of_cell == 0][:, None] - xy_um[task.slide_of_cell == 1][None], axis=2
    ).min()
    assert gap_um > task.groups.buffer_um
