"""The answer of a simulation and how far to trust it; the strongest effects."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from cifm_cli.response.effect_table import effect_table, strongest_effects
from cifm_cli.simulation import summary
from cifm_cli.simulation.answer import describe_answer
from cifm_cli.simulation.experiment import CONTROL, TREATED, Trajectory

CONTENT = {
    "edits": [{"description": "injecting 5 cells (T cell)"}],
    "response": {"sentence": "response near edited T cell: nothing", "num_called": 0, "num_tested": 10},
    "change": {"ductal cell": {"difference": 0.02, "low": 0.01, "high": 0.03, "kept": 1.0}},
    "stability": {CONTROL: 1.0, TREATED: 0.9, "changed_by_edits": 0.05},
    "settings": {"dynamics": "coupled", "replicates": 2},
}


NO_EFFECTS = pd.DataFrame(columns=["log2_change", "log2_edited_ratio", "called"])


def trajectory(arm: str, replicate: int, *states: list[int]) -> Trajectory:
    return Trajectory(arm, replicate, np.array(states, dtype=np.int16), None)  # type: ignore[arg-type]


def test_the_answer_is_one_sentence_with_the_response_and_the_trajectory() -> None:
    answer = describe_answer(CONTENT, NO_EFFECTS)
    assert answer["sentence"] == (
        "injecting 5 cells (T cell): response near edited T cell: nothing; trajectory: 5.0 % of the other cells end as "
        "another type (ductal cell +2.0 points [+1.0 to +3.0])"
    )
    assert any("no evidence that the model is right" in text for text in answer["trust"])


def test_an_unstable_control_forbids_an_interpretation() -> None:
    content = copy.deepcopy(CONTENT)
    content["stability"][CONTROL] = 0.6
    content["settings"] = {"dynamics": "redraw", "replicates": 1}
    answer = describe_answer(content, NO_EFFECTS)
    assert "ductal" not in answer["sentence"]
    assert "not to be interpreted" in answer["sentence"]
    trust = " ".join(answer["trust"])
    assert "60.0 % of the cells keep their type" in trust
    assert "do not interpret the trajectory" in trust
    assert "--replicates 5" in trust


def test_types_that_are_lost_without_the_edits_are_not_interpreted() -> None:
    """The tissue as a whole is stable, but half of the beta cells become something else in the control too."""
    content = copy.deepcopy(CONTENT)
    content["stability"][CONTROL] = 0.95
    content["change"]["beta cell"] = {"difference": 0.14, "low": 0.1, "high": 0.2, "kept": 0.5}
    answer = describe_answer(content, NO_EFFECTS)
    assert "beta" not in answer["sentence"]
    assert "ductal cell +2.0 points" in answer["sentence"]
    assert any("fewer than 90 % keep it without the edits: beta cell (50 %)." in text for text in answer["trust"])


def test_controls_of_the_response_are_told() -> None:
    content = copy.deepcopy(CONTENT)
    content["response"]["controls"] = {
        "shuffled": {"num_called": 0.5, "most_called": 2, "num_draws": 20},
        "other_label": {"num_called": 3, "num_not_specific": 1},
        "void": {"num_called": 0},
        "no_edit": {"num_called": 0},
    }
    content["response"]["num_called"] = 5
    (told,) = (text for text in describe_answer(content, NO_EFFECTS)["trust"] if text.startswith("Controls"))
    assert "0.5 effects are called on average (2 at most)" in told
    assert told.endswith("1 of the called effects do not differ from those of another label at the same places.")
    # Without called effects there is none to compare.
    content["response"]["num_called"] = 0
    (told,) = (text for text in describe_answer(content, NO_EFFECTS)["trust"] if text.startswith("Controls"))
    assert told.endswith("without any edit.")


def test_stability_counts_cells_and_not_fractions() -> None:
    """Two cells exchange their types in the control, so that the composition does not change."""
    arms = [
        trajectory(CONTROL, 0, [0, 1, 0, 0], [1, 0, 0, 0]),
        trajectory(TREATED, 0, [0, 1, 0, 0], [1, 1, 0, 0]),
    ]
    assert summary.control_drift(arms, ["a", "b"]) == 0
    assert summary.stability(arms) == {CONTROL: 0.5, TREATED: 0.75, "changed_by_edits": 0.25, "replicates": [0.25]}


def test_the_interval_over_replicates_is_students() -> None:
    arms = [
        trajectory(CONTROL, 0, [0, 0, 0, 0], [0, 0, 0, 0]),
        trajectory(TREATED, 0, [0, 0, 0, 0], [0, 0, 0, 1]),
        trajectory(CONTROL, 1, [0, 0, 0, 0], [0, 0, 0, 0]),
        trajectory(TREATED, 1, [0, 0, 0, 0], [0, 1, 1, 1]),
    ]
    change = summary.composition_change(arms, ["a", "b"])["b"]
    margin = student.ppf(0.975, 1) * np.std([0.25, 0.75], ddof=1) / np.sqrt(2)
    assert (change["low"], change["high"]) == pytest.approx((0.5 - margin, 0.5 + margin))
    table = summary.change_frame(summary.composition_change(arms, ["a", "b"])).set_index("cell_type")
    assert table.loc["b", "high"] == change["high"]
    assert summary.change_frame(summary.composition_change(arms[:2], ["a", "b"]))["low"].isna().all()


def test_the_strongest_effects_are_those_whose_interval_is_farthest_from_zero() -> None:
    effects = pd.DataFrame(
        {
            "gene": ["wide", "narrow", "narrow", "not called"], "gene_id": ["1", "2", "2", "3"], "label": "a",
            "band_low_um": [0, 0, 20, 0], "band_high_um": [20, 20, 40, 20], "log2_change": [3.0, 1.0, -0.5, 9.0],
            "low": [0.1, 0.9, -0.6, 8.0], "high": [5.9, 1.1, -0.4, 10.0], "called": [True, True, True, False],
            "mean_shift": 0.5, "association_share": [0.25, np.nan, 0.0, 0.0], "num_residents": 12, "support": 1234,
            "log2_edited_ratio": [3.0, 1.0, 1.0, 3.0],
        }
    )  # fmt: skip
    assert strongest_effects(effects, 5)["gene"].tolist() == ["narrow", "wide"]
    trust = describe_answer(CONTENT, effects)["trust"][0]
    assert "1 of them of genes that the edited cells express much more" in trust
    louder = effects.drop(index=2).assign(log2_edited_ratio=[0.0, 3.0, 0.0])
    assert strongest_effects(louder, 5)["gene"].tolist() == ["wide", "narrow"]  # perhaps transcripts, so last
    table = effect_table(effects, 5)
    assert table.rows[0] == ["narrow", "a", "0-20 µm", "+1.00", "+0.90 to +1.10", "+0.50", "-", "12", "1,234", ""]
    assert table.rows[1][-1] == "perhaps transcripts of the edited cells"
    more = effects.assign(
        shuffled=0.3, other_label="B", other_change=[0.1, 0.2, np.nan, 0.0], other_p=0.01, difference_p=0.2,
        model_log2_change=np.nan,
    )  # fmt: skip
    assert effect_table(more, 5).rows[0][5:8] == ["±0.30", "+0.20 (B)", "-"]
    assert [row[-1] for row in effect_table(more, 5).rows] == [
        "not specific",
        "perhaps transcripts of the edited cells; not specific",
    ]
    # By the rule of the controls: without a change by the other label, or with another one, an effect is not called unspecific.
    for specific in (more.assign(other_p=0.2), more.assign(difference_p=0.01)):
        assert [row[-1] for row in effect_table(specific, 5).rows] == ["", "perhaps transcripts of the edited cells"]
