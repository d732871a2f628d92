"""What a simulation says, in one sentence, and how sure it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from cifm_cli.celltype.base import UNASSIGNED
from cifm_cli.response.summary import may_be_transcripts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

MIN_STABLE: Final = (
    0.9  # share of the cells that keep their type without the edits, below which a trajectory says little
)
_MAX_UNSTABLE: Final = 6  # types that are listed
_NUM_CHANGES: Final = 2  # types in the sentence
_SMALLEST: Final = 0.0005  # change of a fraction that is worth a word


def describe_answer(content: Mapping[str, Any], effects: pd.DataFrame) -> dict[str, Any]:
    """Sum up a simulation.

    Args:
        content: The content of `simulation.json`, with `edits`, `response`, `change`, `stability` and `settings`.
        effects: The table of the response.

    Returns:
        `sentence`, the answer; and `trust`, how far it can be believed, one text per reason.
    """
    title = "; ".join(entry["description"] for entry in content["edits"])
    sentence = f"{title}: {content['response']['sentence']}; {_trajectory(content)}"
    trust = [
        _response_trust(content["response"], effects),
        *_controls(content["response"]),
        *_trajectory_trust(content),
    ]
    return {"sentence": sentence, "trust": trust}


def _trajectory(content: Mapping[str, Any]) -> str:
    """What the trajectory says."""
    if content["stability"]["control"] < MIN_STABLE:
        return "trajectory: not to be interpreted, as the tissue changes without the edits too"
    changes = sorted(content["change"].items(), key=lambda item: -abs(item[1]["difference"]))
    named = [
        (name, own)
        for name, own in changes
        if name != UNASSIGNED and abs(own["difference"]) >= _SMALLEST and not _is_unstable(own)
    ]
    listed = ", ".join(f"{name} {_points(own)}" for name, own in named[:_NUM_CHANGES])
    share = 100 * content["stability"]["changed_by_edits"]
    return f"trajectory: {share:.1f} % of the other cells end as another type" + (f" ({listed})" if listed else "")


def _is_unstable(change: Mapping[str, Any]) -> bool:
    """Whether so many cells of a type lose it without the edits that its change tells nothing about them."""
    return change["kept"] is not None and change["kept"] < MIN_STABLE


def _points(change: Mapping[str, Any]) -> str:
    """A difference in percentage points, with its interval if there is one."""
    text = f"{100 * change['difference']:+.1f} points"
    if change["low"] is None:
        return text
    return f"{text} [{100 * change['low']:+.1f} to {100 * change['high']:+.1f}]"


def _response_trust(response: Mapping[str, Any], effects: pd.DataFrame) -> str:
    marked = int((may_be_transcripts(effects) & effects["called"].astype(bool)).sum())
    share = (
        f", {marked:,} of them of genes that the edited cells express much more, perhaps their transcripts"
        if marked
        else ""
    )
    return (
        f"Response: {response['num_called']:,} of {response['num_tested']:,} effects are called (5 % false discoveries){share}. "
        "They are associations on this slide, adjusted for the labels nearby, and called by a regression without the network; "
        "whether neighbours tell anything on this slide is what cifm simulate --validate measures."
    )


def _controls(response: Mapping[str, Any]) -> list[str]:
    """What the controls of the response call."""
    controls = response.get("controls")
    if controls is None:
        return []
    shuffled, other = controls["shuffled"], controls["other_label"]
    text = (
        f"Controls of the response: {shuffled['num_called']:.1f} effects are called on average ({shuffled['most_called']} at "
        f"most) where the edited label is shuffled over the tissue ({shuffled['num_draws']} draws), "
        f"{controls['void']['num_called']} with void cells, {controls['no_edit']['num_called']} without any edit"
    )
    if not response["num_called"]:
        return [f"{text}."]
    number = other["num_not_specific"]
    return [f"{text}; {number} of the called effects do not differ from those of another label at the same places."]


def _trajectory_trust(content: Mapping[str, Any]) -> Sequence[str]:
    kept, settings = content["stability"]["control"], content["settings"]
    text = f"Trajectory: without the edits {100 * kept:.1f} % of the cells keep their type"
    if kept < MIN_STABLE:
        text += (
            ". The model itself changes the tissue that much, so do not interpret the trajectory; its composition is no "
            "result of the edits."
        )
    elif settings["dynamics"] == "coupled":
        text += ", by construction of the coupled dynamics; this is no evidence that the model is right."
    else:
        text += ": changes of that size are errors of the model."
    unstable = [f"{name} ({100 * own['kept']:.0f} %)" for name, own in content["change"].items() if _is_unstable(own)]
    if unstable and kept >= MIN_STABLE:
        text += (
            " Do not interpret the composition of the types of which fewer than "
            f"{100 * MIN_STABLE:.0f} % keep it without the edits: {', '.join(unstable[:_MAX_UNSTABLE])}."
        )
    replicates = settings["replicates"]
    if replicates == 1:
        return [text, "One replicate cannot separate an effect from chance: compare several with --replicates 5."]
    number = f"Intervals of the composition are over {replicates} replicates"
    return [text, f"{number}; they do not contain the error of the model, which all replicates share."]
