"""The verdict of an evaluation: who wins, in which words, and when no difference is shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cifm_cli.evaluation.comparison import Comparison
from cifm_cli.evaluation.metrics.expression import LOWER_IS_BETTER, METRICS, Score
from cifm_cli.evaluation.report.words import words_section
from cifm_cli.evaluation.verdict import METRIC_NAMES, describe_decision, describe_verdict
from cifm_cli.statistics.bootstrap import Bootstrap


def score(error: float) -> Score:
    """All measures that are better when lower are `error`, the others 1 / `error`; every draw is the value itself."""
    values = {metric: error if metric in LOWER_IS_BETTER else 1 / error for metric in METRICS}
    return Score(values, {metric: np.full(1_000, value) for metric, value in values.items()}, {}, {})


def metrics_of(errors: dict[str, float], num_blocks: int = 40, trained: int = 0) -> dict[str, Any]:
    """`metrics.json` of one slide on which each predictor has an error."""
    bootstrap = Bootstrap(np.arange(num_blocks), np.ones((1_000, num_blocks)), side_um=100.0)
    comparison = Comparison(bootstrap, {name: {"mean": score(error)} for name, error in errors.items()})
    of_slide = {
        "geometries": {"scattered": {"blocks": {"num": num_blocks}, **comparison.to_json()}},
        "warnings": ["something is odd"] if trained else [],
        "scenario": {name: {"trained_cells_scored": trained} for name in errors if name.startswith("model")},
    }
    return {"slides": {"tissue": of_slide}}


def test_a_model_that_wins() -> None:
    verdict = describe_verdict(metrics_of({"model": 1.5, "knn": 3.0, "ridge": 2.0}))
    assert verdict["sentence"] == (
        "tissue: the model predicts hidden cells better than every baseline: its squared error is 25.00 % [25.00 to 25.00] below "
        "that of ridge (scattered, p = 0.022)."
    )
    facts = verdict["models"]["model"]["scattered"]
    assert (facts["decision"], facts["best_predictor"], facts["best_baseline"]) == ("better", "model", "ridge")
    assert (facts["difference"], facts["percent"]["difference"]) == (-0.5, -25.0)
    assert set(facts["measures"].values()) == {"better"}
    assert verdict["remarks"][0].startswith("The model, scattered: better on 11 of 11 measures.")


def test_a_model_that_loses() -> None:
    verdict = describe_verdict(metrics_of({"model": 2.5, "ridge": 2.0}))
    assert "the model predicts hidden cells worse than the best baseline" in verdict["sentence"]
    assert "its squared error is 25.00 % [25.00 to 25.00] above that of ridge (scattered" in verdict["sentence"]
    assert verdict["models"]["model"]["scattered"]["best_predictor"] == "ridge"
    assert "better on 0 of 11 measures; worse on squared error, balanced squared error" in verdict["remarks"][0]


@pytest.mark.parametrize("name", ["zeros", "uniform", "bernoulli"])
def test_constants_and_random_draws_are_never_the_best_baseline(name: str) -> None:
    facts = describe_verdict(metrics_of({"model": 1.5, "ridge": 2.0, name: 0.5}))["models"]["model"]["scattered"]
    assert (facts["best_predictor"], facts["best_baseline"]) == ("model", "ridge")


def test_too_few_blocks_show_no_difference() -> None:
    verdict = describe_verdict(metrics_of({"model": 1.0, "ridge": 2.0}, num_blocks=5))
    assert "is not shown to predict hidden cells better or worse than the best baseline" in verdict["sentence"]
    assert "differs by -50.00 % [-50.00 to +0.00] from that of ridge (scattered, p = 1.000)" in verdict["sentence"]
    assert any("too few spatial blocks to decide anything: scattered (5)" in remark for remark in verdict["remarks"])


def test_training_cells_are_in_the_first_sentence() -> None:
    verdict = describe_verdict(metrics_of({"model": 1.0, "ridge": 2.0}, trained=1_234))
    assert "But the model was trained on 1,234 of the scored cells" in verdict["sentence"]
    assert verdict["trained_cells_scored"] == {"model": 1_234}
    assert "tissue: something is odd." in verdict["remarks"]


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ({"low": -2, "high": -1, "p_holm": 0.022}, "better"),
        ({"low": 1, "high": 2, "p_holm": 0.022, "constant": "zeros"}, "worse"),
        ({"low": -1, "high": 1, "p_holm": 0.4, "constant": "zeros"}, "no difference shown"),
        ({"low": -2, "high": -1, "p_holm": 0.08}, "no difference shown (corrected p not below 0.05)"),
        ({"low": -2, "high": -1, "p_holm": 0.022, "constant": "zeros"}, "no difference shown (zeros scores better)"),
    ],
)
def test_a_decision_that_interval_and_p_do_not_explain_has_its_reason(pair: dict[str, Any], words: str) -> None:
    assert describe_decision(pair, "mse") == words


def test_each_model_has_a_verdict() -> None:
    verdict = describe_verdict(metrics_of({"model": 1.5, "model:other": 2.5, "ridge": 2.0}))
    decisions = {name: facts["scattered"]["decision"] for name, facts in verdict["models"].items()}
    assert decisions == {"model": "better", "model:other": "worse"}
    assert "model:other predicts hidden cells worse than the best baseline" in verdict["sentence"]


@pytest.mark.parametrize(
    ("region", "opening"),
    [
        ({"model": 1.5, "ridge": 2.0}, "better than every baseline: its"),
        ({"model": 2.0, "ridge": 2.0}, "better than every baseline in one way of hiding them only: its"),
        ({"model": 2.5, "ridge": 2.0}, "better or worse than the best baseline, depending on how they are hidden: its"),
    ],
)
def test_several_geometries_have_one_verdict_in_one_sentence(region: dict[str, float], opening: str) -> None:
    metrics = metrics_of({"model": 1.5, "ridge": 2.0})
    metrics["slides"]["tissue"]["geometries"]["region"] = metrics_of(region)["slides"]["tissue"]["geometries"][
        "scattered"
    ]
    sentence = describe_verdict(metrics)["sentence"]
    assert sentence.startswith(f"tissue: the model predicts hidden cells {opening}")
    assert (
        sentence.count("the model"),
        sentence.count(". "),
        sentence.count("(scattered, p"),
        sentence.count("(region, p"),
    ) == (1, 0, 1, 1)


def test_every_measure_has_a_name_and_an_explanation() -> None:
    assert set(METRIC_NAMES) == set(METRICS)
    table = words_section().table
    assert table is not None
    explained = {row[0] for row in table.rows}
    assert set(METRIC_NAMES.values()) <= explained


def test_a_measure_that_a_constant_wins_does_not_make_a_model_better() -> None:
    verdict = describe_verdict(metrics_of({"model": 1.5, "zeros": 1.0, "ridge": 2.0}))
    facts = verdict["models"]["model"]["scattered"]
    assert set(facts["measures"].values()) == {"no difference shown"}
    assert set(facts["won_by_constants"]) == set(METRICS)
    assert "a constant or random draws score better than it on squared error, " in verdict["remarks"][0]
    assert "from that of ridge (scattered, p = 0.022: zeros scores better)" in verdict["sentence"]
    worse = describe_verdict(metrics_of({"model": 2.5, "zeros": 1.0, "ridge": 2.0}))["models"]["model"]["scattered"]
    assert set(worse["measures"].values()) == {"worse"}
    others = describe_verdict(metrics_of({"model": 1.5, "zeros": 3.0, "ridge": 2.0}))["models"]["model"]["scattered"]
    assert (set(others["measures"].values()), others["won_by_constants"]) == ({"better"}, [])
